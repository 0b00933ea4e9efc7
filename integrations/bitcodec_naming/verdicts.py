"""How well a name tells where its feature is on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bitcodec.json_fields import null_means
from bitcodec_naming.trials import KINDS, Kind

CHANCE = 0.5
"""The score of a judge that knows nothing, and of any name of a feature that is on by chance."""
_Z = 1.959963984540054
"""Two-sided 95% of the normal distribution."""


@dataclass(frozen=True)
class AnsweredPair:
    """A judge's answers to a pair of contexts that it had not seen."""

    on: float
    """Probability given to the context where the feature is on."""
    off: float
    """Probability given to the counter-example."""
    kind: Kind
    """Where the counter-example is from."""


@dataclass(frozen=True)
class Rejection:
    """Counter-examples of one kind."""

    kind: Kind
    """Where they are from."""
    n_pairs: int
    """How many there were."""
    share: float
    """Share rightly answered no; an undecided answer counts as half."""


@dataclass(frozen=True)
class Verdict:
    """What a judge's answers about one feature amount to."""

    score: float
    """Share of right answers over contexts and counter-examples, as many of each: 1/2 by chance,
    and for a name that fits everything. An undecided answer counts as half."""
    low: float
    """Lower end of the score's 95% interval (Wilson, 1927)."""
    high: float
    """Upper end."""
    hits: float
    """Share of the contexts answered yes: the whole score of arXiv 2509.20997."""
    rejections: tuple[Rejection, ...]
    """Counter-examples answered no, by kind; kinds that there were none of are left out."""
    ranked: float
    """Share of pairs whose context was given the larger probability, half of equal ones: 1/2 by
    chance, however much a judge likes to say yes."""
    bits: float = field(metadata=null_means(-math.inf))
    """Mean of log2(2 P(right answer)), the held-out likelihood ratio to a coin: at most 1; minus
    infinity (null in JSON) if a wrong answer was called certain."""


def verdict(pairs: Sequence[AnsweredPair]) -> Verdict:
    """Judge the answers to at least one pair."""
    on, off = (np.array([getattr(pair, side) for pair in pairs]) for side in ("on", "off"))
    hits, rejected = credit(on), credit(1 - off)
    n_answers = 2 * len(pairs)
    score = float(hits.sum() + rejected.sum()) / n_answers
    low, high = wilson_interval(score * n_answers, n_answers)
    kinds = np.array([pair.kind for pair in pairs])
    with np.errstate(divide="ignore"):
        bits = np.concatenate([np.log2(on), np.log2(1 - off)]).mean() + 1
    return Verdict(
        score=score,
        low=low,
        high=high,
        hits=float(hits.mean()),
        rejections=tuple(
            Rejection(kind, int(found.sum()), float(rejected[found].mean()))
            for kind in KINDS
            if (found := kinds == kind).any()
        ),
        ranked=float((on > off).mean() + (on == off).mean() / 2),
        bits=float(bits),
    )


def credit(right: np.ndarray) -> np.ndarray:
    """Return 1 where the right answer got more than half of the probability, 1/2 where half."""
    given: np.ndarray = ((right > 0.5).astype(np.float64) + (right >= 0.5)) / 2
    return given


def wilson_interval(n_right: float, n: int) -> tuple[float, float]:
    """Return the 95% interval of a share (E. B. Wilson, 1927).

    Args:
        n_right: successes, halves allowed.
        n: trials, at least 1.

    >>> low, high = wilson_interval(5, 10)
    >>> round(low, 3), round(high, 3)
    (0.237, 0.763)
    """
    share, scale = n_right / n, 1 + _Z**2 / n
    middle = (share + _Z**2 / (2 * n)) / scale
    half = _Z / scale * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)
