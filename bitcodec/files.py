"""Files that appear whole or not at all, and .npy files written row by row."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

import numpy as np
from numpy.lib import format as npy_format

from bitcodec.errors import FileError, FormatError, ShapeError
from bitcodec.locks import writing_alone
from bitcodec.renaming import (
    clear_leavings,
    hidden_name,
    remove,
    rename_together,
    settle,
    swap_folders,
    sync,
    sync_name,
    visible_name,
)

PathLike = str | os.PathLike[str]

MAX_JSON_BYTES = 2**26
"""Of a header; what it says of any number of rows has at most some megabytes."""

_WRITE_ADVICE = {
    errno.ENOSPC: "no space left on the device: free some space or choose another place",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another place",
    errno.EFBIG: "the file would exceed the size limit of this process or file system",
    errno.EACCES: "permission denied: choose a place you may write to",
    errno.EPERM: "permission denied: choose a place you may write to",
    errno.EROFS: "the file system is read-only: choose another place",
    errno.ENOENT: "its parent folder does not exist: create it first",
    errno.ENOTDIR: "its parent is a file, not a folder",
    errno.ENAMETOOLONG: "its name is too long: choose a shorter one",
}


@contextlib.contextmanager
def atomic_path(target: PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `target` that becomes `target` when the block succeeds.

    The block creates a file or a folder at the path it is given. When it raises, whatever it
    wrote is removed and an older `target` stays as it was. When the process is killed, the next
    writer of the target removes it.

    Args:
        target: the final path of a file or folder; its parent must exist.
        overwrite: replace an existing `target`; otherwise it is an error.

    Yields:
        The temporary path, in the same folder as `target`.

    Raises:
        FileError: `target` exists and `overwrite` is false, the system refused the write, or
            another process is writing the target.
    """
    with _written(target, overwrite=overwrite) as final, _cleared(final):
        temporary = hidden_name(final, "partial")
        try:
            yield temporary
            sync(temporary)
            _replace(temporary, final, overwrite=overwrite)
            sync_name(final)
        finally:
            remove(temporary)


@contextlib.contextmanager
def atomic_pair(
    first: PathLike, second: PathLike, *, overwrite: bool = False
) -> Iterator[tuple[Path, Path]]:
    """Give temporary paths of two files that become the files together when the block succeeds.

    As `atomic_path`, but a process that is killed leaves both old files or both new ones, once
    `settle` of `second` has been called, as whoever reads the two must.

    Args:
        first: a file.
        second: another of the same folder, which is written and read with the first.
        overwrite: replace existing files; otherwise they are an error.

    Yields:
        The temporary paths.

    Raises:
        FileError: as `atomic_path`.
    """
    with contextlib.ExitStack() as stack:
        finals = [
            stack.enter_context(_written(path, overwrite=overwrite)) for path in (first, second)
        ]
        # The second first: what a killed writer had decided on is finished before it is cleared.
        for final in reversed(finals):
            stack.enter_context(_cleared(final))
        staged = hidden_name(finals[0], "staged"), hidden_name(finals[1], "staged")
        try:
            yield staged
            for temporary, final in zip(staged, finals, strict=True):
                sync(temporary)
                _refuse_to_replace(final, temporary, overwrite=overwrite)
            rename_together(dict(zip(staged, finals, strict=True)))
        finally:
            for temporary in staged:
                remove(temporary)


@contextlib.contextmanager
def _written(target: PathLike, *, overwrite: bool) -> Iterator[Path]:
    """Give the path that a target means, and lock it."""
    final = Path.cwd() / target
    if final.name in ("", ".."):
        raise FileError(f"{target} has no name of its own: name the file or folder to write")
    refuse_existing(final, overwrite=overwrite)
    with _refused_in_words(final):
        final = final.resolve() if final.is_symlink() else final
    with _refused_in_words(final):
        yield final


@contextlib.contextmanager
def _cleared(final: Path) -> Iterator[None]:
    """Keep others from writing a target, and remove what killed writers of it left."""
    with writing_alone(final) as is_locked:
        if is_locked:
            settle(final)
            clear_leavings(final)
        yield


