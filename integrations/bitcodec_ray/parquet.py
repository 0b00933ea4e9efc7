"""Packed rows in a folder of Parquet files: written by many workers, visible all at once."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bitcodec import BitCodec
from bitcodec.bits import check_packed, row_bytes
from bitcodec.errors import ConfigError, FileError, FormatError, MismatchError, ShapeError
from bitcodec.files import PathLike, atomic_path, refuse_existing
from bitcodec.locks import writing_alone
from bitcodec_ray.columns import PackedHeader, packed_array, packed_field
from bitcodec_ray.sources import ParquetRows

PACKED, ROW = "packed", "row"
SHARD_ROWS = 2**16
_NAME = re.compile(r"codes-(\d{6,})\.parquet")


@dataclass(frozen=True)
class WrittenFile:
    """A file that a worker wrote and that is not visible yet."""

    index: int
    """Its number; file i starts at row i * shard_rows."""
    n_rows: int
    """Its rows."""


class PackedParquet:
    """A folder of Parquet files of packed rows that is being written.

    Every file has a column `row`, the numbers of its rows in the source, and a column `packed` of
    binaries of one length; the number of bits and the codec's fingerprint are in the metadata of
    the column and of the file. Until `commit` the files lie in a hidden folder beside their place,
    the same for every job: of several jobs each does all of it `alone`.

    Args:
        folder: appears whole; its parent must exist, and be seen by all workers.
        codec: the fitted codec whose codes it will hold.
        shard_rows: rows of every file but the last.

    Raises:
        FileError: the folder exists.
        ConfigError: `shard_rows` is not positive.
    """

    n_rows = 0
    """Nothing is visible before the commit."""

    def __init__(self, folder: PathLike, codec: BitCodec, *, shard_rows: int = SHARD_ROWS) -> None:
        refuse_existing(folder)
        if shard_rows < 1:
            raise ConfigError(f"shard_rows must be at least 1, got {shard_rows}")
        self._folder = (Path.cwd() / folder).absolute()
        self._waiting = self._folder.with_name(f".{self._folder.name}.partial")
        self._header = PackedHeader(codec.n_bits_, codec.side_bytes_, codec.fingerprint_)
        self.shard_rows = shard_rows

    @property
    def fingerprint(self) -> str:
        """Of the codec whose codes it takes."""
        return self._header.fingerprint

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other jobs from writing this folder while the block runs.

        Raises:
            FileError: another job is writing it, or it exists by now.
        """
        with writing_alone(self._folder):
            refuse_existing(self._folder)
            yield

    def write_shard(self, index: int, packed: np.ndarray) -> WrittenFile:
        """Write one file; any number of processes may do so at once.

        Args:
            index: the file's number; its first row is `index * shard_rows`.
            packed: (shard_rows, row_bytes) uint8; the last file of all may be shorter.

        Raises:
            ShapeError: there are no rows or too many, or the width is not that of the codec's.
            ValueRangeError: the dtype is not uint8, or a pad bit is set.
            FileError: the file cannot be written.
        """
        header = self._header
        if packed.ndim != 2 or packed.shape[1] != header.row_bytes:
            raise ShapeError(f"packed must be (n, {header.row_bytes}), got {packed.shape}")
        check_packed(packed[:, : row_bytes(header.n_bits)], n_bits=header.n_bits)
        if not 1 <= len(packed) <= self.shard_rows:
            raise ShapeError(f"a file has 1 to {self.shard_rows} rows, got {len(packed)}")
        first = index * self.shard_rows
        numbers = pa.array(np.arange(first, first + len(packed), dtype=np.int64))
        fields = [pa.field(ROW, pa.int64(), nullable=False), packed_field(PACKED, header)]
        schema = pa.schema(fields, metadata=header.metadata())
        table = pa.table([numbers, packed_array(packed)], schema=schema)
        self._waiting.mkdir(exist_ok=True)
        with atomic_path(self._waiting / file_name(index), overwrite=True) as temporary:
            pq.write_table(table, temporary, compression="zstd", use_dictionary=False)
        return WrittenFile(index, len(packed))

    def commit(self, written: Iterable[WrittenFile]) -> None:
        """Let the folder appear.

        Args:
            written: what every `write_shard` returned, in any order.

        Raises:
            ConfigError: a file is missing, comes twice, or is short and not the last.
            FormatError: a file was not stored, or is another.
            FileError: the folder exists, or cannot be written.
        """
        files = sorted(written, key=lambda file: file.index)
        if [file.index for file in files] != list(range(len(files))) or not files:
            raise ConfigError(f"expected every file from 0 on once, got {files}")
        if any(file.n_rows != self.shard_rows for file in files[:-1]):
            raise ConfigError(f"only the last file may have fewer than {self.shard_rows} rows")
        for file in files:
            self._check(self._waiting / file_name(file.index), n_rows=file.n_rows)
        self._remove_others({file_name(file.index) for file in files})
        refuse_existing(self._folder)
        try:
            self._waiting.rename(self._folder)
        except OSError as error:
            raise FileError(f"cannot write {self._folder}: {error.strerror}") from error

    def _check(self, path: Path, *, n_rows: int) -> None:
        if not path.is_file():
            raise FormatError(f"{path} was not stored: run the job again")
        metadata = pq.read_metadata(path)
        header = PackedHeader.of(metadata.metadata, where=str(path))
        if header is None or metadata.num_rows != n_rows:
            raise FormatError(f"{path} is not the file that was written: run the job again")
        header.require(self.fingerprint, where=str(path))

    def _remove_others(self, names: set[str]) -> None:
        # Of an earlier run with other sizes, or of a worker that was killed while it wrote.
        for path in self._waiting.iterdir():
            if path.name not in names:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


