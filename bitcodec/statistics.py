"""Counts of how often each bit is on, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from bitcodec.bits import check_packed, unpack
from bitcodec.errors import ConfigError, NotFittedError, ShapeError, ValueRangeError

Correction = Literal["none", "miller-madow"]
"""What is added to an entropy that is estimated from few rows."""
CHUNK_ROWS = 4096
"""Rows that are unpacked at a time: one byte a bit, but never for all rows at once."""


def binary_entropy(activity: np.ndarray) -> np.ndarray:
    """Return H2(p) = -p log2 p - (1 - p) log2 (1 - p) in bits, with 0 log 0 = 0.

    Args:
        activity: any shape, float in [0, 1].

    Returns:
        The same shape, float64 in [0, 1].

    Raises:
        ValueRangeError: a value is outside [0, 1].

    >>> binary_entropy(np.array([0.0, 0.5, 1.0])).tolist()
    [0.0, 1.0, 0.0]
    """
    p = np.asarray(activity, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueRangeError("activity must lie in [0, 1]: pass the mean of each bit")
    entropies: np.ndarray = _plogp(p) + _plogp(1 - p)
    return entropies


def burstiness(bits: np.ndarray, activity: np.ndarray) -> np.ndarray:
    """Return log2 |b - p|, how surprising each bit of each row is (arXiv 2509.20997).

    0 where the bit is the opposite of what it always was, -infinity where a bit with p of exactly
    0 or 1 is as it always is: it says nothing.

    Args:
        bits: (n, h) bool or uint8, values 0 or 1.
        activity: (h,) float in [0, 1].

    Returns:
        (n, h) float64, at most 0.

    Raises:
        ShapeError: the widths differ.
    """
    return _chosen(bits, activity, on=log2_of(1 - activity), off=log2_of(activity))


def self_information(bits: np.ndarray, activity: np.ndarray) -> np.ndarray:
    """Return -log2 P(b), what each bit of each row costs a coder that knows the activities.

    A row's price is the sum over its bits. 0 where a bit is as it always is, infinity where it is
    the opposite of what it always was.

    Args:
        bits: (n, h) bool or uint8, values 0 or 1.
        activity: (h,) float in [0, 1].

    Returns:
        (n, h) float64, at least 0.

    Raises:
        ShapeError: the widths differ.

    >>> self_information(np.array([[1, 0]], dtype=np.uint8), np.array([0.25, 0.0])).tolist()
    [[2.0, 0.0]]
    """
    # 0 - x, because -x of the 0 that certainty costs would be -0.
    return _chosen(bits, activity, on=0 - log2_of(activity), off=0 - log2_of(1 - activity))


def row_prices(packed: np.ndarray, activity: np.ndarray) -> np.ndarray:
    """Return the price of packed rows in bits, the sum of `self_information` over the features.

    With the activities of the same rows its mean is the sum of the bits' entropies.

    Args:
        packed: (n, ceil(h / 8)) uint8.
        activity: (h,) float in [0, 1].

    Returns:
        (n,) float64.

    Raises:
        ShapeError: the width is not that of h bits.
        ValueRangeError: the dtype is not uint8, or a pad bit is set.
    """
    prices = np.zeros(len(packed))
    check_packed(packed, n_bits=len(activity))
    for start in range(0, len(packed), CHUNK_ROWS):
        bits = unpack(packed[start : start + CHUNK_ROWS], n_bits=len(activity))
        prices[start : start + CHUNK_ROWS] = self_information(bits, activity).sum(axis=1)
    return prices


def log2_of(probability: np.ndarray) -> np.ndarray:
    """Return log2 of probabilities, minus infinity at 0 and without a warning."""
    with np.errstate(divide="ignore"):
        logarithms: np.ndarray = np.log2(np.asarray(probability, dtype=np.float64))
    return logarithms


def _chosen(
    bits: np.ndarray, activity: np.ndarray, *, on: np.ndarray, off: np.ndarray
) -> np.ndarray:
    """Take, for each bit of each row, the value of its being on or off."""
    if bits.ndim != 2 or bits.shape[1:] != activity.shape:
        raise ShapeError(f"bits must be (n, {len(activity)}), got {bits.shape}")
    return np.where(bits.astype(bool, copy=False), on, off)


@dataclass
class BitStatistics:
    """Streaming, mergeable counts of the bits that are on.

    Counting in parts and merging gives exactly what counting at once gives.
    """

    n_rows: int
    """Rows counted."""
    counts: np.ndarray
    """(h,) int64, the rows in which each bit is on."""

    @classmethod
    def empty(cls, n_bits: int) -> Self:
        """Start counting codes of `n_bits` bits."""
        return cls(n_rows=0, counts=np.zeros(n_bits, dtype=np.int64))

    @property
    def n_bits(self) -> int:
        """The number of bits h."""
        return len(self.counts)

    @property
    def activity(self) -> np.ndarray:
        """The mean of each bit, (h,) float64 in [0, 1].

        Raises:
            NotFittedError: no row was counted yet.
        """
        if self.n_rows == 0:
            raise NotFittedError("no rows were counted yet: update the statistics first")
        return self.counts / self.n_rows

    @property
    def entropy_bits(self) -> float:
        """Sum over the bits of H2(p) in bits, an upper bound of the code's joint entropy."""
        return float(binary_entropy(self.activity).sum())

    def entropies(self, *, correction: Correction = "none") -> np.ndarray:
        """Return the entropy of each bit.

        Args:
            correction: "miller-madow" adds (m - 1) / (2 n ln 2) bits, m the number of values seen
                (Miller, 1955); the plug-in estimate is too low by about that.

        Returns:
            (h,) float64 bits; corrected, they may exceed 1 a little.

        Raises:
            NotFittedError: no row was counted yet.
            ConfigError: there is no such correction.
        """
        if correction not in ("none", "miller-madow"):
            raise ConfigError(f'correction must be "none" or "miller-madow", got {correction!r}')
        entropies = binary_entropy(self.activity)
        if correction == "miller-madow":
            both_seen = (self.counts > 0) & (self.counts < self.n_rows)
            entropies = entropies + both_seen / (2 * self.n_rows * np.log(2))
        return entropies

    @property
    def activity_standard_errors(self) -> np.ndarray:
        """sqrt(p (1 - p) / n), (h,) float64: of `activity`, taking rows as independent.

        Rows of one text are not, and the true error is then larger.

        Raises:
            NotFittedError: no row was counted yet.
        """
        p = self.activity
        errors: np.ndarray = np.sqrt(p * (1 - p) / self.n_rows)
        return errors

    @property
    def entropy_standard_errors(self) -> np.ndarray:
        """|log2((1 - p) / p)| times the error of p, (h,) float64: of each bit's entropy.

        The delta method; 0 at p = 0, 1/2 and 1, where its first order is.

        Raises:
            NotFittedError: no row was counted yet.
        """
        p = self.activity
        slope = log2_of(1 - p) - log2_of(p)
        changes = (p > 0) & (p < 1)
        errors: np.ndarray = np.abs(np.where(changes, slope, 0.0)) * self.activity_standard_errors
        return errors

    @property
    def mean_burstiness(self) -> np.ndarray:
        """Mean over the counted rows of log2 |b - p|, (h,) float64.

        p log2(1 - p) + (1 - p) log2 p; minus infinity for a bit that never changes. The mean over
        the features that change is the corpus's.

        Raises:
            NotFittedError: no row was counted yet.
        """
        p = self.activity
        changes = (p > 0) & (p < 1)
        inner = np.where(changes, p, 0.5)
        means = inner * np.log2(1 - inner) + (1 - inner) * np.log2(inner)
        return np.where(changes, means, -np.inf)

    def code_bits(self, coder: BitStatistics) -> float:
        """Return the bits that a row costs a coder with the activities of other statistics.

        The cross-entropy, summed over the bits; at least `entropy_bits`.

        Args:
            coder: counts that the coder knows. Its probabilities are (count + 1/2) / (n + 1), the
                estimator of Krichevsky and Trofimov (1981), so that nothing is impossible.

        Raises:
            ShapeError: the numbers of bits differ.
            NotFittedError: no row was counted yet.
        """
        if coder.n_bits != self.n_bits:
            raise ShapeError(f"the coder has {coder.n_bits} bits, these counts {self.n_bits}")
        known = (coder.counts + 0.5) / (coder.n_rows + 1)
        p = self.activity
        return float(-(p * np.log2(known) + (1 - p) * np.log2(1 - known)).sum())

    def update(self, packed: np.ndarray) -> Self:
        """Count packed rows.

        Args:
            packed: (n, ceil(h / 8)) uint8.

        Returns:
            The statistics themselves, changed.

        Raises:
            ShapeError: the width is not that of h bits.
            ValueRangeError: the dtype is not uint8, or a pad bit is set.
        """
        check_packed(packed, n_bits=self.n_bits)
        for start in range(0, len(packed), CHUNK_ROWS):
            bits = unpack(packed[start : start + CHUNK_ROWS], n_bits=self.n_bits)
            self.counts = self.counts + bits.sum(axis=0, dtype=np.int64)
        self.n_rows += len(packed)
        return self

    def merge(self, other: BitStatistics) -> Self:
        """Add another's counts.

        Returns:
            The statistics themselves, changed.

        Raises:
            ShapeError: the numbers of bits differ.
        """
        if other.n_bits != self.n_bits:
            raise ShapeError(f"cannot merge counts of {other.n_bits} bits into {self.n_bits}")
        self.counts = self.counts + other.counts
        self.n_rows += other.n_rows
        return self


def _plogp(p: np.ndarray) -> np.ndarray:
    positive = np.where(p > 0, p, 1.0)
    return p * np.log2(1 / positive)
