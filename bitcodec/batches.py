"""Hidden states as checked float32 batches: the only place that reads them.

A source is an array or tensor (n, d), a path, a glob, a folder, a sequence of paths, or an iterable
of (b, d) batches. Files are .npy, .safetensors or .arrow and are read in slices, never whole.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Self, cast

import numpy as np
import torch

from bitcodec.errors import ConfigError, ShapeError
from bitcodec.hidden_checks import check_finite, check_floating, finite_float32, to_float32
from bitcodec.hidden_files import ArrayPart, HiddenPart, Paths, find_files, is_paths, open_part
from bitcodec.npy_stream import NpyStream

__all__ = [
    "HiddenBatches",
    "HiddenSource",
    "NpyStream",
    "Paths",
    "check_finite",
    "check_floating",
    "find_files",
    "finite_float32",
    "to_float32",
]

_Slice = tuple[str, int, np.ndarray | torch.Tensor]
HiddenSource = np.ndarray | torch.Tensor | Paths | Iterable[np.ndarray | torch.Tensor]

SHUFFLE_CHUNK_ROWS = 256
SHUFFLE_BUFFER_BYTES = 2**28
MIN_RUNS, MAX_RUN_CHUNKS = 6, 16
"""Of the runs of chunks that `split` holds: so many at least, so long at most."""


class HiddenBatches:
    """Hidden states from any source, read as checked float32 batches.

    Args:
        source: an array or tensor (n, d) of floats, the path of a .npy, .safetensors or .arrow
            file, a folder or glob of such files (read in name order), a sequence of paths, or an
            iterable of (b, d) batches.
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
        self._parts: list[HiddenPart] = []
        self._stream: Iterable[np.ndarray | torch.Tensor] | None = None
        self._stream_was_read = False
        self._chunk_rows = SHUFFLE_CHUNK_ROWS
        self._takes: Callable[[int], bool] = lambda chunk: True
        self._mapped: Callable[[torch.Tensor], torch.Tensor] = lambda rows: rows
        if isinstance(source, (np.ndarray, torch.Tensor)):
            self._parts = [ArrayPart(source, name="hidden")]
        elif is_paths(source):
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

    def require_rereadable(self) -> None:
        """Raise before anything is read, unless the rows can be read again.

        Raises:
            ConfigError: they come from a generator.
        """
        if not self.rereadable:
            raise ConfigError(
                "fit reads its data several times and a generator can be read once: "
                "pass a list, a file, or an object whose __iter__ starts anew"
            )

    def split(self, *, one_in: int) -> tuple[Self, Self]:
        """Divide the rows: the first of every `one_in` runs of neighbouring rows, and the rest.

        Neighbours stay together, since hidden states of one text are alike: a run has 4,096 rows,
        most of whose texts then have no row in the rest; fewer where there would be fewer than
        `MIN_RUNS` to hold, down to 256, and fewer than that only to have two.

        Args:
            one_in: at least 2.

        Returns:
            The rest, and the runs held; both to be read with `shuffled`.
        """
        rest, held = copy.copy(self), copy.copy(self)
        n_chunks = 1
        if self.n_rows is not None:
            n_chunks = self.n_rows // (MIN_RUNS * one_in * SHUFFLE_CHUNK_ROWS)
            n_chunks = max(1, min(MAX_RUN_CHUNKS, n_chunks))
            fits = max(1, min(SHUFFLE_CHUNK_ROWS, self.n_rows // (2 * one_in)))
            rest._chunk_rows = held._chunk_rows = fits
        rest._takes = lambda chunk: chunk // n_chunks % one_in != 0
        held._takes = lambda chunk: chunk // n_chunks % one_in == 0
        return rest, held

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        """Return the same rows as they are after a function of each.

        Args:
            function: from checked rows (b, d) float32 to as many, each from its own alone.
        """
        other = copy.copy(self)
        other._mapped = lambda rows: function(self._mapped(rows))
        return other

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
            yield self._mapped(batch)

    def whole_batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """Read every row once, in order, in batches of which only the last may be smaller.

        Args:
            batch_size: rows of a batch; what the end of a file leaves is joined with the next's.

        Yields:
            (batch_size, d) float32 tensors, at last (b, d), 1 <= b <= batch_size.

        Raises:
            As `batches`.
        """
        waiting: list[torch.Tensor] = []
        for batch in self.batches(batch_size):
            rows = torch.cat([*waiting, batch])
            waiting = [rows[batch_size:]] if len(rows) >= batch_size else [rows]
            if len(rows) >= batch_size:
                yield rows[:batch_size]
        if any(map(len, waiting)):
            yield waiting[0]

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
            yield self._mapped(chunk)

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
            part = ArrayPart(batch, name=f"batch {index}")
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
