"""An archive for a job that may have been stopped before: the one that is there, or a new one."""

from __future__ import annotations

from typing import Any

from bitcodec.errors import FileError, MismatchError
from bitcodec.probability import ProbabilityTable
from bitcodec.tables import Table
from bitcodec_zarr.archive import CHUNK_ROWS, SHARD_ROWS, PackedArchive, open_archive
from bitcodec_zarr.protocol import Codec


def continue_archive(
    store: Any,
    codec: Codec,
    *,
    table: Table | None = None,
    chunk_rows: int | None = None,
    shard_rows: int | None = None,
    storage_options: dict[str, Any] | None = None,
) -> PackedArchive:
    """Open the archive of an earlier run for writing, or make it.

    Args:
        store: as `PackedArchive.create` takes it, and so are the others.
        codec: the fitted codec whose codes it holds.
        table: probabilities of the bits.
        chunk_rows: rows decoded together; None for those of the archive that is there.
        shard_rows: rows of one stored object; None likewise.
        storage_options: for fsspec.

    Raises:
        MismatchError: the archive there is of another codec, another precision, another table or
            other sizes.
        FormatError: what is there is no archive, damaged or of a newer format.
        FileError: it cannot be read or written.
    """
    try:
        archive = open_archive(store, mode="r+", storage_options=storage_options)
    except FileError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        return PackedArchive.create(
            store,
            codec,
            table=table,
            chunk_rows=CHUNK_ROWS if chunk_rows is None else chunk_rows,
            shard_rows=SHARD_ROWS if shard_rows is None else shard_rows,
            storage_options=storage_options,
        )
    archive.require_codec(codec.fingerprint_)
    wanted = table or ProbabilityTable.from_statistics(codec.statistics_)
    sizes = (
        archive.chunk_rows if chunk_rows is None else chunk_rows,
        archive.shard_rows if shard_rows is None else shard_rows,
    )
    found = archive.chunk_rows, archive.shard_rows, archive.table.digest
    if found != (*sizes, wanted.digest):
        raise MismatchError(
            f"{store} has chunks of {archive.chunk_rows} rows, shards of {archive.shard_rows} and "
            f"a table {archive.table.digest.hex()[:12]}; asked were {sizes[0]}, {sizes[1]} and "
            f"{wanted.digest.hex()[:12]}: ask for the same, or choose another place"
        )
    if archive.compute not in (None, codec.compute):
        raise MismatchError(
            f"{store} holds codes computed in {archive.compute}, this codec computes in "
            f"{codec.compute}: use the same, or choose another place"
        )
    return archive
