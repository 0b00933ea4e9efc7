"""Archives of packed codes: create, append, read by slices, write in parallel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from bitcodec.block_coder import BlockCoder
from bitcodec.errors import ConfigError, FileError, ShapeError
from bitcodec.packed_rows import PackedRows
from bitcodec.probability import ProbabilityTable
from bitcodec.tables import Table
from bitcodec_zarr.array_codec import BernoulliCodec, coder_of
from bitcodec_zarr.metadata import ArchiveHeader
from bitcodec_zarr.protocol import Codec
from bitcodec_zarr.reader import ArchiveReader
from bitcodec_zarr.store import (
    appending,
    reading,
    require_shards,
    with_metadata,
    writing,
    writing_shards,
)

CHUNK_ROWS, SHARD_ROWS = 256, 16384
"""Rows of new archives' chunks and shards. Chunks of 128 rows give a slice in three quarters of the
time, take .3% more bytes and are written at six tenths of the rate."""
PackedSource = np.ndarray | PackedRows | Iterable[np.ndarray]


@dataclass(frozen=True)
class WrittenShard:
    """A shard that a worker wrote and that is not visible yet."""

    index: int
    """Its number; shard i starts at row i * shard_rows."""
    n_rows: int
    """Its rows."""


class PackedArchive(ArchiveReader):
    """Packed rows in a Zarr array, coded near their entropy.

    Make one with `PackedArchive.create`, open one with `open_archive`. Its rows are immutable:
    they are only added to. What is added becomes visible at the end, by one write of the metadata;
    a writer that dies before leaves the old archive. One process may append at a time, and in a
    folder a second one is told so; several may write whole shards, see `write_shard`.

    Args:
        array: the Zarr array.

    Raises:
        FormatError: the array is no archive, damaged or of a newer format.
    """

    @classmethod
    def create(
        cls,
        store: Any,
        codec: Codec,
        *,
        table: Table | None = None,
        chunk_rows: int = CHUNK_ROWS,
        shard_rows: int = SHARD_ROWS,
        overwrite: bool = False,
        storage_options: dict[str, Any] | None = None,
    ) -> Self:
        """Make an empty archive.

        Args:
            store: a folder, a URL of fsspec, or a Zarr store.
            codec: the fitted codec whose codes it will hold.
            table: probabilities of the bits to code with; without it, those of the codec's own
                statistics.
            chunk_rows: rows decoded together: fewer make a single row cheaper, more save bytes.
            shard_rows: rows of one stored object, a multiple of `chunk_rows`; a row is read from
                it without reading all of it.
            overwrite: replace an existing array.
            storage_options: for fsspec.

        Returns:
            The archive, open for appending.

        Raises:
            ConfigError: sizes are out of range, or the table is of another number of bits.
            FileError: something exists there and `overwrite` is false, or it cannot be written.
        """
        table = table or ProbabilityTable.from_statistics(codec.statistics_)
        if table.n_bits != codec.n_bits_:
            raise ConfigError(f"the table has {table.n_bits} bits, the codec {codec.n_bits_}")
        width = coder_of(table, codec.side_bytes_).row_bytes
        header = ArchiveHeader(
            n_rows=0,
            n_bits=table.n_bits,
            side_bytes=codec.side_bytes_,
            chunk_rows=chunk_rows,
            shard_rows=shard_rows,
            fingerprint=codec.fingerprint_,
            table_digest=table.digest.hex(),
            compute=codec.compute,
        )
        with writing(store):
            array = zarr.create_array(
                store,
                shape=(0, width),
                chunks=(chunk_rows, width),
                shards=(shard_rows, width),
                dtype="uint8",
                serializer=BernoulliCodec(table, codec.side_bytes_),
                compressors=None,
                filters=None,
                fill_value=0,
                attributes=header.attributes(),
                dimension_names=("row", "byte"),
                zarr_format=3,
                overwrite=overwrite,
                storage_options=storage_options,
                config={"write_empty_chunks": True},
            )
        return cls(array)

    def append(self, packed: PackedSource) -> Self:
        """Add rows at the end; they become visible all at once when all are written.

        Args:
            packed: (n, row_bytes) uint8, what `open_packed` returns, or an iterable of batches.

        Returns:
            The archive itself.

        Raises:
            ShapeError: the width is not that of the archive's bits and side bytes.
            ValueRangeError: the dtype is not uint8, or a pad bit is set.
            FileError: the store cannot be written, or another process is changing the archive or
                has changed it.
        """
        batches = _batches(packed)
        self._require_writable()
        with appending(self._array):
            self._require_current()
            n_rows = self.n_rows
            room = self.shard_rows - n_rows % self.shard_rows
            for piece in _regrouped(batches, self._coder, room=room, shard_rows=self.shard_rows):
                self._write(n_rows, piece)
                n_rows += len(piece)
            self._publish(n_rows)
        return self

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other jobs from appending, or from writing shards under `alone`, for a block's time.

        In a folder; stores elsewhere have no lock.

        Raises:
            FileError: another job is changing the archive or has changed it.
        """
        with appending(self._array):
            self._require_current()
            yield

    def write_shard(self, index: int, packed: np.ndarray) -> WrittenShard:
        """Write one shard beyond the visible rows; any number of processes may do so at once.

        Nobody waits for another: every shard is an object of its own. Pass what all of them return
        to `commit`, which makes the rows visible; of several jobs, each does all of it `alone`.

        Args:
            index: the shard's number; its first row is `index * shard_rows`.
            packed: (shard_rows, row_bytes) uint8; the last shard of all may be shorter.

        Returns:
            What was written.

        Raises:
            ShapeError: there are no rows or too many, or the width is not that of the rows.
            ValueRangeError: the dtype is not uint8, or a pad bit is set.
            ConfigError: the shard holds visible rows.
            FileError: the store cannot be written.
        """
        self._require_writable()
        self._coder.check_rows(packed)
        if not 1 <= len(packed) <= self.shard_rows:
            raise ShapeError(f"a shard has 1 to {self.shard_rows} rows, got {len(packed)}")
        if index * self.shard_rows < self.n_rows:
            raise ConfigError(f"shard {index} holds rows that are visible: they are not changed")
        self._write(index * self.shard_rows, packed)
        return WrittenShard(index=index, n_rows=len(packed))

    def commit(self, written: Iterable[WrittenShard]) -> Self:
        """Make shards visible that workers wrote.

        Args:
            written: what every `write_shard` returned, in any order.

        Returns:
            The archive itself.

        Raises:
            ConfigError: a shard is missing, comes twice, or is short and not the last.
            FormatError: a shard was not stored.
            FileError: the store cannot be written, or another process has changed the archive.
        """
        self._require_current()
        shards = sorted(written, key=lambda shard: shard.index)
        if self.n_rows % self.shard_rows:
            raise ConfigError(
                f"shards follow whole shards, but {self.n_rows} rows are no multiple of "
                f"{self.shard_rows}: use append"
            )
        first = self.n_rows // self.shard_rows
        expected = list(range(first, first + len(shards)))
        if [shard.index for shard in shards] != expected:
            raise ConfigError(f"expected every shard from {first} on once, got {shards}")
        if any(shard.n_rows != self.shard_rows for shard in shards[:-1]):
            raise ConfigError(f"only the last shard may have fewer than {self.shard_rows} rows")
        n_chunks = self.shard_rows // self.chunk_rows
        require_shards(self._array, expected, n_chunks=n_chunks)
        self._publish(self.n_rows + sum(shard.n_rows for shard in shards))
        return self

    def _write(self, start: int, packed: np.ndarray) -> None:
        stop = start + len(packed)
        metadata = replace(self._array.metadata, shape=(stop, self.row_bytes))
        # The same array as if it were longer; what the store says of its length stays as it is.
        longer = with_metadata(self._array, metadata)
        with writing(self._array.store_path), writing_shards(self._array):
            longer[start:stop] = packed

    def _publish(self, n_rows: int) -> None:
        self._require_current()
        header = replace(self._header, n_rows=n_rows)
        metadata = replace(
            self._array.metadata, shape=(n_rows, self.row_bytes), attributes=header.attributes()
        )
        with writing(self._array.store_path):
            for key, content in metadata.to_buffer_dict(default_buffer_prototype()).items():
                sync((self._array.store_path / key).set(content))
        self._array = with_metadata(self._array, metadata)
        self._header = header

    def _require_writable(self) -> None:
        if self._array.read_only:
            raise FileError("the archive was opened read-only: open it with mode='r+'")

    def _require_current(self) -> None:
        self._require_writable()
        now = open_archive(self._array.store_path, mode="r+")
        if now._header != self._header:
            raise FileError(
                f"the archive was changed by another process: it had {self.n_rows} rows and has "
                f"{now.n_rows}; open it again"
            )


