"""Two sets of features side by side, as they are and at equal activity.

Rare features are easier to name than frequent ones, so a set of rarer features looks more
interpretable than it is (arXiv 2509.25596 found so of sparse codes). Matched counts compare only
features that have a partner of like activity in the other set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitcodec_naming.names import THRESHOLDS, Names

BINS_PER_OCTAVE = 2
"""Features of one bin differ in activity by a factor of at most 2^(1/2)."""
N_SAMPLES = 2000
"""Bootstrap samples, with seed 0."""


@dataclass(frozen=True)
class MatchedCount:
    """Features of two sets whose score reaches a threshold, at equal activity."""

    threshold: float
    """Least score."""
    n_matched: int
    """Features of each set that are compared."""
    left: float
    """How many of them reach it in the first set, on average over all ways to match."""
    right: float
    """How many in the second."""
    low: float
    """Lower end of the 95% bootstrap interval of the difference left - right, as a share of the
    matched features; features of both sets are resampled, and matched anew."""
    high: float
    """Upper end."""


def matched_counts(
    left: Names, right: Names, thresholds: Sequence[float] = THRESHOLDS
) -> tuple[MatchedCount, ...]:
    """Count interpretable features of two sets at equal activity.

    Of the features in each bin of log2 activity as many are compared as the smaller set has there;
    which ones is averaged over.

    Args:
        left: names of the first set.
        right: names of the second, by the same judge with the same numbers of contexts, for the
            scores to mean the same.
        thresholds: least scores.

    Returns:
        A count for each threshold; all of 0 features where the sets share no activity.
    """
    first, second = _table(left), _table(right)
    generator = np.random.default_rng(0)
    drawn = [
        _matched(_resampled(first, generator), _resampled(second, generator), thresholds)
        for _ in range(N_SAMPLES)
    ]
    shares = np.array([(counts[0] - counts[1]) / max(1, n) for n, counts in drawn])
    low, high = np.percentile(shares, (2.5, 97.5), axis=0)
    n_matched, counts = _matched(first, second, thresholds)
    return tuple(
        MatchedCount(
            threshold=threshold,
            n_matched=n_matched,
            left=float(counts[0, at]),
            right=float(counts[1, at]),
            low=float(low[at]),
            high=float(high[at]),
        )
        for at, threshold in enumerate(thresholds)
    )


def _table(names: Names) -> np.ndarray:
    """Return (m, 2) float64: the bin and the score of every named feature."""
    activity = np.array([name.activity for name in names.names])
    scores = np.array([name.verdict.score for name in names.names])
    return np.stack([np.floor(BINS_PER_OCTAVE * np.log2(activity)), scores], axis=1)


def _resampled(table: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    resampled: np.ndarray = table[generator.integers(len(table), size=len(table))]
    return resampled


def _matched(
    left: np.ndarray, right: np.ndarray, thresholds: Sequence[float]
) -> tuple[int, np.ndarray]:
    """Return the number of features matched, and (2, t) how many of them reach thresholds."""
    bins, numbers = np.unique(np.concatenate([left[:, 0], right[:, 0]]), return_inverse=True)
    parts = np.split(numbers, [len(left)])
    sizes = [np.bincount(part, minlength=len(bins)) for part in parts]
    matched = np.minimum(*sizes)
    counts = np.empty((2, len(thresholds)))
    for side, (table, part, size) in enumerate(zip((left, right), parts, sizes, strict=True)):
        weight = (matched / np.maximum(size, 1))[part]
        counts[side] = [weight[table[:, 1] >= threshold].sum() for threshold in thresholds]
    return int(matched.sum()), counts
