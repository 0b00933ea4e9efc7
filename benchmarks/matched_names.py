"""Features of two sets side by side, one to one, each with one that is on as often.

Rare features are easier to name than frequent ones, so a set of rarer features looks better than it
is (arXiv 2509.25596). Pairs are those of least total difference in the logarithm of activity, as
many as there can be whose activities differ by less than `MOST_OCTAVES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from bitcodec_naming import FeatureName, Names

MOST_OCTAVES = 0.25
"""By which the activities of a pair differ, in powers of 2: by a factor of 1.19."""
N_SAMPLES = 2000
"""Bootstrap samples of pairs, with seed 0."""
THRESHOLDS = (0.6, 0.7, 0.8, 0.9)
"""Scores from which on a feature may be called interpretable."""
_NEVER = 1e6
"""The cost of a pair that may not be: more than all others together."""

Pairs = list[tuple[FeatureName, FeatureName]]


@dataclass(frozen=True)
class Difference:
    """What two sets reach on the features of their pairs."""

    left: float
    """Mean over the first set's."""
    right: float
    """Mean over the second's."""
    low: float
    """Lower end of the 95% bootstrap interval of left - right; pairs are resampled."""
    high: float
    """Upper end."""


def activity_pairs(left: Names, right: Names) -> Pairs:
    """Pair features of two sets that are on about as often, each at most once.

    Args:
        left: names of the first set.
        right: names of the second, by the same judge with the same numbers of contexts.

    Returns:
        The pairs, in the order of the first set; none where the sets share no activity.
    """
    first, second = (np.log2([name.activity for name in side.names]) for side in (left, right))
    apart = np.abs(first[:, None] - second)
    rows, columns = linear_sum_assignment(np.where(apart <= MOST_OCTAVES, apart, _NEVER))
    allowed = apart[rows, columns] <= MOST_OCTAVES
    return [
        (left.names[row], right.names[column])
        for row, column in zip(rows[allowed], columns[allowed], strict=True)
    ]


def difference(left: np.ndarray, right: np.ndarray) -> Difference:
    """Compare paired values by their means, with an interval.

    Args:
        left: (m,) numbers or truths, at least one.
        right: (m,).
    """
    apart = left.astype(np.float64) - right
    draws = np.random.default_rng(0).integers(len(apart), size=(N_SAMPLES, len(apart)))
    low, high = np.percentile(apart[draws].mean(axis=1), (2.5, 97.5))
    return Difference(float(left.mean()), float(right.mean()), float(low), float(high))


def matched_figures(left: Names, right: Names) -> dict[str, Any]:
    """Return what the results say of two sets at equal activity.

    The file format is this dictionary: `score` is the difference of mean scores, `shares` that of
    the shares of features whose score reaches a threshold, `octaves` how much more often the first
    set's features are on after all, as a mean of log2.
    """
    pairs = activity_pairs(left, right)
    if not pairs:
        return {"pairs": 0}
    sides = list(zip(*pairs, strict=True))
    ours, theirs = (np.array([name.verdict.score for name in side]) for side in sides)
    octaves = [np.log2([name.activity for name in side]).mean() for side in sides]
    reached = {
        str(threshold): difference(ours >= threshold, theirs >= threshold)
        for threshold in THRESHOLDS
    }
    return {
        "pairs": len(pairs),
        "octaves": float(octaves[0] - octaves[1]),
        "score": vars(difference(ours, theirs)),
        "shares": {threshold: vars(found) for threshold, found in reached.items()},
    }
