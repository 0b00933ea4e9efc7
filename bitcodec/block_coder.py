"""Blocks of packed rows as bytes near their entropy, and back.

The table says how a row's bits are coded: see `bitcodec.profile_coder`, `bitcodec.context_coder`.
Side bytes follow, column by column. The upper byte of a factor or a length takes few values, on
which a block's own histogram saves six of its eight bits; the lower byte is noise and takes eight.

Format of a block:

    8s   digest of the block's place, its rows and their number of side bytes
    u8   for each side byte: the number of values in its histogram, 0 for eight bits a value
         after each number, (u8, u8) for each value: the value, and its weight from 1
    u32  with a context table: the number of bytes of the bits, and these
    u32  words of the range coder, little-endian: the bits with any other table, the side bytes
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import numpy as np

from bitcodec.bits import check_packed, row_bytes
from bitcodec.config import SIDE_BYTES
from bitcodec.errors import ConfigError, FormatError, ShapeError
from bitcodec.probability import Buffer
from bitcodec.profile_coder import categoricals
from bitcodec.tables import Table, bits_coder

MAX_BLOCK_ROWS = 2**16
"""Rows of the largest block."""
MAX_BLOCK_BYTES = 2**28
"""Packed bytes of the largest block."""
_DIGEST_BYTES = 8
_SLACK_BITS = 128  # by which a range coder's words may fall short of the information
# A histogram of v values takes 16 v bits, and its rows about log2(v) bits or less: it saves a bit
# of a row's eight or more where there are no more values than this, and eight rows to each.
_MOST_VALUES, _ROWS_PER_VALUE = 32, 8


class BlockCoder:
    """Code blocks of rows with one table; its models are built once and kept.

    Threads may share one.

    Args:
        table: the probabilities of the bits.
        side_bytes: bytes of a row after those of its bits, 0, 2 or 4.

    Raises:
        ConfigError: `side_bytes` is another number.
    """

    def __init__(self, table: Table, side_bytes: int = 0) -> None:
        if side_bytes not in SIDE_BYTES:
            raise ConfigError(f"side_bytes must be 0, 2 or 4, got {side_bytes}")
        self.table, self.side_bytes = table, side_bytes
        self.code_bytes = row_bytes(table.n_bits)
        self.row_bytes = self.code_bytes + side_bytes
        self._bits = bits_coder(table)

    def __reduce__(self) -> tuple[type[BlockCoder], tuple[Table, int]]:
        """Pickle the table; the models are built again."""
        return BlockCoder, (self.table, self.side_bytes)

    def check_rows(self, packed: np.ndarray) -> None:
        """Raise unless an array holds (n, ceil(h / 8) + side_bytes) uint8 rows.

        Raises:
            ShapeError: the width is not that of h bits and the side bytes.
            ValueRangeError: the dtype is not uint8, or a pad bit is set.
        """
        if packed.ndim != 2 or packed.shape[1] != self.row_bytes:
            raise ShapeError(
                f"packed must be (n, {self.row_bytes}) for {self.table.n_bits} bits and "
                f"{self.side_bytes} side bytes, got {packed.shape}"
            )
        check_packed(packed[:, : self.code_bytes], n_bits=self.table.n_bits)

    def encode(self, packed: np.ndarray, *, place: int = 0) -> bytes:
        """Encode a block.

        Args:
            packed: (n, ceil(h / 8) + side_bytes) uint8, n up to 65,536.
            place: number of the block's first row, bound into its digest.

        Returns:
            The block, as the module says.

        Raises:
            ShapeError, ValueRangeError: as `check_rows`; or there are too many rows.
        """
        self.check_rows(packed)
        if len(packed) > MAX_BLOCK_ROWS or packed.size > MAX_BLOCK_BYTES:
            raise ShapeError(
                f"a block has at most {MAX_BLOCK_ROWS} rows and {MAX_BLOCK_BYTES} bytes, got "
                f"{packed.shape}: choose a smaller block_rows"
            )
        body, encoder = self._bits.encode(packed[:, : self.code_bytes])
        head = self._digest(packed, place)
        for column in packed[:, self.code_bytes :].T:
            histogram = _histogram(column)
            head += bytes([len(histogram)]) + histogram.tobytes()
            encoder.encode(column.astype(np.int32), _histogram_model(histogram))
        words: bytes = encoder.get_compressed().astype("<u4").tobytes()
        return head + body + words

    def check_size(self, size: int, *, n_rows: int) -> None:
        """Raise unless a block of `size` bytes can hold `n_rows` rows.

        Raises:
            FormatError: it cannot.
        """
        free = size - _DIGEST_BYTES - self.side_bytes
        small = n_rows <= MAX_BLOCK_ROWS and n_rows * self.row_bytes <= MAX_BLOCK_BYTES
        if not (free >= 0 and small and n_rows * self.table.least_bits <= 8 * free + _SLACK_BITS):
            raise FormatError(
                f"a block of {size} bytes cannot hold {n_rows} rows: the file is damaged"
            )

    def decode(self, data: Buffer, *, n_rows: int, place: int = 0) -> np.ndarray:
        """Decode a block.

        Args:
            data: what `encode` returned.
            n_rows: its number of rows.
            place: as it was given to `encode`.

        Returns:
            (n_rows, ceil(h / 8) + side_bytes) uint8.

        Raises:
            FormatError: the block is damaged, from another place or coded with another table.
        """
        view = memoryview(data).cast("B")
        self.check_size(len(view), n_rows=n_rows)
        try:
            packed = self._decode_rows(view[_DIGEST_BYTES:], n_rows)
        except (AssertionError, IndexError, KeyError, ValueError) as error:
            raise FormatError(f"the block at row {place} is damaged: {error}") from error
        if self._digest(packed, place) != view[:_DIGEST_BYTES]:
            raise FormatError(f"the block at row {place} is damaged: its checksum does not match")
        return packed

    def _decode_rows(self, view: memoryview, n_rows: int) -> np.ndarray:
        histograms, view = _read_histograms(view, self.side_bytes)
        codes, decoder = self._bits.decode(view, n_rows)
        packed = np.empty((n_rows, self.row_bytes), dtype=np.uint8)
        packed[:, : self.code_bytes] = codes
        for column, histogram in enumerate(histograms, start=self.code_bytes):
            packed[:, column] = decoder.decode(_histogram_model(histogram), n_rows)
        if not decoder.maybe_exhausted():
            raise ValueError("bytes are left over")
        return packed

    def _digest(self, packed: np.ndarray, place: int) -> bytes:
        return hashlib.blake2b(
            np.ascontiguousarray(packed).data,
            digest_size=_DIGEST_BYTES,
            key=self.table.digest,
            salt=struct.pack("<Q", place),
            person=bytes([self.side_bytes]),  # BLAKE2b takes a 0 for nothing at all
        ).digest()


def _histogram(column: np.ndarray) -> np.ndarray:
    # (v, 2) uint8, a column's values and their weights; (0, 2) where it would not pay.
    counts = np.bincount(column, minlength=256)
    values = np.flatnonzero(counts)
    if len(values) > min(_MOST_VALUES, len(column) // _ROWS_PER_VALUE):
        values = values[:0]
    weights = -(-255 * counts[values] // max(counts.max(), 1))  # rounded up: no weight is 0
    return np.stack([values, weights], axis=1).astype(np.uint8)


def _read_histograms(view: memoryview, n_columns: int) -> tuple[list[np.ndarray], memoryview]:
    # The histograms that a block starts with, and the rest of it.
    histograms = []
    for _ in range(n_columns):
        n_values = view[0]
        histogram = np.frombuffer(view[1:], np.uint8, 2 * n_values).reshape(n_values, 2)
        if not histogram[:, 1].all():
            raise ValueError("a side byte's value has no weight")
        histograms.append(histogram)
        view = view[1 + 2 * n_values :]
    return histograms, view


def _histogram_model(histogram: np.ndarray) -> Any:
    likelihoods = np.zeros((1, 256), dtype=np.uint64)
    likelihoods[0, histogram[:, 0]] = histogram[:, 1]
    return categoricals(likelihoods if len(histogram) else likelihoods + 1)[0]
