"""Hidden states in Arrow files, as SAELens caches them through Hugging Face's data sets.

A column holds lists of d floats, or lists of such lists, one for each text; every innermost list
is a hidden state. Other columns, such as token ids, are not read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bitcodec.errors import FileError, FormatError, ShapeError
from bitcodec.extras import import_extra
from bitcodec.files import one_line

FILE_MAGIC = b"ARROW1"
"""The first bytes of Arrow's file format; its stream format has none."""
COLUMN = "hidden"
"""The column that is read where several hold floats."""


class ArrowPart:
    """The rows of an Arrow file, mapped anew for every slice so that no file stays open.

    Args:
        path: a file of Arrow's stream or file format.

    Raises:
        MissingExtraError: pyarrow is not installed.
        FileError: there is no such file.
        FormatError: it is truncated or foreign, has no column of hidden states or several, or
            values are missing.
        ShapeError: its hidden states differ in width.
    """

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path), path
        sizes, widths = [], set()
        with self._batches() as batches:
            for batch in batches:
                rows = _hidden_rows(batch, path)
                sizes.append(len(rows))
                widths |= _widths(rows)
        if len(widths) > 1:
            raise ShapeError(
                f"{path} must hold lists of one length, got {sorted(widths)[:8]}: hidden states of "
                "one layer are alike in width"
            )
        if not widths:
            raise FormatError(f"{path} holds no hidden states")
        self._ends = np.cumsum(sizes)
        self.shape = int(self._ends[-1]), int(widths.pop())

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start to stop, (b, d)."""
        n_dims = self.shape[1]
        parts = [np.empty((0, n_dims), np.float32)]
        with self._batches() as batches:
            for batch, end in zip(batches, self._ends, strict=True):
                if start >= stop or start >= end:
                    continue
                rows = _hidden_rows(batch, self._path)
                first = start - (int(end) - len(rows))
                here = rows.slice(first, min(stop, int(end)) - start)
                parts.append(_values(here, self._path).reshape(-1, n_dims))
                start += len(here)
        return np.concatenate(parts[1:] or parts)

    @contextlib.contextmanager
    def _batches(self) -> Iterator[Iterator[Any]]:
        """Give the record batches of the file, in its order."""
        arrow: Any = import_extra("pyarrow", extra="arrow")
        ipc: Any = import_extra("pyarrow.ipc", extra="arrow")
        try:
            with arrow.memory_map(str(self._path)) as mapped:
                yield _record_batches(ipc, mapped)
        except FileNotFoundError as error:
            raise FileError(f"there is no file {self._path}") from error
        except (arrow.ArrowException, OSError) as error:
            if isinstance(error, FileError):
                raise
            raise FormatError(
                f"{self._path} is not a whole Arrow file: {one_line(error)}"
            ) from error


def _record_batches(ipc: Any, mapped: Any) -> Iterator[Any]:
    is_file = mapped.read(len(FILE_MAGIC)) == FILE_MAGIC
    mapped.seek(0)
    if is_file:
        reader = ipc.open_file(mapped)
        return (reader.get_batch(place) for place in range(reader.num_record_batches))
    return iter(ipc.open_stream(mapped))


def _hidden_rows(batch: Any, path: Path) -> Any:
    """Return the innermost lists of the column of hidden states."""
    types: Any = import_extra("pyarrow.types", extra="arrow")
    columns = {field.name: _plain(batch.column(field.name)) for field in batch.schema}
    names = [name for name, column in columns.items() if _holds_floats(types, column.type)]
    if COLUMN not in names and len(names) != 1:
        raise FormatError(
            f'{path} must have a column "{COLUMN}" or one column of lists of floats, got '
            f"{names or list(columns)}"
        )
    rows = columns[COLUMN if COLUMN in names else names[0]]
    while _is_list(types, rows.type.value_type):
        _check_whole(rows, path)
        rows = rows.flatten()
    _check_whole(rows, path)
    return rows


def _plain(column: Any) -> Any:
    """Return what a column of an extension type is made of, as that of `datasets.Array2D`."""
    while hasattr(column, "storage"):
        column = column.storage
    return column


def _check_whole(rows: Any, path: Path) -> None:
    if rows.null_count:
        raise FormatError(f"{path} must hold whole hidden states, got {rows.null_count} missing")


def _values(rows: Any, path: Path) -> np.ndarray:
    """Return the floats of lists, one after another."""
    flat = rows.flatten()
    _check_whole(flat, path)
    values: np.ndarray = flat.to_numpy(zero_copy_only=False)
    return values


def _widths(rows: Any) -> set[int]:
    """Return the lengths that lists have."""
    if hasattr(rows.type, "list_size"):
        return {int(rows.type.list_size)} if len(rows) else set()
    return {int(width) for width in np.unique(np.diff(rows.offsets.to_numpy()))}


def _holds_floats(types: Any, kind: Any) -> bool:
    if not _is_list(types, kind):
        return False
    while _is_list(types, kind):
        kind = kind.value_type
    return bool(types.is_floating(kind))


def _is_list(types: Any, kind: Any) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
