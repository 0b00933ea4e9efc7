"""The reading half of an archive: its properties, slices, batches and floats."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any, SupportsIndex

import numpy as np
import zarr
from numpy.typing import ArrayLike

from bitcodec.config import Precision
from bitcodec.errors import MismatchError, ShapeError
from bitcodec.tables import Table
from bitcodec_zarr.array_codec import decode_chunk
from bitcodec_zarr.metadata import ArchiveHeader
from bitcodec_zarr.protocol import Codec
from bitcodec_zarr.store import read_rows, reading

Rows = int | slice | ArrayLike
"""Which rows of an archive: a number, a slice, or numbers."""


class ArchiveReader:
    """Packed rows in a Zarr array, to be read; `PackedArchive` adds writing.

    Args:
        array: the Zarr array.

    Raises:
        FormatError: the array is no archive, damaged or of a newer format.
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        with reading("the archive's metadata"):
            self._header, self._coder = ArchiveHeader.of(array)
        self._array = array

    @property
    def header(self) -> ArchiveHeader:
        """Everything that decides what the archive's bytes mean."""
        return self._header

    @property
    def n_rows(self) -> int:
        """Rows of the archive."""
        return self._header.n_rows

    @property
    def n_bits(self) -> int:
        """True bits h of a row."""
        return self._header.n_bits

    @property
    def row_bytes(self) -> int:
        """Bytes of a packed row, side bytes included."""
        return self._header.row_bytes

    @property
    def side_bytes(self) -> int:
        """Bytes of a row after those of its bits."""
        return self._header.side_bytes

    @property
    def chunk_rows(self) -> int:
        """Rows that are decoded together."""
        return self._header.chunk_rows

    @property
    def shard_rows(self) -> int:
        """Rows of one stored object."""
        return self._header.shard_rows

    @property
    def fingerprint(self) -> str:
        """Of the codec that made the codes."""
        return self._header.fingerprint

    @property
    def compute(self) -> Precision | None:
        """Precision of the products that made the codes; None in archives that do not say."""
        return self._header.compute

    @property
    def table(self) -> Table:
        """The probabilities that the rows' bits are coded with."""
        return self._coder.table

    @property
    def bytes_stored(self) -> int:
        """Bytes of all stored objects, metadata and table included."""
        return int(self._array.nbytes_stored())

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.n_rows

    def __repr__(self) -> str:
        """Describe the archive in one line."""
        where = self._array.store_path
        return f"{type(self).__name__}({str(where)!r}, n_rows={self.n_rows}, n_bits={self.n_bits})"

    def __getitem__(self, rows: Rows) -> np.ndarray:
        """Read packed rows; only the chunks they lie in are fetched and decoded.

        Args:
            rows: a slice, as of a list; a row's number; or (n,) numbers in any order.

        Returns:
            (n, row_bytes) uint8; or (row_bytes,) for a single number.

        Raises:
            IndexError: a number is out of range.
            ShapeError: it is none of these.
            FormatError: a chunk is damaged or missing.
            FileError: the store cannot be read.
        """
        if isinstance(rows, slice):
            chosen = range(*rows.indices(self.n_rows))
            ascending = chosen if chosen.step > 0 else chosen[::-1]
            if not len(ascending):
                return np.empty((0, self.row_bytes), dtype=np.uint8)
            packed = self._read(ascending[0], ascending[-1] + 1)[:: ascending.step]
            return packed if chosen.step > 0 else packed[::-1]
        if np.ndim(rows) or not isinstance(rows, SupportsIndex):
            return self._gather(_numbers(rows, n_rows=self.n_rows))
        row = range(self.n_rows)[operator.index(rows)]
        single: np.ndarray = self._read(row, row + 1)[0]
        return single

    def batches(self, n_rows: int | None = None) -> Iterator[np.ndarray]:
        """Read all rows in order, some at a time.

        Args:
            n_rows: rows of a batch; those of a shard by default.

        Yields:
            (b, row_bytes) uint8.

        Raises:
            FormatError: a chunk is damaged or missing.
            FileError: the store cannot be read.
        """
        step = n_rows or self.shard_rows
        for start in range(0, self.n_rows, step):
            yield self._read(start, min(start + step, self.n_rows))

    def decode(self, rows: Rows, codec: Codec) -> np.ndarray:
        """Read rows as floats.

        Args:
            rows: as for indexing.
            codec: the codec that made the codes.

        Returns:
            (n, d) float32; or (d,) for a single number.

        Raises:
            MismatchError: another codec made the codes.
            IndexError: a number is out of range.
            ShapeError: the rows are none of what indexing takes.
            FormatError: a chunk is damaged or missing.
            FileError: the store cannot be read.
        """
        self.require_codec(codec.fingerprint_)
        return codec.decode(self[rows])

    def require_codec(self, fingerprint: str) -> None:
        """Raise unless the codec of a fingerprint made the codes.

        Raises:
            MismatchError: another codec made them.
        """
        if fingerprint != self.fingerprint:
            raise MismatchError(
                f"the archive was made by codec {self.fingerprint[:12]}, not by "
                f"{fingerprint[:12]}: use the codec that encoded it"
            )

    def _gather(self, numbers: np.ndarray) -> np.ndarray:
        """Read rows one chunk after another, each once; (n,) numbers within the archive."""
        packed = np.empty((len(numbers), self.row_bytes), dtype=np.uint8)
        order = np.argsort(numbers, kind="stable")
        chunks = numbers[order] // self.chunk_rows
        ends = np.flatnonzero(np.diff(chunks, append=-1)) + 1
        for first, last in pairwise([0, *ends.tolist()]):
            members = order[first:last]
            start = int(numbers[members[0]])
            read = self._read(start, int(numbers[members[-1]]) + 1)
            packed[members] = read[numbers[members] - start]
        return packed

    def _read(self, start: int, stop: int) -> np.ndarray:
        decode = partial(decode_chunk, coder=self._coder, n_rows=self.chunk_rows)
        with reading(f"rows {start} to {stop}"):
            packed = read_rows(self._array, self._header, decode, start=start, stop=stop)
            self._coder.check_rows(packed)
        return packed


def _numbers(rows: ArrayLike, *, n_rows: int) -> np.ndarray:
    """Return numbers of rows, those from the end counted from the start, (n,) int64."""
    given = np.asarray(rows)
    is_numbers = given.dtype.kind in "iu" or not given.size
    if isinstance(rows, tuple) or given.ndim != 1 or not is_numbers:
        raise ShapeError(
            "rows of an archive are chosen by a number, a slice or (n,) whole numbers, got "
            f"{rows!r:.80}: of a mask take numpy.flatnonzero"
        )
    outside = (given < -n_rows) | (given >= n_rows)
    if outside.any():
        raise IndexError(f"row {given[outside][0]} is out of range: the archive has {n_rows} rows")
    numbers = given.astype(np.int64)
    numbers[numbers < 0] += n_rows
    return numbers
