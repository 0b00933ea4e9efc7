"""Sources whose rows any worker can slice: files of hidden states, Parquet, Zarr."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bitcodec.batches import find_files, to_float32
from bitcodec.errors import FileError, FormatError, ShapeError
from bitcodec.extras import import_extra
from bitcodec.files import PathLike
from bitcodec.hidden_files import is_paths, open_part
from bitcodec_ray.columns import column_of, matrix_of
from bitcodec_ray.protocol import Rows

PARQUET = ".parquet"
N_SAMPLED = 16
"""Rows that tell one source from another."""


def open_rows(source: Rows | PathLike | Sequence[PathLike], *, column: str = "hidden") -> Rows:
    """Open rows that workers can slice.

    Args:
        source: path(s), folder or glob of .npy or .safetensors files, in name order; Parquet files
            or a folder of them; the folder of a Zarr array; or an object with `__len__` and slices.
        column: of Parquet, with the vectors.

    Returns:
        The rows; small to pickle where the source is one of paths.

    Raises:
        FileError: a file is missing, or nothing matches.
        FormatError: a file is truncated or foreign.
        ShapeError: files differ in width.
    """
    if not is_paths(source):
        return ArrayRows(source) if not hasattr(source, "__len__") else cast(Rows, source)
    paths = _paths(source)
    if len(paths) == 1 and (paths[0] / "zarr.json").is_file():
        return ArrayRows(import_extra("zarr", extra="zarr").open_array(paths[0], mode="r"))
    parquet = [found for path in paths for found in _parquet_files(path)]
    return ParquetRows(parquet, column=column) if parquet else FileRows(find_files(paths))


class ArrayRows:
    """Rows of an array that has a shape and slices but no length, as Zarr's.

    Args:
        array: (n, d).

    Raises:
        ShapeError: it is not two-dimensional.
    """

    def __init__(self, array: Any) -> None:
        if len(getattr(array, "shape", ())) != 2:
            raise ShapeError(f"rows must be an array (n, d), got {type(array).__name__}")
        self._array = array

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._array.shape[0])

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Read rows start to stop."""
        return np.asarray(self._array[rows])


class JoinedRows:
    """Rows of several files, one after the other.

    Args:
        lengths: rows of each.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self._ends = list(itertools.accumulate(lengths))

    def __len__(self) -> int:
        """Return the number of rows of all files."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Read rows start to stop.

        Raises:
            ShapeError: the slice has a step, or files differ in width.
        """
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ShapeError(f"rows are read by slices without a step, got {rows}")
        read = [part for part in self._read(start, stop) if len(part)]
        if len({part.shape[1] for part in read}) > 1:
            raise ShapeError(f"rows {start} to {stop} are of several widths: one source, one width")
        if not read:
            return np.empty((0, self.part(0, 0, 0).shape[1] if self._ends else 0), np.float32)
        return read[0] if len(read) == 1 else np.concatenate(read)

    def part(self, index: int, start: int, stop: int) -> np.ndarray:
        """Read rows start to stop of file `index`."""
        raise NotImplementedError

    def _read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        index = bisect.bisect_right(self._ends, start)
        while start < stop:
            first = self._ends[index - 1] if index else 0
            yield self.part(index, start - first, min(stop, self._ends[index]) - first)
            start = self._ends[index]
            index += 1


class FileRows(JoinedRows):
    """Rows of .npy and .safetensors files as float32.

    Args:
        paths: the files, in order.

    Raises:
        FormatError: a file is truncated or foreign.
        ShapeError: files differ in width.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._parts = [open_part(path) for path in paths]
        self._paths = list(paths)
        widths = {part.shape[1]: part.name for part in self._parts}
        if len(widths) > 1:
            raise ShapeError(f"files must have one width, got {widths}: name those of one source")
        super().__init__([part.shape[0] for part in self._parts])

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as paths: a memory map would travel as its content."""
        return FileRows, (self._paths,)

    def part(self, index: int, start: int, stop: int) -> np.ndarray:
        """Read rows start to stop of file `index`."""
        rows: np.ndarray = to_float32(self._parts[index].read(start, stop)).numpy()
        return rows


class ParquetRows(JoinedRows):
    """Vectors in a column of Parquet files; a row group is held while slices of it are read.

    Args:
        paths: the files, in order.
        column: with the vectors.

    Raises:
        FileError: a file is missing.
        FormatError: a file is no Parquet.
        ShapeError: a file has no such column.
    """

    def __init__(self, paths: Sequence[Path], *, column: str) -> None:
        self._paths, self._column = list(paths), column
        self._groups: list[tuple[Path, int]] = []
        self._held: tuple[int, np.ndarray] | None = None
        lengths = []
        for path in self._paths:
            metadata = _parquet_metadata(path)
            if column not in metadata.schema.to_arrow_schema().names:
                names = metadata.schema.to_arrow_schema().names
                raise ShapeError(f"{path} has no column {column!r}: the columns are {names}")
            for group in range(metadata.num_row_groups):
                self._groups.append((path, group))
                lengths.append(metadata.row_group(group).num_rows)
        super().__init__(lengths)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as paths, without the row group that is held."""
        return _parquet_rows, (self._paths, self._column)

    def part(self, index: int, start: int, stop: int) -> np.ndarray:
        """Read rows start to stop of row group `index`."""
        if self._held is None or self._held[0] != index:
            path, group = self._groups[index]
            with pq.ParquetFile(path) as file:
                table = file.read_row_group(group, columns=[self._column])
            self._held = index, matrix_of(column_of(table, self._column), name=self._column)
        return self._held[1][start:stop]


def identity_of(rows: Rows) -> str:
    """Return a digest of the number of rows and of some of them: another source has another.

    Returns:
        SHA-256, hexadecimal.
    """
    digest = hashlib.sha256(f"{len(rows)}".encode())
    for row in np.linspace(0, len(rows) - 1, min(N_SAMPLED, len(rows)), dtype=np.int64).tolist():
        digest.update(np.ascontiguousarray(rows[row : row + 1]).tobytes())
    return digest.hexdigest()


def _parquet_rows(paths: list[Path], column: str) -> ParquetRows:
    return ParquetRows(paths, column=column)


def _parquet_metadata(path: Path) -> Any:
    try:
        return pq.read_metadata(path)
    except FileNotFoundError as error:
        raise FileError(f"there is no file {path}") from error
    except (OSError, pa.ArrowException) as error:
        raise FormatError(f"{path} is not a whole Parquet file: {error}") from error


def _parquet_files(path: Path) -> list[Path]:
    """Return the Parquet files that a path means; those of hidden names are unfinished."""
    if path.is_dir():
        return sorted(found for found in path.glob(f"[!._]*{PARQUET}") if found.is_file())
    return [path] if path.suffix == PARQUET else []


def _paths(source: Any) -> list[Path]:
    named = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    return [Path(path) for path in named]
