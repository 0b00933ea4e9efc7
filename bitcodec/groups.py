"""Counts of bits by group of rows: by layer, position, token, label, any key."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from bitcodec.bits import check_packed, unpack
from bitcodec.errors import NotFittedError, ShapeError
from bitcodec.statistics import CHUNK_ROWS, BitStatistics, Correction, binary_entropy


@dataclass
class GroupStatistics:
    """Streaming, mergeable counts of the bits that are on in each group of rows.

    Memory is that of h integers a group.
    """

    groups: dict[Hashable, BitStatistics]
    """The counts of each group by its key, in the order of their first rows."""
    n_bits: int
    """The number of bits h."""

    @classmethod
    def empty(cls, n_bits: int) -> Self:
        """Start counting codes of `n_bits` bits."""
        return cls({}, n_bits)

    def update(self, packed: np.ndarray, keys: Sequence[Hashable] | np.ndarray) -> Self:
        """Count packed rows, each in its group.

        Args:
            packed: (n, ceil(h / 8)) uint8.
            keys: n keys, the group of each row: integers, strings, tuples.

        Raises:
            ShapeError: the width is not that of h bits, or there are not n keys.
            ValueRangeError: the dtype is not uint8, or a pad bit is set.
        """
        check_packed(packed, n_bits=self.n_bits)
        if len(keys) != len(packed):
            raise ShapeError(f"keys must be {len(packed)}, one a row, got {len(keys)}")
        for start in range(0, len(packed), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            names = keys[part]
            self._add(packed[part], names.tolist() if isinstance(names, np.ndarray) else names)
        return self

    def merge(self, other: GroupStatistics) -> Self:
        """Add another's counts, group by group.

        Raises:
            ShapeError: the numbers of bits differ.
        """
        if other.n_bits != self.n_bits:
            raise ShapeError(f"cannot merge counts of {other.n_bits} bits into {self.n_bits}")
        for key, counted in other.groups.items():
            self._group(key).merge(counted)
        return self

    @property
    def n_rows(self) -> dict[Hashable, int]:
        """Rows of each group."""
        return {key: counted.n_rows for key, counted in self.groups.items()}

    @property
    def entropy_bits(self) -> dict[Hashable, float]:
        """Of each group the sum of its bits' entropies, an upper bound of its joint entropy."""
        return {key: counted.entropy_bits for key, counted in self.groups.items()}

    @property
    def total(self) -> BitStatistics:
        """The counts of all groups together."""
        whole = BitStatistics.empty(self.n_bits)
        for counted in self.groups.values():
            whole.merge(counted)
        return whole

    def pooled(self, *, min_rows: int) -> GroupStatistics:
        """Return the counts with all groups of fewer rows together in one, of the key None."""
        result = type(self).empty(self.n_bits)
        for key, counted in self.groups.items():
            result._group(key if counted.n_rows >= min_rows else None).merge(counted)
        return result

    def conditional_entropies(self, *, correction: Correction = "none") -> np.ndarray:
        """Return the entropy of each bit where the group is known, H(b | group).

        Args:
            correction: of each group's entropies; see `BitStatistics.entropies`.

        Returns:
            (h,) float64 bits, the mean over the rows of their group's entropy.

        Raises:
            NotFittedError: no row was counted yet.
            ConfigError: there is no such correction.
        """
        n_rows = sum(self.n_rows.values())
        if n_rows == 0:
            raise NotFittedError("no rows were counted yet: update the statistics first")
        entropies = np.zeros(self.n_bits)
        for counted in self.groups.values():
            weight = counted.n_rows / n_rows
            entropies += weight * counted.entropies(correction=correction)
        return entropies

    def told_bits(self) -> np.ndarray:
        """Return the bits a row that knowing its group saves, of each bit of the code.

        What coding every row's bit takes by the shares of the *other* rows, less what it takes by
        those of the others of its group. A row is never told by itself, so groups of few rows gain
        nothing by chance: the saving is I(b; group), too low by what learning a group's activity
        costs, about half a bit to a bit a group.

        Returns:
            (h,) float64, a little below 0 where the group tells nothing.

        Raises:
            NotFittedError: no row was counted yet.
        """
        if not any(self.n_rows.values()):
            raise NotFittedError("no rows were counted yet: update the statistics first")
        whole = self.total
        left = sum((_left_out_bits(counted) for counted in self.groups.values()), np.zeros(1))
        told: np.ndarray = (_left_out_bits(whole) - left) / whole.n_rows
        return told

    def explained_shares(self) -> np.ndarray:
        """Return `told_bits` as shares of what each bit takes without groups.

        Returns:
            (h,) float64 below 1, a little below 0 where the group tells nothing; NaN for a bit
            that never changes. About I(b; group) / H(b).

        Raises:
            NotFittedError: no row was counted yet.
        """
        told, whole = self.told_bits(), self.total
        changes = binary_entropy(whole.activity) > 0
        share = np.full(self.n_bits, np.nan)
        np.divide(told, _left_out_bits(whole) / whole.n_rows, out=share, where=changes)
        return share

    def _group(self, key: Hashable) -> BitStatistics:
        return self.groups.setdefault(key, BitStatistics.empty(self.n_bits))

    def _add(self, packed: np.ndarray, keys: Sequence[Hashable]) -> None:
        number: dict[Hashable, int] = {}
        group = np.array([number.setdefault(key, len(number)) for key in keys], dtype=np.int64)
        order = np.argsort(group, kind="stable")
        bits = unpack(packed, n_bits=self.n_bits)[order]
        sizes = np.bincount(group, minlength=len(number))
        starts = np.cumsum(sizes) - sizes
        sums = np.add.reduceat(bits, starts, axis=0, dtype=np.int64) if len(bits) else bits
        for key, size, counts in zip(number, sizes.tolist(), sums, strict=True):
            self._group(key).merge(BitStatistics(n_rows=size, counts=counts))


def _left_out_bits(counted: BitStatistics) -> np.ndarray:
    """Return the bits of coding every row by the others: (count + 1/2) / (n + 1), (h,) float64."""
    n, on, off = counted.n_rows, counted.counts, counted.n_rows - counted.counts
    cost = [times * np.log2(n / np.maximum(times - 0.5, 0.5)) for times in (on, off)]
    bits: np.ndarray = cost[0] + cost[1]
    return bits
