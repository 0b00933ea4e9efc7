"""The Zarr codec `bitcodec.bernoulli`: a chunk of packed rows as one range-coded block."""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
import struct
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.registry import register_codec

from bitcodec.block_coder import BlockCoder
from bitcodec.config import SIDE_BYTES
from bitcodec.errors import ConfigError, FormatError
from bitcodec.tables import Table, read_table

CODEC_NAME = "bitcodec.bernoulli"
_NEEDED, _KNOWN = {"n_bits", "table"}, {"n_bits", "table", "side_bytes"}
_HEAD = struct.Struct("<I")  # rows that are coded; those after them are zero


@dataclass(frozen=True)
class BernoulliCodec(ArrayBytesCodec):
    """Range coding of (rows, row_bytes) uint8 chunks with an integer probability table.

    The table is in the array's metadata. A chunk is a u32, the number of rows up to the last one
    that is not zero, and those rows as one block of `bitcodec.block_coder`.
    """

    is_fixed_size = False

    table: Table
    """Probabilities of the bits."""
    side_bytes: int = 0
    """Bytes of a row after those of its bits; where they are none, the metadata leave them out."""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Read the codec from the array's metadata.

        Raises:
            FormatError: the configuration is not that of this codec.
        """
        configuration = data.get("configuration")
        if data.get("name") != CODEC_NAME or not isinstance(configuration, dict):
            raise FormatError(f"expected a configured {CODEC_NAME}, got {data.get('name')!r}")
        if not _NEEDED <= set(configuration) <= _KNOWN:
            raise FormatError(f"{CODEC_NAME} takes {sorted(_KNOWN)}, got {sorted(configuration)}")
        side_bytes = configuration.get("side_bytes", 0)
        if not isinstance(side_bytes, int) or side_bytes not in SIDE_BYTES:
            raise FormatError(f"{CODEC_NAME}: side_bytes must be 0, 2 or 4, got {side_bytes!r}")
        try:
            content = base64.b64decode(configuration["table"], validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise FormatError(f"{CODEC_NAME}: the table is not base64: {error}") from error
        table = read_table(content)
        if configuration["n_bits"] != table.n_bits:
            raise FormatError(
                f"{CODEC_NAME} says {configuration['n_bits']!r} bits, its table {table.n_bits}"
            )
        return cls(table, side_bytes)

    def to_dict(self) -> dict[str, Any]:
        """Return the codec's part of the array's metadata."""
        table = base64.b64encode(self.table.to_bytes()).decode()
        configuration = {"n_bits": self.table.n_bits, "table": table}
        if self.side_bytes:
            configuration["side_bytes"] = self.side_bytes
        return {"name": CODEC_NAME, "configuration": configuration}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Refuse arrays that do not hold packed rows of the table's bits and the side bytes.

        Raises:
            ConfigError: the dtype is not uint8, or the width is not that of the rows.
        """
        del chunk_grid
        width = coder_of(self.table, self.side_bytes).row_bytes
        if dtype.to_native_dtype() != np.uint8 or len(shape) != 2 or shape[1] != width:
            raise ConfigError(
                f"{CODEC_NAME} of {self.table.n_bits} bits and {self.side_bytes} side bytes takes "
                f"(n, {width}) uint8, got {shape} {dtype}"
            )

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Raise: the size depends on the rows."""
        raise NotImplementedError

    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        n_rows, width = chunk_spec.shape
        coder = coder_of(self.table, self.side_bytes)
        if width != coder.row_bytes:
            raise FormatError(f"a chunk is of {width} bytes a row, not of {coder.row_bytes}")
        packed = decode_chunk(chunk_data.to_bytes(), coder, n_rows=n_rows)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(packed)

    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        packed = np.asarray(chunk_data.as_numpy_array())
        used = np.flatnonzero(packed.any(axis=1))
        n_coded = int(used[-1]) + 1 if len(used) else 0
        block = coder_of(self.table, self.side_bytes).encode(packed[:n_coded])
        return chunk_spec.prototype.buffer.from_bytes(_HEAD.pack(n_coded) + block)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)


def decode_chunk(data: bytes, coder: BlockCoder, *, n_rows: int) -> np.ndarray:
    """Decode a chunk.

    Args:
        data: as `BernoulliCodec` encodes it.
        coder: of the table and the side bytes.
        n_rows: rows of a chunk.

    Returns:
        (n_rows, row_bytes) uint8; rows after the last one that was not zero are zero.

    Raises:
        FormatError: the chunk is damaged.
    """
    if len(data) < _HEAD.size:
        raise FormatError(f"a chunk of {len(data)} bytes is truncated")
    (n_coded,) = _HEAD.unpack_from(data)
    if n_coded > n_rows:
        raise FormatError(f"a chunk of {n_rows} rows says it holds {n_coded}: it is damaged")
    packed = np.zeros((n_rows, coder.row_bytes), dtype=np.uint8)
    packed[:n_coded] = coder.decode(data[_HEAD.size :], n_rows=n_coded)
    return packed


@functools.lru_cache(maxsize=8)
def coder_of(table: Table, side_bytes: int) -> BlockCoder:
    """Return the coder of a table and a number of side bytes, the same whenever it is asked for.

    Zarr makes many codec objects of one table; its models are built once.

    Raises:
        ConfigError: there are not 0, 2 or 4 side bytes.
    """
    return BlockCoder(table, side_bytes)


# Zarr finds the codec by entry point; so does a checkout that was never installed.
register_codec(CODEC_NAME, BernoulliCodec)