def open_archive(
    store: Any,
    *,
    mode: Literal["r", "r+"] = "r",
    storage_options: dict[str, Any] | None = None,
) -> PackedArchive:
    """Open an archive.

    Args:
        store: a folder, a URL of fsspec, or a Zarr store.
        mode: `"r"` to read, `"r+"` to append too.
        storage_options: for fsspec.

    Returns:
        The archive.

    Raises:
        FileError: there is no archive, or it cannot be read.
        FormatError: what is there is no archive, damaged or of a newer format.
    """
    with reading(f"the archive {store}"):
        array = zarr.open_array(
            store,
            mode=mode,
            zarr_format=3,
            storage_options=storage_options,
            config={"write_empty_chunks": True},
        )
    return PackedArchive(array)


def _batches(packed: PackedSource) -> Iterable[np.ndarray]:
    if isinstance(packed, PackedRows):  # checked as they are read
        starts = range(0, len(packed), SHARD_ROWS)
        return (packed[start : start + SHARD_ROWS] for start in starts)
    return [packed] if isinstance(packed, np.ndarray) else packed


def _regrouped(
    batches: Iterable[np.ndarray], coder: BlockCoder, *, room: int, shard_rows: int
) -> Iterator[np.ndarray]:
    # Rows regrouped so that each piece ends where a shard ends, but for the last.
    waiting: list[np.ndarray] = []
    for batch in batches:
        coder.check_rows(batch)
        while len(batch) >= room:
            yield np.concatenate([*waiting, batch[:room]])
            waiting, batch, room = [], batch[room:], shard_rows
        if len(batch):
            waiting.append(batch)
            room -= len(batch)
    if waiting:
        yield np.concatenate(waiting)
