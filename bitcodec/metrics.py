"""How close decoded hidden states are to the originals, and found neighbours to the true ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitcodec.errors import ShapeError, ValueRangeError
from bitcodec.hidden_checks import NOISE

CHUNK_ROWS = 512
"""Rows that are in memory in float64 at a time."""
ROUNDING = 1e-12
"""Share of a sum of squares below which a difference of sums is rounding, not variance."""


@dataclass(frozen=True)
class Evaluation:
    """What a codec does to given hidden states."""

    n_rows: int
    """Rows evaluated."""
    n_dims: int
    """Width d of the hidden states."""
    n_bits: int
    """Bits h of a code."""
    fvu: float
    """Fraction of variance unexplained, the mean over the dimensions; predicting each dimension's
    mean scores 1."""
    fvu_total: float
    """The same as one ratio of sums, so that dimensions of large variance count for more."""
    cosine: float
    """Mean cosine of a hidden state and its decoded copy."""
    l2_ratio: float
    """Mean of the decoded copy's norm over the hidden state's."""
    entropy_bits: float
    """Sum over the bits of H2(p) with p of these rows, in bits: an upper bound of the entropy of
    the code; too low where the rows are few."""
    code_bits: float
    """Bits a row costs an entropy coder that has the codec's activities, which does not know
    these rows': the mean of -log2 P(bits), bit by bit."""
    bytes_per_vector: float
    """Bytes of a packed row."""
    coded_bytes_per_vector: float
    """`code_bits` in bytes."""
    float16_bytes_per_vector: float
    """Bytes of a hidden state in float16."""


class DistortionMeter:
    """Running sums from which distortion follows; memory does not grow with the rows.

    Args:
        origin: (d,) a point near the data's mean, so that the sums do not cancel.
    """

    def __init__(self, origin: np.ndarray) -> None:
        self.n_rows = 0
        self._origin = np.asarray(origin, dtype=np.float64)
        self._errors = np.zeros_like(self._origin)
        self._sums = np.zeros_like(self._origin)
        self._squares = np.zeros_like(self._origin)
        self._cosines = 0.0
        self._ratios = 0.0

    def update(self, hidden: np.ndarray, decoded: np.ndarray) -> None:
        """Add rows.

        Args:
            hidden: (n, d) float.
            decoded: (n, d) float.

        Raises:
            ShapeError: the shapes differ.
        """
        if hidden.shape != decoded.shape:
            raise ShapeError(f"decoded must be {hidden.shape} like hidden, got {decoded.shape}")
        for start in range(0, len(hidden), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            self._add(hidden[rows].astype(np.float64), decoded[rows].astype(np.float64))

    def _add(self, true: np.ndarray, approximate: np.ndarray) -> None:
        shifted = true - self._origin
        self.n_rows += len(true)
        self._errors += np.square(true - approximate).sum(axis=0)
        self._sums += shifted.sum(axis=0)
        self._squares += np.square(shifted).sum(axis=0)
        norms = np.linalg.norm(true, axis=1), np.linalg.norm(approximate, axis=1)
        self._cosines += _ratio((true * approximate).sum(axis=1), norms[0] * norms[1]).sum()
        self._ratios += _ratio(norms[1], norms[0]).sum()

    def fvu_per_dimension(self) -> np.ndarray:
        """Return the fraction of variance unexplained of every dimension.

        Returns:
            (d,) float64; NaN where a dimension does not vary in these rows, or varies so little
            beside the others that it is their rounding.
        """
        return _ratio(self._errors, self._deviations(), empty=np.nan)

    @property
    def fvu(self) -> float:
        """Mean of `fvu_per_dimension` over the dimensions that vary.

        Raises:
            ValueRangeError: no dimension varies in these rows.
        """
        if not (self._deviations() > 0).any():
            raise ValueRangeError(
                f"the {self.n_rows} rows do not differ, so there is no variance to explain: "
                "evaluate at least two different rows"
            )
        return float(np.nanmean(self.fvu_per_dimension()))

    @property
    def fvu_total(self) -> float:
        """All squared errors over all squared deviations from the mean."""
        return float(self._errors.sum() / self._deviations().sum())

    @property
    def cosine(self) -> float:
        """Mean cosine of rows and decoded rows; a pair with a zero row counts 0."""
        return float(self._cosines / self.n_rows)

    @property
    def l2_ratio(self) -> float:
        """Mean ratio of the decoded row's norm to the row's; a zero row counts 0."""
        return float(self._ratios / self.n_rows)

    def _deviations(self) -> np.ndarray:
        deviations: np.ndarray = self._squares - np.square(self._sums) / max(1, self.n_rows)
        deviations = np.where(deviations > ROUNDING * self._squares, deviations, 0.0)
        usual = np.median(deviations[deviations > 0]) if (deviations > 0).any() else 0.0
        return np.where(deviations > NOISE**2 * usual, deviations, 0.0)


def recall(found: np.ndarray, true: np.ndarray) -> float:
    """Return the mean share of true neighbours that were found.

    Args:
        found: (n, k) integer ids.
        true: (n, k) integer ids of the exact nearest neighbours.

    Returns:
        A float in [0, 1]; the order within a row does not matter.

    Raises:
        ShapeError: the shapes differ or are empty.

    >>> recall(np.array([[1, 2]]), np.array([[2, 3]]))
    0.5
    """
    if found.shape != true.shape or found.ndim != 2 or found.size == 0:
        raise ShapeError(f"found and true must be (n, k) alike, got {found.shape}, {true.shape}")
    pairs = zip(true, found, strict=True)
    return float(np.mean([np.isin(wanted, given).mean() for wanted, given in pairs]))


def _ratio(numerator: np.ndarray, divisor: np.ndarray, *, empty: float = 0.0) -> np.ndarray:
    result = np.full(divisor.shape, empty)
    np.divide(numerator, divisor, out=result, where=divisor > 0)
    return result
