"""Features as sets of rows: which rows have this feature and not that one.

One bitmap of rows a feature, in memory or mapped from a file (`bitcodec.feature_set_file`), and
set operations on them by bitarray.

>>> import numpy as np
>>> sets = FeatureSets.from_packed(np.array([[1], [3], [2]], dtype=np.uint8), n_bits=2)
>>> (sets[0] & ~sets[1]).first(5)
array([0])
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Self

import numpy as np
from bitarray import bitarray

from bitcodec.bits import check_packed, unpack
from bitcodec.errors import FormatError, MismatchError, ShapeError, ValueRangeError
from bitcodec.feature_set_file import Header, Mapped, map_file, write_file
from bitcodec.files import PathLike

BLOCK_ROWS = 2**13
"""Rows that are transposed at a time, a multiple of 8."""
_WORDS = 2**16
"""Words of 64 rows that are unpacked at a time."""


class RowSet:
    """A set of rows, as a bitmap; immutable.

    `&`, `|`, `^`, `-` and `~` give new sets, `in` asks for a row, `len` counts.

    Args:
        bits: a bit for each row, least significant first, and zeros up to a whole word.
        n_rows: the number of rows n.
    """

    __slots__ = ("_bits", "n_rows")

    def __init__(self, bits: bitarray, *, n_rows: int) -> None:
        self._bits, self.n_rows = bits, n_rows

    def __and__(self, other: RowSet) -> RowSet:
        return RowSet(self._bits & self._other(other), n_rows=self.n_rows)

    def __or__(self, other: RowSet) -> RowSet:
        return RowSet(self._bits | self._other(other), n_rows=self.n_rows)

    def __xor__(self, other: RowSet) -> RowSet:
        return RowSet(self._bits ^ self._other(other), n_rows=self.n_rows)

    def __sub__(self, other: RowSet) -> RowSet:
        return self & ~other

    def __invert__(self) -> RowSet:
        bits = ~self._bits
        bits[self.n_rows :] = 0
        return RowSet(bits, n_rows=self.n_rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RowSet):
            return NotImplemented
        return self.n_rows == other.n_rows and bool(self._bits == other._bits)

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return int(self._bits.count())

    def __bool__(self) -> bool:
        return bool(self._bits.any())

    def __contains__(self, row: int) -> bool:
        return 0 <= row < self.n_rows and bool(self._bits[row])

    def __iter__(self) -> Iterator[int]:
        """Yield the rows in the set, ascending, as they are found."""
        return iter(self._bits.search(1))

    def __repr__(self) -> str:
        return f"RowSet({len(self):,} of {self.n_rows:,} rows)"

    def first(self, k: int) -> np.ndarray:
        """Return the first rows in the set, at most k, (m,) int64 ascending."""
        return np.fromiter(islice(self, k), dtype=np.int64)

    def rows(self) -> np.ndarray:
        """Return all rows in the set, (len,) int64 ascending."""
        words = np.frombuffer(memoryview(self._bits), dtype=np.uint64)
        parts = [np.empty(0, dtype=np.int64)]
        for start in range(0, len(words), _WORDS):
            block = words[start : start + _WORDS]
            some = np.flatnonzero(block)  # most words of a rare feature are empty
            bits = np.unpackbits(block[some].view(np.uint8), bitorder="little")
            place = np.flatnonzero(bits.view(bool))
            parts.append(64 * (start + some[place >> 6]) + (place & 63))
        return np.concatenate(parts)

    def to_bitarray(self) -> bitarray:
        """Return a copy as a bitarray of n bits, little-endian."""
        return self._bits[: self.n_rows]

    def _other(self, other: RowSet) -> bitarray:
        if not isinstance(other, RowSet):
            raise TypeError(f"expected a set of rows, got {type(other).__name__}")
        if other.n_rows != self.n_rows:
            raise ShapeError(f"cannot combine sets of {self.n_rows} and {other.n_rows} rows")
        return other._bits


class FeatureSets:
    """The rows in which each feature is on: `sets[12] & ~sets[90]`.

    Made by `from_packed`, `write` and `open`.

    Attributes:
        n_rows: rows n.
        n_bits: features h.
        counts: (h,) int64, rows in which each feature is on.
        fingerprint: of the codec that made the codes; empty where it is not known.
    """

    def __init__(self, mapped: Mapped) -> None:
        header = mapped.header
        self.n_rows, self.n_bits = header.n_rows, header.n_bits
        self.fingerprint, self.counts = header.fingerprint, mapped.counts
        self._stride, self._bitmaps = header.layout.stride, mapped.bitmaps
        self._checksums, self._is_checked = mapped.checksums, np.zeros(header.n_bits, dtype=bool)

    @classmethod
    def from_packed(cls, packed: np.ndarray, *, n_bits: int, fingerprint: str = "") -> Self:
        """Build in memory, n h / 8 bytes.

        Args:
            packed: (n, ceil(h / 8)) uint8; a memory map will do.
            n_bits: h.
            fingerprint: of the codec that made the codes.

        Raises:
            ShapeError: the width is not that of h bits.
            ValueRangeError: the dtype is not uint8, or a pad bit is set.
        """
        header = Header(n_bits=n_bits, n_rows=len(packed), fingerprint=fingerprint)
        bitmaps = np.zeros((n_bits, header.layout.stride), dtype=np.uint8)
        counts = _fill(bitmaps, [packed], n_rows=len(packed))
        return cls(Mapped(header, counts, None, bitmaps.reshape(-1).data.toreadonly()))

    @classmethod
    def write(
        cls,
        path: PathLike,
        batches: np.ndarray | Iterable[np.ndarray],
        *,
        n_bits: int,
        n_rows: int | None = None,
        fingerprint: str = "",
        overwrite: bool = False,
    ) -> Self:
        """Build as a file, from a stream; memory does not grow with the rows.

        Args:
            path: of the file; appears whole or not at all.
            batches: (n, ceil(h / 8)) uint8, or an iterable of batches of such rows.
            n_bits: h.
            n_rows: n, to be told of an iterable.
            fingerprint: of the codec that made the codes.
            overwrite: replace an existing file.

        Returns:
            The sets, mapped from the file.

        Raises:
            FileError: the file exists and `overwrite` is false, or cannot be written.
            ShapeError: a width is not that of h bits, or there are not n rows.
            ValueRangeError: a dtype is not uint8, or a pad bit is set.
        """
        if isinstance(batches, np.ndarray):
            batches, n_rows = [batches], len(batches)
        if n_rows is None:
            raise ShapeError("pass n_rows beside a stream: the file's layout depends on it")
        header, total = Header(n_bits=n_bits, n_rows=n_rows, fingerprint=fingerprint), n_rows
        with write_file(path, header, overwrite=overwrite) as (counts, bitmaps):
            counts[:] = _fill(bitmaps, batches, n_rows=total)
        return cls.open(path)

    @classmethod
    def open(cls, path: PathLike, *, fingerprint: str | None = None) -> Self:
        """Map a file that `write` or `save` wrote; bitmaps are read when they are asked for.

        Args:
            path: of the file.
            fingerprint: of the codec that must have made the codes; None takes any.

        Raises:
            FileError: there is no such file.
            FormatError: it is truncated, foreign, damaged or of a newer format.
            MismatchError: another codec made the codes.
        """
        mapped = map_file(path)
        known = mapped.header.fingerprint
        if fingerprint is not None and known != fingerprint:
            raise MismatchError(
                f"{path} holds features of codec {known[:12] or 'unknown'}, "
                f"not of {fingerprint[:12]}: build it from this codec's codes"
            )
        return cls(mapped)

    def save(self, path: PathLike, *, overwrite: bool = False) -> None:
        """Write a file that `open` maps.

        Raises:
            FileError: the file exists and `overwrite` is false, or cannot be written.
        """
        header = Header(n_bits=self.n_bits, n_rows=self.n_rows, fingerprint=self.fingerprint)
        with write_file(path, header, overwrite=overwrite) as (counts, bitmaps):
            counts[:] = self.counts
            bitmaps[:] = np.frombuffer(self._bitmaps, np.uint8).reshape(bitmaps.shape)

    def __len__(self) -> int:
        return self.n_bits

    def __getitem__(self, feature: int) -> RowSet:
        """Return the rows of a feature; nothing is copied, and the first time it is checked.

        Raises:
            ValueRangeError: there is no such feature.
            FormatError: its bitmap is damaged.
        """
        if not 0 <= feature < self.n_bits:
            raise ValueRangeError(f"feature must be between 0 and {self.n_bits - 1}, got {feature}")
        start = feature * self._stride
        part = self._bitmaps[start : start + self._stride]
        if not self._is_checked[feature]:
            self._check_bitmap(feature, part)
        return RowSet(bitarray(buffer=part, endian="little"), n_rows=self.n_rows)

    def _check_bitmap(self, feature: int, part: memoryview) -> None:
        if self._checksums is not None and zlib.crc32(part) != self._checksums[feature]:
            raise FormatError(f"the bitmap of feature {feature} is damaged: build the file again")
        self._is_checked[feature] = True

    def __iter__(self) -> Iterator[RowSet]:
        return (self[feature] for feature in range(self.n_bits))

    def all(self) -> RowSet:
        """Return the set of all rows."""
        return ~self.none()

    def none(self) -> RowSet:
        """Return the set of no rows."""
        return RowSet(bitarray(8 * self._stride, endian="little"), n_rows=self.n_rows)

    def check(self) -> None:
        """Read all bitmaps and hold them against their counts; `open` reads none.

        Raises:
            FormatError: a bitmap is damaged; names the feature.
        """
        for feature, rows in enumerate(self):
            inside = int(rows.to_bitarray().count())
            if not inside == len(rows) == self.counts[feature]:
                raise FormatError(
                    f"feature {feature} has {len(rows)} rows, but {self.counts[feature]} were "
                    "counted: the file is damaged, build it again"
                )


def _fill(bitmaps: np.ndarray, batches: Iterable[np.ndarray], *, n_rows: int) -> np.ndarray:
    """Transpose rows into bitmaps of zeros and return the counts.

    Args:
        bitmaps: (h, stride) uint8 of zeros, changed.
        batches: (b, ceil(h / 8)) uint8 each.
        n_rows: of all batches.
    """
    n_bits, done = len(bitmaps), 0
    counts = np.zeros(n_bits, dtype=np.int64)
    for block in _blocks(batches, n_bits=n_bits):
        if done + len(block) > n_rows:
            raise ShapeError(f"expected {n_rows} rows, got more: pass their number as n_rows")
        columns = np.ascontiguousarray(unpack(block, n_bits=n_bits).T)
        bytes_ = np.packbits(columns, axis=1, bitorder="little")
        bitmaps[:, done // 8 : done // 8 + bytes_.shape[1]] = bytes_
        counts += np.bitwise_count(bytes_).sum(axis=1, dtype=np.int64)
        done += len(block)
    if done != n_rows:
        raise ShapeError(f"expected {n_rows} rows, got {done}: pass their number as n_rows")
    return counts


def _blocks(batches: Iterable[np.ndarray], *, n_bits: int) -> Iterator[np.ndarray]:
    """Cut batches into blocks of `BLOCK_ROWS` rows, so that all but the last fill whole bytes."""
    waiting: list[np.ndarray] = []
    for batch in batches:
        check_packed(batch, n_bits=n_bits)
        start = 0
        while start < len(batch):
            room = BLOCK_ROWS - sum(map(len, waiting))
            waiting.append(batch[start : start + room])
            start += len(waiting[-1])
            if len(waiting[-1]) == room:
                yield np.concatenate(waiting)
                waiting = []
    if waiting:
        yield np.concatenate(waiting)