class PackedParquetRows(ParquetRows):
    """Packed rows of Parquet files of one codec, sliced by row.

    Args:
        paths: the files, in order, each with a column `packed`.

    Raises:
        FormatError: a file is no Parquet of packed rows.
        MismatchError: files are of different codecs.
    """

    def __init__(self, paths: Iterable[PathLike]) -> None:
        files = [Path(path) for path in paths]
        super().__init__(files, column=PACKED)
        headers = {path: _header(path) for path in files}
        if len(set(headers.values())) != 1:
            made = {path.name: header.fingerprint[:12] for path, header in headers.items()}
            raise MismatchError(f"the files hold codes of several codecs: {made}")
        self._header = next(iter(headers.values()))

    def __reduce__(self) -> tuple[object, ...]:
        """Travel as paths."""
        return PackedParquetRows, (self._paths,)

    @property
    def n_bits(self) -> int:
        """True bits h of a row."""
        return self._header.n_bits

    @property
    def side_bytes(self) -> int:
        """Bytes of a row after those of its bits."""
        return self._header.side_bytes

    @property
    def fingerprint(self) -> str:
        """Of the codec that made them."""
        return self._header.fingerprint


def open_packed_parquet(folder: PathLike) -> PackedParquetRows:
    """Open the folder that a `PackedParquet` became.

    Raises:
        FileError: there is no such folder, or it holds no such files.
        FormatError: a file is no Parquet of packed rows.
        MismatchError: files are of different codecs.
    """
    path = Path(folder)
    if not path.is_dir():
        raise FileError(f"there is no folder {folder}")
    found = {file.name for file in path.iterdir() if _NAME.fullmatch(file.name)}
    expected = [file_name(index) for index in range(len(found))]
    if found != set(expected) or not found:
        raise FormatError(f"{folder} does not hold codes-000000.parquet and so on without a gap")
    return PackedParquetRows([path / name for name in expected])


def file_name(index: int) -> str:
    """Return the name of file `index`."""
    return f"codes-{index:06d}.parquet"


def _header(path: Path) -> PackedHeader:
    field = pq.read_schema(path).field(PACKED)
    header = PackedHeader.of(field.metadata, where=f"{path}:{PACKED}")
    if header is None or field.type != pa.binary(header.row_bytes):
        raise FormatError(f"{path}: column {PACKED!r} is not one of packed rows")
    return header
