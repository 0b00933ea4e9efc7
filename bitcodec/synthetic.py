"""Data whose true binary features and entropy are known, to test what a codec recovers.

Each row is the sum of some of r random directions, x = c V: random-direction data as in
arXiv 2509.20997, section 4, here also with rare, correlated and noisy features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from bitcodec.errors import ValueRangeError

FACTOR_RANGE, FACTOR_NODES = 12.0, 8001
"""Standard deviations and points of the sum over the factor that correlated bits share."""


@dataclass(frozen=True)
class RandomDirections:
    """Rows made of known features."""

    hidden: np.ndarray
    """(n, d) float32."""
    bits: np.ndarray
    """(n, r) uint8, which features each row is made of."""
    directions: np.ndarray
    """(r, d) float32, the features' directions."""
    marginal_entropy_bits: float
    """Sum over the features of H2(activity), in bits."""
    joint_entropy_bits: float
    """Entropy of a row's features together, in bits; below the former where they correlate."""


def draw_random_directions(
    n_rows: int,
    *,
    n_dims: int,
    n_features: int,
    activity: float = 0.5,
    correlation: float = 0.0,
    signal_to_noise: float = math.inf,
    seed: int = 0,
) -> RandomDirections:
    """Draw rows x = c V + noise with c in {0, 1}^r.

    Correlated bits are thresholds of Gaussians that share one factor: b_j = 1 where
    sqrt(correlation) u + sqrt(1 - correlation) e_j is below the activity's quantile.

    Args:
        n_rows: rows n.
        n_dims: width d.
        n_features: features r; more than d is superposition.
        activity: P(b_j = 1), in (0, 1).
        correlation: of any two of the Gaussians, in [0, 1).
        signal_to_noise: variance of the signal over the noise's; infinite for none.
        seed: the same rows for the same seed.

    Raises:
        ValueRangeError: an argument is out of range.
    """
    _check_ranges(n_rows, n_dims, n_features, activity, correlation, signal_to_noise)
    generator = np.random.default_rng(seed)
    directions = generator.standard_normal((n_features, n_dims), dtype=np.float32)
    shared = generator.standard_normal((n_rows, 1))
    own = generator.standard_normal((n_rows, n_features))
    level = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
    bits = (level < NormalDist().inv_cdf(activity)).astype(np.uint8)
    hidden = bits.astype(np.float32) @ directions
    if math.isfinite(signal_to_noise):
        noise = generator.standard_normal((n_rows, n_dims), dtype=np.float32)
        hidden += noise * hidden.std(axis=0) / math.sqrt(signal_to_noise)
    marginal = n_features * _entropy(np.array([activity, 1 - activity]))
    joint = _joint_entropy(n_features, activity, correlation) if correlation > 0 else marginal
    return RandomDirections(hidden, bits, directions, marginal, joint)


def _joint_entropy(n_features: int, activity: float, correlation: float) -> float:
    """Return the joint entropy: given the shared factor the bits are independent and alike.

    So every pattern of k ones has the same probability, an integral over the factor.
    """
    normal = NormalDist()
    factor = np.linspace(-FACTOR_RANGE, FACTOR_RANGE, FACTOR_NODES)
    density = np.exp(-np.square(factor) / 2)
    logs_of_density = np.log(density / density.sum())
    cut = normal.inv_cdf(activity)
    given = [
        normal.cdf((cut - math.sqrt(correlation) * u) / math.sqrt(1 - correlation)) for u in factor
    ]
    p = np.clip(np.array(given), 1e-300, 1 - 1e-16)
    total = 0.0
    for n_ones in range(n_features + 1):
        logs = n_ones * np.log(p) + (n_features - n_ones) * np.log1p(-p) + logs_of_density
        pattern = float(np.logaddexp.reduce(logs))
        total -= math.exp(_log_choose(n_features, n_ones) + pattern) * pattern / math.log(2)
    return total


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _entropy(probabilities: np.ndarray) -> float:
    return float(-(probabilities * np.log2(probabilities)).sum())


def _check_ranges(
    n_rows: int,
    n_dims: int,
    n_features: int,
    activity: float,
    correlation: float,
    signal_to_noise: float,
) -> None:
    if min(n_rows, n_dims, n_features) < 1:
        raise ValueRangeError(
            "n_rows, n_dims and n_features must be at least 1, "
            f"got {n_rows}, {n_dims}, {n_features}"
        )
    if not 0 < activity < 1:
        raise ValueRangeError(f"activity must be between 0 and 1, got {activity}")
    if not 0 <= correlation < 1:
        raise ValueRangeError(f"correlation must be at least 0 and below 1, got {correlation}")
    if not signal_to_noise > 0:
        raise ValueRangeError(f"signal_to_noise must be positive, got {signal_to_noise}")