@contextlib.contextmanager
def _refused_in_words(final: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = _WRITE_ADVICE.get(error.errno or 0)
        if isinstance(error, FileError) or advice is None or not _may_be_of(error, final):
            raise
        raise FileError(f"cannot write {visible_name(final)}: {advice}") from error


def _may_be_of(error: OSError, final: Path) -> bool:
    """Say whether an error names a target or nothing: a block may lack its inputs, too."""
    if not isinstance(error.filename, (str, bytes, os.PathLike)):
        return True
    named = Path.cwd() / os.fsdecode(error.filename)
    if not named.is_relative_to(final.parent):
        return False
    return all(final.name in part for part in named.relative_to(final.parent).parts[:1])


def refuse_existing(target: PathLike, *, overwrite: bool = False) -> None:
    """Raise if an output exists that must not be overwritten.

    Raises:
        FileError: `target` exists and `overwrite` is false.
    """
    if not overwrite and os.path.lexists(target):
        raise FileError(f"{target} exists: choose another name or allow overwriting it")


def check_target(target: PathLike, *, overwrite: bool = False) -> None:
    """Raise if an output could not be written, before the work that makes it begins.

    Raises:
        FileError: `target` exists and `overwrite` is false, or its folder is missing or read-only.
    """
    refuse_existing(target, overwrite=overwrite)
    parent = (Path.cwd() / target).parent
    if not parent.is_dir():
        raise FileError(f"cannot write {target}: {_WRITE_ADVICE[errno.ENOENT]}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise FileError(f"cannot write {target}: {_WRITE_ADVICE[errno.EACCES]}")


def refuse_foreign_folder(folder: PathLike, *, expected: Collection[str]) -> None:
    """Raise if a path is anything but a folder of exactly the files named, or nothing.

    Raises:
        FileError: replacing the path would lose something else.
    """
    path = Path(folder)
    if not os.path.lexists(path):
        return
    if not path.is_dir() or {found.name for found in path.iterdir()} != set(expected):
        raise FileError(
            f"{path} is not a folder of only {' and '.join(expected)} and will not be replaced: "
            "choose another name"
        )


def read_json(path: PathLike, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Args:
        path: of the file.
        max_bytes: a larger file is refused: parsing takes some twenty times its size.

    Raises:
        FileError: there is no such file.
        FormatError: the file is too large, not UTF-8 JSON, not an object, or has a key twice.
    """
    try:
        size = Path(path).stat().st_size
        if size > max_bytes:
            raise FormatError(f"{path} has {size} bytes, a file of its kind at most {max_bytes}")
        content = json.loads(
            Path(path).read_text(encoding="utf-8"), object_pairs_hook=_distinct_keys
        )
    except FormatError:
        raise
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise FileError(f"there is no file {path}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise FormatError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


def write_json(path: PathLike, content: dict[str, Any], *, overwrite: bool = False) -> None:
    """Write one JSON object, atomically and readably.

    Raises:
        FileError: `path` exists and `overwrite` is false, or cannot be written.
    """
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


class NpyWriter:
    """Append rows to a .npy file that appears under its name only when it is complete.

    Args:
        path: the final .npy file.
        n_columns: the width of every row.
        dtype: the element type on disk.
        overwrite: replace an existing file.

    Raises:
        FileError: `path` exists and `overwrite` is false, or cannot be written.

    Use it as a context manager; an exception inside the block leaves no file.
    """

    def __init__(
        self, path: PathLike, *, n_columns: int, dtype: np.dtype[Any], overwrite: bool = False
    ) -> None:
        if Path(path).is_dir():
            raise FileError(f"{path} is a folder: name a file")
        self.n_rows = 0
        self.n_columns = n_columns
        self.dtype = np.dtype(dtype)
        self._target = atomic_path(path, overwrite=overwrite)
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        temporary = self._stack.enter_context(self._target)
        try:
            self._file = self._stack.enter_context(temporary.open("wb"))
            self._write_header()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def append(self, rows: np.ndarray) -> None:
        """Append rows.

        Args:
            rows: (n, n_columns), of the file's dtype.

        Raises:
            ShapeError: the width or the dtype is not the file's.
        """
        if rows.ndim != 2 or rows.shape[1] != self.n_columns or rows.dtype != self.dtype:
            raise ShapeError(
                f"rows must be (n, {self.n_columns}) {self.dtype}, got {rows.shape} {rows.dtype}"
            )
        assert self._file is not None, "append is for use inside the with block"
        self._file.write(np.ascontiguousarray(rows).data)
        self.n_rows += len(rows)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if error is None and self._file is not None:
            with self._stack:
                self._file.seek(0)
                self._write_header()
            return None
        return self._stack.__exit__(kind, error, traceback)

    def _write_header(self) -> None:
        # numpy leaves room in the header for the row count to grow, so that the header
        # written last has the length of the one written first.
        assert self._file is not None
        header = {
            "descr": npy_format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.n_rows, self.n_columns),
        }
        npy_format.write_array_header_1_0(self._file, header)


def open_npy(path: PathLike) -> np.ndarray:
    """Memory-map a .npy file for reading.

    Returns:
        The mapped array, of the file's shape and dtype.

    Raises:
        FileError: there is no such file.
        FormatError: the file is truncated, not .npy, or holds Python objects.
    """
    try:
        with Path(path).open("rb") as file:
            shape, fortran_order, dtype = read_npy_header(file)
            offset, size = file.tell(), file.seek(0, os.SEEK_END)
        wanted = math.prod(shape) * dtype.itemsize
        if size - offset < wanted:
            raise ValueError(f"it must have {offset + wanted} bytes, got {size}")
        order: Literal["F", "C"] = "F" if fortran_order else "C"
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order=order)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise FileError(f"there is no file {path}") from error
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # numpy's parser of headers raises of every kind
        raise FormatError(
            f"{path} is not a whole .npy file of numbers: {one_line(error)}"
        ) from error


def read_npy_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of a .npy file, and leave the file where its numbers begin.

    Returns:
        Shape, whether the order is Fortran's, and dtype.

    Raises:
        ValueError: it is no header of numbers; numpy's own parser raises of every kind.
    """
    version = npy_format.read_magic(file)
    if version == (1, 0):
        shape, fortran_order, dtype = npy_format.read_array_header_1_0(file)
    else:
        shape, fortran_order, dtype = npy_format.read_array_header_2_0(file)
    # A size of 0 divides by zero within numpy, which ends the process.
    if dtype.hasobject or dtype.itemsize == 0 or min(shape, default=0) < 0:
        raise ValueError(f"{dtype} of shape {shape} are no numbers")
    return shape, fortran_order, dtype


def one_line(error: Exception) -> str:
    """Return another library's message without its line breaks."""
    return " ".join(str(error).split())


def _refuse_to_replace(final: Path, temporary: Path, *, overwrite: bool) -> None:
    refuse_existing(final, overwrite=overwrite)
    if os.path.lexists(final) and final.is_dir() != temporary.is_dir():
        kinds = ("folder", "file") if final.is_dir() else ("file", "folder")
        raise FileError(f"{final} is a {kinds[0]} and no {kinds[1]} will replace it: rename one")


def _replace(temporary: Path, final: Path, *, overwrite: bool) -> None:
    _refuse_to_replace(final, temporary, overwrite=overwrite)
    if not final.is_dir() or final.is_symlink():
        temporary.replace(final)
    elif not swap_folders(temporary, final):
        _replace_in_two_steps(temporary, final)


def _replace_in_two_steps(temporary: Path, final: Path) -> None:
    """Replace a folder where folders cannot be swapped: the old one is set aside first."""
    aside = hidden_name(final, "old")
    final.rename(aside)
    try:
        temporary.rename(final)
    except OSError:
        aside.rename(final)
        raise
    remove(aside)
