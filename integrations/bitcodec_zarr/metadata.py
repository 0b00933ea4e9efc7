"""What an archive's metadata say, and the seal that finds damage in them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import zarr
from zarr.codecs import ShardingCodec

from bitcodec.bits import row_bytes
from bitcodec.block_coder import MAX_BLOCK_BYTES, MAX_BLOCK_ROWS
from bitcodec.errors import ConfigError, FormatError
from bitcodec.probability import ProbabilityTable
from bitcodec_zarr.array_codec import BernoulliCodec

FORMAT, FORMAT_VERSION = "bitcodec-archive", 1
ATTRIBUTE = "bitcodec"


@dataclass(frozen=True)
class ArchiveHeader:
    """Everything that decides what an archive's bytes mean."""

    n_rows: int
    """Visible rows."""
    n_bits: int
    """True bits h of a row."""
    chunk_rows: int
    """Rows that are decoded together."""
    shard_rows: int
    """Rows of one stored object."""
    fingerprint: str
    """Of the codec that made the codes."""
    table_digest: str
    """Of the probability table, hexadecimal."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be.

        Raises:
            ConfigError: chunks or shards are too large, or shards are not whole chunks.
        """
        if not 1 <= self.chunk_rows <= MAX_BLOCK_ROWS:
            raise ConfigError(f"chunk_rows must be 1 to {MAX_BLOCK_ROWS}, got {self.chunk_rows}")
        if self.shard_rows < 1 or self.shard_rows % self.chunk_rows:
            raise ConfigError(
                f"shard_rows must be a multiple of chunk_rows, got {self.shard_rows} and "
                f"{self.chunk_rows}"
            )
        if self.shard_rows * row_bytes(self.n_bits) > MAX_BLOCK_BYTES:
            raise ConfigError(
                f"a shard holds at most {MAX_BLOCK_BYTES} packed bytes, got {self.shard_rows} rows "
                f"of {row_bytes(self.n_bits)}: choose a smaller shard_rows"
            )

    @property
    def seal(self) -> str:
        """SHA-256 of the header, hexadecimal."""
        content = json.dumps({"version": FORMAT_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def attributes(self) -> dict[str, Any]:
        """Return the array's attributes."""
        content = {"format": FORMAT, "format_version": FORMAT_VERSION}
        return {ATTRIBUTE: content | {"fingerprint": self.fingerprint, "seal": self.seal}}

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> tuple[Self, ProbabilityTable]:
        """Read and check the metadata of a Zarr array.

        Returns:
            The header, and the probability table.

        Raises:
            FormatError: the array is no archive, damaged or of a newer format.
        """
        table, chunk_rows, shard_rows = _codec_of(array)
        content = array.attrs.asdict().get(ATTRIBUTE)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise FormatError(f"the array's attributes are not those of a {FORMAT}")
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise FormatError(
                f"the archive is of format {version!r}, this version reads {FORMAT_VERSION}: "
                "upgrade bitcodec, if it is newer"
            )
        try:
            header = cls(
                n_rows=array.shape[0],
                n_bits=table.n_bits,
                chunk_rows=chunk_rows,
                shard_rows=shard_rows,
                fingerprint=str(content.get("fingerprint")),
                table_digest=table.digest.hex(),
            )
        except ConfigError as error:
            raise FormatError(f"the archive has impossible sizes: {error}") from error
        if header.seal != content.get("seal"):
            raise FormatError("the archive's metadata are damaged: their seal does not match")
        return header, table


def _codec_of(array: zarr.Array[Any]) -> tuple[ProbabilityTable, int, int]:
    metadata: Any = array.metadata
    codecs, shard_shape = metadata.codecs, metadata.chunk_grid.chunk_shape
    sharding = codecs[0]
    if len(codecs) != 1 or not isinstance(sharding, ShardingCodec) or len(sharding.codecs) != 1:
        raise FormatError("the array is not sharded as an archive of bitcodec is")
    inner = sharding.codecs[0]
    if not isinstance(inner, BernoulliCodec):
        raise FormatError(f"the array's chunks are not coded by bitcodec but by {inner!r:.80}")
    width = row_bytes(inner.table.n_bits)
    shapes = (array.shape[1:], shard_shape[1:], sharding.chunk_shape[1:])
    if array.dtype != np.uint8 or array.fill_value != 0 or shapes != ((width,),) * 3:
        raise FormatError(f"an archive of {inner.table.n_bits} bits is (n, {width}) uint8 over 0")
    return inner.table, sharding.chunk_shape[0], shard_shape[0]
