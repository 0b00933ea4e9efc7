"""The strongest pairs of features, found without an h x h matrix in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from bitcodec.coactivation import CoactivationCounts, mutual_information, phi_coefficient
from bitcodec.errors import ConfigError, ShapeError
from bitcodec.statistics import BitStatistics

BLOCK_FEATURES = 1024
"""Features that are counted against all others at a time: b x h counts are in memory."""
_SCORED = 128
"""Features whose pairs are scored at a time."""


@dataclass(frozen=True, eq=False)
class StrongestPairs:
    """The strongest partners of every feature, strongest first."""

    statistics: BitStatistics
    """Counts of the single features."""
    by_phi: np.ndarray
    """(h, k) int64, partners of positive phi, largest first; -1 where there are fewer."""
    phi: np.ndarray
    """(h, k) float64, their phi; NaN where there is none."""
    n_both: np.ndarray
    """(h, k) int64, rows in which a feature and its partner by phi are both on; 0 where none."""
    by_information: np.ndarray
    """(h, k) int64, partners by mutual information, whatever the sign of phi; -1 where none."""
    information_bits: np.ndarray
    """(h, k) float64, their mutual information; NaN where there is none."""
    n_both_informed: np.ndarray
    """(h, k) int64, as `n_both` for the partners by mutual information."""

    @classmethod
    def from_counts(
        cls,
        statistics: BitStatistics,
        counted: Iterable[CoactivationCounts],
        *,
        k: int = 16,
        min_count: int = 10,
    ) -> Self:
        """Find the strongest partners from counts, which several workers may have made.

        Args:
            statistics: counts of the single features, on the same rows.
            counted: of ranges of features that make up all of them, in order; read one by one.
            k: as in `strongest_pairs`.
            min_count: as in `strongest_pairs`.

        Raises:
            ConfigError: `k` or `min_count` is below 1.
            ShapeError: the ranges do not make up all features, or the rows are not as many.
        """
        if k < 1 or min_count < 1:
            raise ConfigError(f"k and min_count must be at least 1, got {k} and {min_count}")
        parts, n_done = [], 0
        for block in counted:
            _check_block(block, statistics, n_done=n_done)
            n_done = block.features.stop
            for inner in range(0, len(block.features), _SCORED):
                both = block.both[inner : inner + _SCORED]
                first = block.features.start + inner
                parts.append(_partners(statistics, first, both, k=k, min_count=min_count))
        if n_done != statistics.n_bits:
            raise ShapeError(f"expected counts of {statistics.n_bits} features, got {n_done}")
        return cls(statistics, *(np.concatenate(column) for column in zip(*parts, strict=True)))

    def edges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the pairs that `by_information` holds, each once, most informative first.

        Returns:
            (m, 2) int64 with the smaller feature first; (m,) float64 bits; (m,) int64 rows in
            which both are on.
        """
        left, place = np.nonzero(self.by_information >= 0)
        pairs = np.sort(np.stack([left, self.by_information[left, place]], axis=1), axis=1)
        pairs, first = np.unique(pairs, axis=0, return_index=True)
        bits = self.information_bits[left, place][first]
        both = self.n_both_informed[left, place][first]
        order = np.lexsort((pairs[:, 1], pairs[:, 0], -bits))
        return pairs[order], bits[order], both[order]


def strongest_pairs(
    packed: np.ndarray, *, n_bits: int, k: int = 16, min_count: int = 10
) -> StrongestPairs:
    """Find the strongest partners of every feature among all others, exactly.

    A block of features is counted against all at a time, so memory grows with h, not its square,
    and the rows are read ceil(h / 1024) times.

    Args:
        packed: (n, ceil(h / 8)) uint8; a memory map will do.
        n_bits: bits h of a row.
        k: partners of each feature.
        min_count: rows in which both must be on for a partner by phi: few rows make strong
            correlations by chance. Mutual information needs no such bound, rare pairs have little.

    Raises:
        ConfigError: `k` or `min_count` is below 1.
        ShapeError: the width is not that of h bits, or there are no rows.
        ValueRangeError: the dtype is not uint8, or a pad bit is set.
    """
    statistics = BitStatistics.empty(n_bits).update(packed)
    if statistics.n_rows == 0:
        raise ShapeError("packed has no rows: pass at least one")
    starts = range(0, n_bits, BLOCK_FEATURES)
    blocks = (range(start, min(n_bits, start + BLOCK_FEATURES)) for start in starts)
    counted = (CoactivationCounts.empty(n_bits, block).update(packed) for block in blocks)
    return StrongestPairs.from_counts(statistics, counted, k=k, min_count=min_count)


def _check_block(block: CoactivationCounts, statistics: BitStatistics, *, n_done: int) -> None:
    features, n_bits = block.features, block.both.shape[1]
    if (features.start, features.step, n_bits) != (n_done, 1, statistics.n_bits):
        raise ShapeError(
            f"expected counts of features from {n_done} on against {statistics.n_bits}, got "
            f"{features} against {n_bits}"
        )
    if block.n_rows != statistics.n_rows:
        raise ShapeError(f"expected counts of {statistics.n_rows} rows, got {block.n_rows}")


def _partners(
    statistics: BitStatistics, first: int, both: np.ndarray, *, k: int, min_count: int
) -> tuple[np.ndarray, ...]:
    """Return partners by phi, phi, counts; partners by information, information, counts."""
    counts = statistics.counts
    left = counts[first : first + len(both), None]
    itself = np.arange(len(both)), np.arange(first, first + len(both))
    phi = phi_coefficient(statistics.n_rows, left, counts, both)
    phi[(both < min_count) | (phi <= 0)] = -np.inf  # a bit that never changes has phi 0
    information = mutual_information(statistics.n_rows, left, counts, both)
    information[information == 0] = -np.inf  # says nothing, and never in a tree
    phi[itself] = information[itself] = -np.inf
    return *_largest(phi, both, k), *_largest(information, both, k)


def largest_columns(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the columns of the k largest scores of each row, largest first, equal ones by column.

    Args:
        scores: (n, m) float.
        k: how many; all m where there are fewer.

    Returns:
        (n, min(k, m)) int64.
    """
    k = min(k, scores.shape[1])
    some = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


def _largest(scores: np.ndarray, both: np.ndarray, k: int) -> tuple[np.ndarray, ...]:
    """Return the columns of the k largest scores of each row, these, and counts; ties by column."""
    order = largest_columns(scores, k)
    found, counts = (np.take_along_axis(table, order, axis=1) for table in (scores, both))
    real = np.isfinite(found)
    room = ((0, 0), (0, k - order.shape[1]))
    return (
        np.pad(np.where(real, order, -1), room, constant_values=-1),
        np.pad(np.where(real, found, np.nan), room, constant_values=np.nan),
        np.pad(np.where(real, counts, 0), room),
    )
