"""Hidden states as checked float32 batches: the only place that reads them.

A source is an array or tensor (n, d), a path, a glob, a folder, a sequence of paths, or an iterable
of (b, d) batches. Files are .npy or .safetensors and are read in slices, never whole.
"""

from __future__ import annotations

import copy
import glob
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self, TypeGuard, cast

import numpy as np
import torch
from numpy.lib import format as npy_format
from safetensors import SafetensorError, safe_open

from bitcodec.errors import ConfigError, FileError, FormatError, ShapeError, ValueRangeError
from bitcodec.files import PathLike, one_line, open_npy

_Slice = tuple[str, int, np.ndarray | torch.Tensor]
Paths = PathLike | Sequence[PathLike]
HiddenSource = np.ndarray | torch.Tensor | Paths | Iterable[np.ndarray | torch.Tensor]

SUFFIXES = (".npy", ".safetensors")
SHUFFLE_CHUNK_ROWS = 256
SHUFFLE_BUFFER_BYTES = 2**28


class HiddenBatches:
    """Hidden states from any source, read as checked float32 batches.

    Args:
        source: an array or tensor (n, d) of floats, the path of a .npy or .safetensors file, a
            folder or glob of such files (read in name order), a sequence of paths, or an iterable
            of (b, d) batches.
        n_dims: the d that is expected, where it is known.

    Raises:
        ShapeError: rank or width is wrong, or files differ in width.
        ValueRangeError: the values are not floating point.
        FileError: a file is missing, or nothing matches.
        FormatError: a file is truncated or foreign.

    Attributes:
        n_rows: the number of rows n; None for an iterable of batches.
        n_dims: the width d; None for an iterable that was not read yet.
    """

    def __init__(self, source: HiddenSource, *, n_dims: int | None = None) -> None:
        self.n_dims = n_dims
        self._parts: list[Part] = []
        self._stream: Iterable[np.ndarray | torch.Tensor] | None = None
        self._stream_was_read = False
        self._chunk_rows = SHUFFLE_CHUNK_ROWS
        self._takes: Callable[[int], bool] = lambda chunk: True
        if isinstance(source, (np.ndarray, torch.Tensor)):
            self._parts = [_array_part(source, name="hidden")]
        elif _is_paths(source):
            self._parts = [open_part(path) for path in find_files(source)]
        elif isinstance(source, Iterable):
            self._stream = cast(Iterable[np.ndarray | torch.Tensor], source)
        else:
            raise ShapeError(
                f"hidden must be an array, tensor, path or iterable of batches, got {type(source)}"
            )
        for part in self._parts:
            self._check_width(part.shape, part.name)

    @property
    def n_rows(self) -> int | None:
        """The number of rows, None where only reading would tell."""
        if self._stream is not None:
            return None
        ends = [(start, self._parts[index].shape[0]) for index, start in self._chunk_starts()]
        return sum(min(self._chunk_rows, end - start) for start, end in ends)

    @property
    def rereadable(self) -> bool:
        """Whether a second pass gives the rows again; false for a generator."""
        return self._stream is None or iter(self._stream) is not self._stream

    def split(self, *, one_in: int) -> tuple[Self, Self]:
        """Divide the rows: the first of every `one_in` chunks of neighbouring rows, and the rest.

        Neighbours stay together, since hidden states of one text are alike. A chunk has 256 rows,
        or fewer where there would be fewer than two chunks to hold.

        Args:
            one_in: at least 2.

        Returns:
            The rest, and the chunks held; both to be read with `shuffled`.
        """
        rest, held = copy.copy(self), copy.copy(self)
        if self.n_rows is not None:
            fits = max(1, min(SHUFFLE_CHUNK_ROWS, self.n_rows // (2 * one_in)))
            rest._chunk_rows = held._chunk_rows = fits
        rest._takes = lambda chunk: chunk % one_in != 0
        held._takes = lambda chunk: chunk % one_in == 0
        return rest, held

    def batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """Read every row once, in order.

        Args:
            batch_size: the most rows a batch has; the end of a file may give fewer.

        Yields:
            (b, d) float32 tensors, 1 <= b <= batch_size, a tensor source's on its own device.

        Raises:
            ShapeError: a batch of the iterable has another width or rank.
            ValueRangeError: a value is NaN or infinite; names the first bad row.
            ConfigError: a generator is read a second time.
        """
        first_row = 0
        for name, start, rows in self._read(batch_size):
            batch = to_float32(rows)
            check_finite(batch, first_row=first_row, part=name, first_row_of_part=start)
            first_row += len(batch)
            yield batch

    def shuffled(
        self, batch_size: int, generator: torch.Generator, *, keep_rest: bool = False
    ) -> Iterator[torch.Tensor]:
        """Read one epoch in random order, in batches of exactly `batch_size` rows.

        Files are read in chunks of neighbouring rows in random order, and rows are mixed in a
        buffer of at most 256 MiB; smaller data is shuffled perfectly. A remainder of fewer than
        `batch_size` rows waits for another epoch's order.

        Args:
            batch_size: rows of every batch.
            generator: the source of randomness; it advances.
            keep_rest: end with a smaller batch of the remaining rows, so that none is left out.

        Yields:
            (batch_size, d) float32 tensors, a tensor source's on its own device.

        Raises:
            As `batches`.
        """
        buffer, n_filled = torch.empty(0), 0
        for chunk in self._chunks(generator):
            if len(buffer) == 0:
                buffer = self._shuffle_buffer(chunk, batch_size)
            if n_filled + len(chunk) > len(buffer):
                n_filled = yield from _drain(buffer[:n_filled], batch_size, generator)
            buffer[n_filled : n_filled + len(chunk)] = chunk
            n_filled += len(chunk)
        n_filled = yield from _drain(buffer[:n_filled], batch_size, generator)
        if keep_rest and n_filled:
            yield buffer[:n_filled]

    def _shuffle_buffer(self, chunk: torch.Tensor, batch_size: int) -> torch.Tensor:
        """Return room for the rows that are mixed at a time, at least a batch and a chunk."""
        n_rows = SHUFFLE_BUFFER_BYTES // (chunk.shape[1] * chunk.element_size())
        n_rows = max(n_rows, batch_size + SHUFFLE_CHUNK_ROWS)
        return chunk.new_empty(
            n_rows if self.n_rows is None else min(n_rows, self.n_rows), chunk.shape[1]
        )

    def _chunks(self, generator: torch.Generator) -> Iterator[torch.Tensor]:
        if self._stream is not None:
            chunks = enumerate(self.batches(self._chunk_rows))
            yield from (chunk for number, chunk in chunks if self._takes(number))
            return
        starts = self._chunk_starts()
        offsets = np.cumsum([0, *(part.shape[0] for part in self._parts)])
        for choice in torch.randperm(len(starts), generator=generator).tolist():
            index, start = starts[choice]
            part = self._parts[index]
            chunk = to_float32(part.read(start, start + self._chunk_rows))
            first_row = int(offsets[index]) + start
            check_finite(chunk, first_row=first_row, part=part.name, first_row_of_part=start)
            yield chunk

    def _chunk_starts(self) -> list[tuple[int, int]]:
        """Return part and first row of every chunk of the files or the array."""
        every = (
            (index, start)
            for index, part in enumerate(self._parts)
            for start in range(0, part.shape[0], self._chunk_rows)
        )
        return [chunk for number, chunk in enumerate(every) if self._takes(number)]

    def _read(self, batch_size: int) -> Iterator[_Slice]:
        for part in self._parts:
            for start in range(0, part.shape[0], batch_size):
                yield part.name, start, part.read(start, start + batch_size)
        if self._stream is not None:
            yield from self._read_stream(batch_size)

    def _read_stream(self, batch_size: int) -> Iterator[_Slice]:
        assert self._stream is not None
        if self._stream_was_read and not self.rereadable:
            raise ConfigError(
                "a generator of batches can be read only once, and this needs several passes: "
                "pass a list, a file, or an object whose __iter__ starts anew"
            )
        self._stream_was_read = True
        for index, batch in enumerate(self._stream):
            part = _array_part(batch, name=f"batch {index}")
            self._check_width(part.shape, part.name)
            for start in range(0, part.shape[0], batch_size):
                yield part.name, start, part.read(start, start + batch_size)

    def _check_width(self, shape: tuple[int, int], name: str) -> None:
        if self.n_dims is None:
            self.n_dims = shape[1]
        if shape[1] != self.n_dims:
            raise ShapeError(
                f"{name} must be (n, {self.n_dims}), got {shape}: "
                f"pass hidden states of {self.n_dims} dimensions"
            )


def _drain(
    rows: torch.Tensor, batch_size: int, generator: torch.Generator
) -> Generator[torch.Tensor, None, int]:
    """Yield whole batches of rows in random order, move the rest to the front and count it."""
    order = torch.randperm(len(rows), generator=generator).to(rows.device)
    n_whole = len(rows) // batch_size * batch_size
    for start in range(0, n_whole, batch_size):
        yield rows[order[start : start + batch_size]]
    rest = order[n_whole:]
    rows[: len(rest)] = rows[rest]
    return len(rest)


def find_files(source: Paths) -> list[Path]:
    """List the hidden-state files that a path, folder, glob or sequence of these means.

    A folder means its .npy or .safetensors files in name order; a harvest folder with a single
    `layer-*` folder means that layer.

    Raises:
        FileError: nothing is there, or a folder holds several layers or kinds of file.
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


def to_float32(rows: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Give rows as a float32 tensor, a tensor's on the device where it is.

    Raises:
        ValueRangeError: the values are not floating point.
    """
    check_floating(rows)
    if isinstance(rows, torch.Tensor):
        return rows.detach().to(torch.float32)
    with np.errstate(over="ignore"):  # an overflow becomes infinite and is reported as such
        return torch.from_numpy(np.array(rows, dtype=np.float32, order="C"))


def check_floating(rows: np.ndarray | torch.Tensor) -> None:
    """Raise unless an array holds float16, bfloat16, float32 or float64.

    Raises:
        ValueRangeError: it does not.
    """
    if isinstance(rows, torch.Tensor):
        is_floating = rows.dtype.is_floating_point
    else:
        is_floating = rows.dtype.kind == "f"
    if not is_floating:
        raise ValueRangeError(
            f"hidden must be float16, bfloat16, float32 or float64, got {rows.dtype}: pass the "
            "hidden states themselves, or convert them if these whole numbers are meant"
        )


def check_finite(
    rows: torch.Tensor,
    *,
    first_row: int = 0,
    part: str = "hidden",
    first_row_of_part: int = 0,
) -> None:
    """Raise unless every value is finite.

    Args:
        rows: (b, d) float32.
        first_row: the number that the first row has in the whole source.
        part: the name of the file or batch that the rows are from.
        first_row_of_part: the number that the first row has there.

    Raises:
        ValueRangeError: a value is NaN or infinite; the message names the first such row.
    """
    # A sum is finite only if every term is; the exact test runs only where the sum overflows.
    if torch.isfinite(rows.sum()) or torch.isfinite(rows).all():
        return
    row = int((~torch.isfinite(rows)).any(dim=1).nonzero()[0])
    kind = "NaN" if torch.isnan(rows[row]).any() else "infinity"
    raise ValueRangeError(
        f"row {first_row + row} holds {kind} (row {first_row_of_part + row} of {part}): drop or "
        "repair such rows (massive activations that overflowed float16 are the usual cause: "
        "harvest in bfloat16 or float32)"
    )


class NpyStream:
    """The rows of a .npy file that arrives through a pipe.

    Args:
        file: a binary stream at the start of a .npy file.

    Raises:
        FormatError: the stream is not C-ordered .npy of numbers.
        ShapeError: the array is not two-dimensional.

    Iterating gives (b, d) arrays, once.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        try:
            version = npy_format.read_magic(file)
            read = (
                npy_format.read_array_header_1_0
                if version == (1, 0)
                else npy_format.read_array_header_2_0
            )
            shape, fortran_order, self.dtype = read(file)
        except Exception as error:  # numpy's parser of headers raises of every kind
            raise FormatError(f"the input is not a .npy stream: {one_line(error)}") from error
        if fortran_order or self.dtype.hasobject:
            raise FormatError("the .npy stream must be C-ordered numbers: save it so")
        self.n_rows, self.n_dims = _two_dimensional(shape, "hidden")
        self._rows = self._batches()

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        return next(self._rows)

    def _batches(self, batch_size: int = 4096) -> Iterator[np.ndarray]:
        row_size = self.n_dims * self.dtype.itemsize
        for start in range(0, self.n_rows, batch_size):
            wanted = min(batch_size, self.n_rows - start) * row_size
            content = _read_exactly(self._file, wanted)
            if len(content) < wanted:
                raise FormatError(
                    f"the .npy stream ended in row {start + len(content) // row_size} "
                    f"of {self.n_rows}"
                )
            yield np.frombuffer(content, dtype=self.dtype).reshape(-1, self.n_dims)


class Part(Protocol):
    """Rows of one file or array, which can be read in slices."""

    name: str
    """Of the file, for messages."""
    shape: tuple[int, int]
    """Rows and dimensions."""

    def read(self, start: int, stop: int) -> np.ndarray | torch.Tensor:
        """Return rows start to stop, (b, d)."""


class _ArrayPart:
    def __init__(self, array: np.ndarray | torch.Tensor, *, name: str) -> None:
        self.name = name
        self.shape = (int(array.shape[0]), int(array.shape[1]))
        self._array = array

    def read(self, start: int, stop: int) -> np.ndarray | torch.Tensor:
        return self._array[start:stop]


class _NpyPart:
    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path), path
        part = _array_part(open_npy(path), name=self.name)
        self.shape = part.shape

    def read(self, start: int, stop: int) -> np.ndarray:
        # Mapped anew each time: a map keeps its file open, and there may be thousands of files.
        return open_npy(self._path)[start:stop]


class _SafetensorsPart:
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
        self.shape = _two_dimensional(tuple(self._slice.get_shape()), f"{path}:{key}")

    def read(self, start: int, stop: int) -> torch.Tensor:
        rows: torch.Tensor = self._slice[start : min(stop, self.shape[0])]
        return rows


def _array_part(array: np.ndarray | torch.Tensor, *, name: str) -> _ArrayPart:
    if not isinstance(array, (np.ndarray, torch.Tensor)):
        raise ShapeError(f"{name} must be an array or tensor (n, d), got {type(array).__name__}")
    _two_dimensional(tuple(array.shape), name)
    check_floating(array)
    return _ArrayPart(array, name=name)


def open_part(path: Path) -> Part:
    """Open a .npy or .safetensors file of hidden states to be read in slices.

    Raises:
        FileError: there is no such file.
        FormatError: the file is truncated or foreign.
        ShapeError: the array is not two-dimensional.
        ValueRangeError: the values are not floating point.
    """
    if path.suffix == ".npy":
        return _NpyPart(path)
    if path.suffix == ".safetensors":
        return _SafetensorsPart(path)
    raise FormatError(f"{path} must end in {' or '.join(SUFFIXES)}")


def _two_dimensional(shape: tuple[int, ...], name: str) -> tuple[int, int]:
    if len(shape) != 2:
        raise ShapeError(f"{name} must be (n, d), got {shape}: one hidden state a row")
    if shape[1] <= 0 or shape[0] < 0:
        raise ShapeError(f"{name} must have at least one dimension, got {shape}")
    return int(shape[0]), int(shape[1])


def _hidden_key(file: Any, path: Path) -> str:
    keys = list(file.keys())
    if "hidden" in keys:
        return "hidden"
    if len(keys) == 1:
        return str(keys[0])
    raise FormatError(f'{path} must hold a tensor "hidden" or one tensor, got {sorted(keys)[:8]}')


def _files_of_folder(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if len({path.suffix for path in found}) > 1:
        raise FileError(f"{folder} holds both .npy and .safetensors files: name one by a glob")
    if found:
        return found
    layers = sorted(path for path in folder.glob("layer-*") if path.is_dir())
    if len(layers) == 1:
        return _files_of_folder(layers[0])
    if layers:
        names = ", ".join(path.name for path in layers)
        raise FileError(f"{folder} holds several layers ({names}): name one, as {layers[0]}")
    raise FileError(f"{folder} holds no .npy or .safetensors file")


def _is_paths(source: object) -> TypeGuard[Paths]:
    if isinstance(source, (str, os.PathLike)):
        return True
    return (
        isinstance(source, Sequence)
        and len(source) > 0
        and all(isinstance(item, (str, os.PathLike)) for item in source)
    )


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    pieces = []
    while size > 0 and (piece := file.read(min(size, 2**24))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
