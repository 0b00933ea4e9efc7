"""What an archive's metadata say, and the seal that finds damage in them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Self, get_args

import numpy as np
import zarr
from zarr.codecs import ShardingCodec

from bitcodec.bits import row_bytes
from bitcodec.block_coder import MAX_BLOCK_BYTES, MAX_BLOCK_ROWS, BlockCoder
from bitcodec.config import Precision
from bitcodec.errors import ConfigError, FormatError
from bitcodec_zarr.array_codec import BernoulliCodec, coder_of

FORMAT = "bitcodec-archive"
PLAIN_VERSION, SIDE_VERSION, FORMAT_VERSION = 1, 2, 3
"""Version 2 added side bytes; version 3, which is written, says how the codes were computed."""
ATTRIBUTE = "bitcodec"
MAX_ROWS = 2**53
"""Rows of the largest archive: what JSON's readers all take for whole numbers."""


@dataclass(frozen=True)
class ArchiveHeader:
    """Everything that decides what an archive's bytes mean."""

    n_rows: int
    """Visible rows."""
    n_bits: int
    """True bits h of a row."""
    side_bytes: int
    """Bytes of a row after those of its bits."""
    chunk_rows: int
    """Rows that are decoded together."""
    shard_rows: int
    """Rows of one stored object."""
    fingerprint: str
    """Of the codec that made the codes."""
    table_digest: str
    """Of the probability table, hexadecimal."""
    compute: Precision | None = None
    """Precision of the products that made the codes; None in archives before version 3, which do
    not say."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be.

        Raises:
            ConfigError: there are too many rows, chunks or shards are too large, shards are not
                whole chunks, or the precision is none that there is.
        """
        if self.compute not in (None, *get_args(Precision)):
            raise ConfigError(
                f"compute must be one of {', '.join(get_args(Precision))}, got {self.compute!r:.40}"
            )
        if not 0 <= self.n_rows < MAX_ROWS:
            raise ConfigError(f"n_rows must be 0 to {MAX_ROWS}, got {self.n_rows!r:.40}")
        if not 1 <= self.chunk_rows <= MAX_BLOCK_ROWS:
            raise ConfigError(f"chunk_rows must be 1 to {MAX_BLOCK_ROWS}, got {self.chunk_rows}")
        if self.shard_rows < 1 or self.shard_rows % self.chunk_rows:
            raise ConfigError(
                f"shard_rows must be a multiple of chunk_rows, got {self.shard_rows} and "
                f"{self.chunk_rows}"
            )
        if self.shard_rows * self.row_bytes > MAX_BLOCK_BYTES:
            raise ConfigError(
                f"a shard holds at most {MAX_BLOCK_BYTES} packed bytes, got {self.shard_rows} rows "
                f"of {self.row_bytes}: choose a smaller shard_rows"
            )

    @property
    def row_bytes(self) -> int:
        """Bytes of a packed row."""
        return row_bytes(self.n_bits) + self.side_bytes

    @property
    def format_version(self) -> int:
        """The oldest version that can say what this header says."""
        if self.compute is not None:
            return FORMAT_VERSION
        return SIDE_VERSION if self.side_bytes else PLAIN_VERSION

    @property
    def seal(self) -> str:
        """SHA-256 of the header, hexadecimal."""
        content = {"version": self.format_version, **asdict(self)}
        if self.format_version == PLAIN_VERSION:
            del content["side_bytes"]
        if self.format_version < FORMAT_VERSION:
            del content["compute"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def attributes(self) -> dict[str, Any]:
        """Return the array's attributes."""
        content = {"format": FORMAT, "format_version": self.format_version}
        said = {} if self.compute is None else {"compute": self.compute}
        own = {"fingerprint": self.fingerprint, **said, "seal": self.seal}
        return {ATTRIBUTE: content | own}

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> tuple[Self, BlockCoder]:
        """Read and check the metadata of a Zarr array.

        Returns:
            The header, and the coder of the rows.

        Raises:
            FormatError: the array is no archive, damaged or of a newer format.
        """
        coder, chunk_rows, shard_rows = _coder_of(array)
        content = array.attrs.asdict().get(ATTRIBUTE)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise FormatError(f"the array's attributes are not those of a {FORMAT}")
        version = content.get("format_version")
        if version not in (PLAIN_VERSION, SIDE_VERSION, FORMAT_VERSION):
            raise FormatError(
                f"the archive is of format {version!r}, this version reads up to {FORMAT_VERSION}: "
                "upgrade bitcodec, if it is newer"
            )
        try:
            header = cls(
                n_rows=array.shape[0],
                n_bits=coder.table.n_bits,
                side_bytes=coder.side_bytes,
                chunk_rows=chunk_rows,
                shard_rows=shard_rows,
                fingerprint=str(content.get("fingerprint")),
                table_digest=coder.table.digest.hex(),
                compute=content.get("compute"),
            )
        except ConfigError as error:
            raise FormatError(f"the archive's metadata are impossible: {error}") from error
        if header.format_version != version or header.seal != content.get("seal"):
            raise FormatError("the archive's metadata are damaged: their seal does not match")
        return header, coder


def _coder_of(array: zarr.Array[Any]) -> tuple[BlockCoder, int, int]:
    metadata: Any = array.metadata
    codecs, shard_shape = metadata.codecs, metadata.chunk_grid.chunk_shape
    sharding = codecs[0]
    if len(codecs) != 1 or not isinstance(sharding, ShardingCodec) or len(sharding.codecs) != 1:
        raise FormatError("the array is not sharded as an archive of bitcodec is")
    inner = sharding.codecs[0]
    if not isinstance(inner, BernoulliCodec):
        raise FormatError(f"the array's chunks are not coded by bitcodec but by {inner!r:.80}")
    coder = coder_of(inner.table, inner.side_bytes)
    width = coder.row_bytes
    shapes = (array.shape[1:], shard_shape[1:], sharding.chunk_shape[1:])
    if array.dtype != np.uint8 or array.fill_value != 0 or shapes != ((width,),) * 3:
        raise FormatError(
            f"an archive of {inner.table.n_bits} bits and {inner.side_bytes} side bytes is "
            f"(n, {width}) uint8 over 0"
        )
    return coder, sharding.chunk_shape[0], shard_shape[0]
