"""Files of hidden states: which there are, and their rows in slices."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from bitcodec.arrow_files import ArrowPart
from bitcodec.checksums import BlockChecksums, checksums_beside, checksums_in
from bitcodec.errors import FileError, FormatError, ShapeError
from bitcodec.files import PathLike, one_line, open_npy, read_json
from bitcodec.harvest_shards import listed_shards
from bitcodec.hidden_checks import check_floating, two_dimensional

Paths = PathLike | Sequence[PathLike]

SUFFIXES = (".npy", ".safetensors", ".arrow")
DATASET_STATE = "state.json"
"""In the folder of a data set of Hugging Face, the file that lists those of its rows."""


class HiddenPart(Protocol):
    """Rows that can be read in slices."""

    name: str
    shape: tuple[int, int]

    def read(self, start: int, stop: int) -> np.ndarray | torch.Tensor:
        """Return rows start to stop, (b, d)."""


class ArrayPart:
    """The rows of an array or tensor in memory.

    Args:
        array: (n, d) floats.
        name: for messages.

    Raises:
        ShapeError: it is no array or tensor, or its rank is another.
        ValueRangeError: the values are not floating point.
    """

    def __init__(self, array: np.ndarray | torch.Tensor, *, name: str) -> None:
        if not isinstance(array, (np.ndarray, torch.Tensor)):
            kind = type(array).__name__
            raise ShapeError(f"{name} must be an array or tensor (n, d), got {kind}")
        self.name = name
        self.shape = two_dimensional(tuple(array.shape), name)
        check_floating(array)
        self._array = array

    def read(self, start: int, stop: int) -> np.ndarray | torch.Tensor:
        """Return rows start to stop, (b, d)."""
        return self._array[start:stop]


class NpyPart:
    """The rows of a .npy file."""

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path), path
        self.shape = ArrayPart(open_npy(path), name=self.name).shape
        self._checksums = checksums_beside(path)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start to stop, (b, d)."""
        # Mapped anew each time: a map keeps its file open, and there may be thousands of files.
        mapped = open_npy(self._path)
        if self._checksums is None:
            return mapped[start:stop]
        return self._checked(mapped, self._checksums, start, stop)

    def _checked(
        self, mapped: np.ndarray, checksums: BlockChecksums, start: int, stop: int
    ) -> np.ndarray:
        first, last = checksums.covering(start, stop, n_rows=len(mapped))
        rows = mapped[first:last]
        checksums.check(rows, first_row=first, where=self.name)
        return rows[start - first : stop - first]


class SafetensorsPart:
    """The rows of a .safetensors file's tensor "hidden", or of its only one."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        try:
            self._file: Any = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise FormatError(
                f"{path} is not a whole safetensors file: {one_line(error)}"
            ) from error
        key = _hidden_key(self._file, path)
        self._slice: Any = self._file.get_slice(key)
        self.shape = two_dimensional(tuple(self._slice.get_shape()), f"{path}:{key}")
        self._checksums = checksums_in(self._file.metadata(), key)

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return rows start to stop, (b, d)."""
        first, last = start, min(stop, self.shape[0])
        if self._checksums is not None:
            first, last = self._checksums.covering(start, stop, n_rows=self.shape[0])
        rows: torch.Tensor = self._slice[first:last]
        if self._checksums is not None:
            self._checksums.check(rows, first_row=first, where=self.name)
        return rows[start - first : stop - first]


def open_part(path: Path) -> HiddenPart:
    """Open a file of hidden states.

    Raises:
        FileError: the file is missing.
        FormatError: its kind is unknown, or it is truncated or foreign.
        ShapeError: its rank is another.
        MissingExtraError: it is .arrow and pyarrow is not installed.
    """
    if path.suffix == ".npy":
        return NpyPart(path)
    if path.suffix == ".safetensors":
        return SafetensorsPart(path)
    if path.suffix == ".arrow":
        return ArrowPart(path)
    raise FormatError(f"{path} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")


def find_files(source: Paths) -> list[Path]:
    """List the hidden-state files that a path, folder, glob or sequence of these means.

    A folder means its files of hidden states in name order, for a data set of Hugging Face those
    that its state names; a harvest folder with a single `layer-*` folder means that layer.

    Raises:
        FileError: nothing is there, or a folder holds several layers or kinds of file.
        FormatError: the state of a data set is damaged.
    """
    if not isinstance(source, (str, os.PathLike)):
        return [path for item in source for path in find_files(item)]
    path = Path(source)
    if path.is_dir():
        return _files_of_folder(path)
    if path.exists():
        return [path]
    matches = sorted(Path(match) for match in glob.glob(str(source), recursive=True))
    if not matches:
        raise FileError(f"there is no file, folder or match for {source}")
    return [found for match in matches for found in find_files(match)]


def is_paths(source: object) -> TypeGuard[Paths]:
    """Tell paths from arrays and batches."""
    if isinstance(source, (str, os.PathLike)):
        return True
    return (
        isinstance(source, Sequence)
        and len(source) > 0
        and all(isinstance(item, (str, os.PathLike)) for item in source)
    )


def _hidden_key(file: Any, path: Path) -> str:
    keys = list(file.keys())
    if "hidden" in keys:
        return "hidden"
    if len(keys) == 1:
        return str(keys[0])
    raise FormatError(f'{path} must hold a tensor "hidden" or one tensor, got {sorted(keys)[:8]}')


def _files_of_folder(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    kinds = sorted({path.suffix for path in found})
    if len(kinds) > 1:
        raise FileError(f"{folder} holds both {' and '.join(kinds)} files: name one by a glob")
    if kinds == [".arrow"] and (folder / DATASET_STATE).is_file():
        return _files_of_dataset(folder)
    if found:
        return listed_shards(folder, found)
    layers = sorted(path for path in folder.glob("layer-*") if path.is_dir())
    if len(layers) == 1:
        return _files_of_folder(layers[0])
    if layers:
        names = ", ".join(path.name for path in layers)
        raise FileError(f"{folder} holds several layers ({names}): name one, as {layers[0]}")
    raise FileError(f"{folder} holds no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")


def _files_of_dataset(folder: Path) -> list[Path]:
    """Return a data set's files in its order; those of its caches lie beside them."""
    files = read_json(folder / DATASET_STATE).get("_data_files")
    try:
        names = [str(file["filename"]) for file in files or []]
    except (TypeError, KeyError) as error:
        raise FormatError(f"{folder / DATASET_STATE} must list _data_files, got {files}") from error
    if outside := [name for name in names if Path(name).name != name]:
        raise FormatError(f"{folder / DATASET_STATE} names a file outside its folder: {outside[0]}")
    return [folder / name for name in names]
