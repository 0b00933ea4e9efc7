"""Counts of features that are on together, and what follows for a pair.

Everything here is exact and follows from four counts of a pair: rows, rows with the left feature,
with the right, with both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from bitcodec.bits import check_packed, unpack
from bitcodec.coactivation_kernels import add_pairs
from bitcodec.errors import ShapeError, ValueRangeError
from bitcodec.statistics import CHUNK_ROWS, BitStatistics

SPARSE_SHARE = 0.1
"""Share of bits on, below which counting pairs of them beats a product of matrices."""
BLOCK_FEATURES = 1024
"""Features that are counted against all others at a time: b x h counts are in memory."""
_SCORED = 128
"""Features whose pairs are scored at a time."""


def phi_coefficient(
    n_rows: int, left: np.ndarray, right: np.ndarray, both: np.ndarray
) -> np.ndarray:
    """Return the correlation of two bits from their counts, 0 where one never changes.

    Args:
        n_rows: n.
        left: rows in which the left bit is on.
        right: rows in which the right one is on.
        both: rows in which both are; the three broadcast.

    Returns:
        Broadcast shape, float64 in [-1, 1].

    >>> float(phi_coefficient(4, np.array(2), np.array(2), np.array(2)))
    1.0
    """
    a, b = np.asarray(left, np.float64) / n_rows, np.asarray(right, np.float64) / n_rows
    spread = np.sqrt(a * (1 - a) * b * (1 - b))
    covariance = np.asarray(both, np.float64) / n_rows - a * b
    phi = np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 0)
    return np.clip(phi, -1, 1)  # rounding alone passes the bounds


def mutual_information(
    n_rows: int, left: np.ndarray, right: np.ndarray, both: np.ndarray
) -> np.ndarray:
    """Return the mutual information of two bits in bits from their counts, as `phi_coefficient`.

    The plug-in estimate: of two independent bits it is about 1 / (2 n ln 2), not 0.

    Returns:
        Broadcast shape, float64, at least 0.

    >>> float(mutual_information(4, np.array(2), np.array(2), np.array(2)))
    1.0
    """
    a, b, ab = (np.asarray(count, np.float64) for count in (left, right, both))
    cells = ((ab, a, b), (a - ab, a, n_rows - b), (b - ab, n_rows - a, b))
    last = (n_rows - a - b + ab, n_rows - a, n_rows - b)
    total = np.zeros(np.broadcast_shapes(a.shape, b.shape, ab.shape))
    for joint, one, other in (*cells, last):
        expected = np.where(joint > 0, one * other, 1.0)
        total += joint * np.log2(np.where(joint > 0, joint * n_rows / expected, 1.0))
    information: np.ndarray = np.maximum(total / n_rows, 0.0)  # rounding alone goes below 0
    return information


@dataclass
class PairStatistics:
    """Streaming, mergeable counts of chosen pairs of features."""

    statistics: BitStatistics
    """Counts of the single features."""
    left: np.ndarray
    """(m,) int64, a feature of each pair."""
    right: np.ndarray
    """(m,) int64, the other."""
    both: np.ndarray
    """(m,) int64, rows in which both are on."""

    @classmethod
    def empty(cls, n_bits: int, pairs: np.ndarray) -> Self:
        """Start counting.

        Args:
            n_bits: bits h of a row.
            pairs: (m, 2) integers, the features of each pair.

        Raises:
            ShapeError: `pairs` is no (m, 2).
            ValueRangeError: there is no such feature.
        """
        chosen = np.asarray(pairs, dtype=np.int64)
        if chosen.ndim != 2 or chosen.shape[1] != 2:
            raise ShapeError(f"pairs must be (m, 2), got {chosen.shape}")
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < n_bits:
            raise ValueRangeError(
                f"features must be between 0 and {n_bits - 1}, got {chosen.max()}"
            )
        none = np.zeros(len(chosen), np.int64)
        return cls(BitStatistics.empty(n_bits), chosen[:, 0].copy(), chosen[:, 1].copy(), none)

    def update(self, packed: np.ndarray) -> Self:
        """Count packed rows, (n, ceil(h / 8)) uint8; see `BitStatistics.update`."""
        self.statistics.update(packed)
        for start in range(0, len(packed), CHUNK_ROWS):
            bits = unpack(packed[start : start + CHUNK_ROWS], n_bits=self.statistics.n_bits).T
            columns = np.ascontiguousarray(bits)
            for pair, (left, right) in enumerate(zip(self.left, self.right, strict=True)):
                self.both[pair] += np.count_nonzero(columns[left] & columns[right])
        return self

    def merge(self, other: PairStatistics) -> Self:
        """Add another's counts of the same pairs.

        Raises:
            ShapeError: the pairs or the numbers of bits differ.
        """
        mine, theirs = (np.stack([s.left, s.right]) for s in (self, other))
        if not np.array_equal(mine, theirs):
            raise ShapeError("cannot merge counts of other pairs: count the same pairs everywhere")
        self.statistics.merge(other.statistics)
        self.both = self.both + other.both
        return self

    @property
    def phi(self) -> np.ndarray:
        """(m,) float64, the correlation of each pair; see `phi_coefficient`."""
        return phi_coefficient(*self._counts())

    @property
    def information_bits(self) -> np.ndarray:
        """(m,) float64, the mutual information of each pair; see `mutual_information`."""
        return mutual_information(*self._counts())

    def _counts(self) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
        counts = self.statistics.counts
        return self.statistics.n_rows, counts[self.left], counts[self.right], self.both


@dataclass
class CoactivationCounts:
    """Streaming, mergeable counts of some features against all."""

    features: range
    """The b features, neighbours."""
    n_rows: int
    """Rows counted."""
    both: np.ndarray
    """(b, h) int64, rows in which a feature of the range and any feature are both on."""

    @classmethod
    def empty(cls, n_bits: int, features: range | None = None) -> Self:
        """Start counting features against all `n_bits`; None means all of them, h x h counts."""
        chosen = range(n_bits) if features is None else features
        return cls(chosen, 0, np.zeros((len(chosen), n_bits), dtype=np.int64))

    def update(self, packed: np.ndarray) -> Self:
        """Count packed rows, (n, ceil(h / 8)) uint8.

        Raises:
            ShapeError: the width is not that of h bits.
            ValueRangeError: the dtype is not uint8, or a pad bit is set.
        """
        n_bits = self.both.shape[1]
        check_packed(packed, n_bits=n_bits)
        for start in range(0, len(packed), CHUNK_ROWS):
            self._add(unpack(packed[start : start + CHUNK_ROWS], n_bits=n_bits))
        self.n_rows += len(packed)
        return self

    def merge(self, other: CoactivationCounts) -> Self:
        """Add another's counts of the same features.

        Raises:
            ShapeError: the features or the numbers of bits differ.
        """
        if other.features != self.features or other.both.shape != self.both.shape:
            raise ShapeError(
                f"cannot merge counts of {other.features} into those of {self.features}"
            )
        self.both = self.both + other.both
        self.n_rows += other.n_rows
        return self

    def _add(self, bits: np.ndarray) -> None:
        if bits.mean() < SPARSE_SHARE:
            add_pairs(bits, self.features.start, self.both)
            return
        # Sums of up to CHUNK_ROWS ones are exact in float32.
        floats = bits.astype(np.float32)
        chosen = floats[:, self.features.start : self.features.stop]
        self.both += (chosen.T @ floats).astype(np.int64)
