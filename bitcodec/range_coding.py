"""Packed rows as bytes near their entropy, and back.

Rows are coded in blocks by a range coder (`bitcodec.block_coder`) with a table of integer
probabilities. A table of kind 1 (`bitcodec.probability`) has one probability a bit, which reaches
the sum of the bits' entropies; one of kind 2 has several profiles, which go below that sum; one of
kind 3 (`bitcodec.context_table`) lets bits depend on each other and on the row before, which goes
lowest.

Format of `compress`, little-endian throughout, version 1 for rows without side bytes and 2 with:

    8s  "bitrange"        u16 version        u8 flags: 1 if the table is inside    u8 side_bytes
    u32 n_bits            u32 block_rows     u32 table_size      u64 n_rows
    16s digest of the table
    table_size bytes      the table
    u32 for each block    its size
    16s digest of everything so far
    the blocks            as `bitcodec.block_coder` says
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from bitcodec.block_coder import MAX_BLOCK_ROWS, BlockCoder
from bitcodec.config import SIDE_BYTES
from bitcodec.context_learning import learn_context
from bitcodec.context_table import ContextTable
from bitcodec.errors import ConfigError, FormatError, MismatchError, ValueRangeError
from bitcodec.probability import DIGEST_BYTES, Buffer, ProbabilityTable, digest_of, unpack_header
from bitcodec.tables import Table, read_table

__all__ = [
    "ContextTable",
    "ProbabilityTable",
    "Table",
    "compress",
    "decompress",
    "learn_context",
    "read_rows",
]

_PLAIN_VERSION, _SIDE_VERSION = 1, 2
_HEADER, _MAGIC = struct.Struct("<8sHBBIIIQ16s"), b"bitrange"


def compress(
    packed: np.ndarray,
    table: Table,
    *,
    side_bytes: int = 0,
    block_rows: int = 1024,
    embed_table: bool = True,
) -> bytes:
    """Code packed rows near their entropy.

    Args:
        packed: (n, ceil(h / 8) + side_bytes) uint8.
        table: probabilities of the bits of rows like these.
        side_bytes: bytes of a row after those of its bits, 0, 2 or 4.
        block_rows: rows that are decoded together, from 1 to 65,536; fewer make single rows
            cheaper to read and cost some bytes.
        embed_table: put the table into the result; otherwise `decompress` needs it.

    Returns:
        Self-describing bytes, as the module says.

    Raises:
        ConfigError: `block_rows` or `side_bytes` is out of range.
        ShapeError: the width is not that of the table's bits and the side bytes.
        ValueRangeError: the dtype is not uint8, or a pad bit is set.
    """
    if not 1 <= block_rows <= MAX_BLOCK_ROWS:
        raise ConfigError(f"block_rows must be 1 to {MAX_BLOCK_ROWS}, got {block_rows}")
    coder = BlockCoder(table, side_bytes)
    coder.check_rows(packed)
    starts = range(0, len(packed), block_rows)
    blocks = [coder.encode(packed[start : start + block_rows], place=start) for start in starts]
    inside = table.to_bytes() if embed_table else b""
    head = _HEADER.pack(
        _MAGIC,
        _SIDE_VERSION if side_bytes else _PLAIN_VERSION,
        int(embed_table),
        side_bytes,
        table.n_bits,
        block_rows,
        len(inside),
        len(packed),
        table.digest,
    )
    sizes = np.array([len(block) for block in blocks], dtype="<u4").tobytes()
    start = head + inside + sizes
    return b"".join([start, digest_of(start), *blocks])


def decompress(
    data: Buffer, *, table: Table | None = None, row: tuple[int, int] | None = None
) -> np.ndarray:
    """Decode what `compress` made.

    Args:
        data: the bytes; a memory map will do.
        table: the probabilities, for data without their own.
        row: the bits and the side bytes that rows must have; None takes any.

    Returns:
        (n, ceil(h / 8) + side_bytes) uint8.

    Raises:
        FormatError: the data are truncated, foreign, damaged or of a newer format.
        MismatchError: the data have no table and `table` is missing or another, or their rows are
            others than `row` says.
    """
    content = _Content.read(data, table)
    found = content.coder.table.n_bits, content.coder.side_bytes
    if row is not None and found != row:
        raise MismatchError(
            f"rows must have {row[0]} bits and {row[1]} side bytes, got {found[0]} and {found[1]}: "
            "another codec made them"
        )
    return content.rows(0, content.n_rows)


def read_rows(data: Buffer, start: int, stop: int, *, table: Table | None = None) -> np.ndarray:
    """Decode some rows of what `compress` made, and only the blocks they lie in.

    Args:
        data: the bytes; a memory map will do.
        start: first row.
        stop: row after the last.
        table: the probabilities, for data without their own.

    Returns:
        (stop - start, ceil(h / 8) + side_bytes) uint8.

    Raises:
        ValueRangeError: the rows are not all there.
        FormatError: the data are truncated, foreign, damaged or of a newer format.
        MismatchError: the data have no table and `table` is missing or another.
    """
    content = _Content.read(data, table)
    if not 0 <= start <= stop <= content.n_rows:
        raise ValueRangeError(f"rows must lie in 0 to {content.n_rows}, got {start} to {stop}")
    return content.rows(start, stop)


@dataclass(frozen=True)
class _Content:
    """Checked bytes of `compress`."""

    coder: BlockCoder
    n_rows: int
    block_rows: int
    offsets: np.ndarray
    view: memoryview

    @classmethod
    def read(cls, data: Buffer, table: Table | None) -> Self:
        view = memoryview(data).cast("B")
        side_bytes, n_bits, block_rows, table_size, n_rows, digest = _read_header(view)
        sizes_at = _HEADER.size + table_size
        n_blocks = -(-n_rows // block_rows)
        end = sizes_at + 4 * n_blocks
        if end + DIGEST_BYTES > len(view):
            raise FormatError(f"compressed codes end within their header: {len(view)} bytes")
        if digest_of(view[:end]) != view[end : end + DIGEST_BYTES]:
            raise FormatError("compressed codes are damaged: the header's checksum does not match")
        if table_size:
            table = read_table(view[_HEADER.size : sizes_at])
        if table is None:
            raise MismatchError("these codes carry no probability table: pass `table`")
        if table.digest != digest or table.n_bits != n_bits:
            raise MismatchError("these codes were compressed with another probability table")
        sizes = np.frombuffer(view, "<u4", n_blocks, sizes_at).astype(np.int64)
        offsets = end + DIGEST_BYTES + np.concatenate([[0], sizes.cumsum()])
        if offsets[-1] != len(view):
            raise FormatError(f"compressed codes take {offsets[-1]} bytes, got {len(view)}")
        return cls(BlockCoder(table, side_bytes), n_rows, block_rows, offsets, view)

    def rows(self, start: int, stop: int) -> np.ndarray:
        first, last = start // self.block_rows, -(-stop // self.block_rows)
        blocks = range(first, last if stop > start else first)
        for block in blocks:  # before anything is allocated
            self.coder.check_size(int(np.diff(self.offsets)[block]), n_rows=self._n_rows(block))
        packed = np.empty((stop - start, self.coder.row_bytes), dtype=np.uint8)
        for block in blocks:
            place = block * self.block_rows
            data = self.view[self.offsets[block] : self.offsets[block + 1]]
            rows = self.coder.decode(data, n_rows=self._n_rows(block), place=place)
            inside = slice(max(start - place, 0), stop - place)
            packed[max(place - start, 0) :][: len(rows[inside])] = rows[inside]
        return packed

    def _n_rows(self, block: int) -> int:
        return min(self.block_rows, self.n_rows - block * self.block_rows)


def _read_header(view: memoryview) -> list[Any]:
    # The fields after the flags. Version 1 has a 0 where version 2 has the side bytes.
    found = int.from_bytes(view[8:10], "little")
    version = _PLAIN_VERSION if found <= _PLAIN_VERSION else _SIDE_VERSION
    flags, side_bytes, n_bits, block_rows, table_size, *rest = unpack_header(
        _HEADER, view, magic=_MAGIC, version=version, what="compressed codes"
    )
    known = flags <= 1 and side_bytes in SIDE_BYTES and 1 <= block_rows <= MAX_BLOCK_ROWS
    told = (table_size > 0) == flags and (side_bytes > 0) == (version == _SIDE_VERSION)
    if not (known and told):
        raise FormatError("compressed codes have an impossible header: they are damaged")
    return [side_bytes, n_bits, block_rows, table_size, *rest]
