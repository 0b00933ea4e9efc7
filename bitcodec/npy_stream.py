"""Hidden states that arrive as .npy through a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from bitcodec.errors import FormatError
from bitcodec.files import one_line, read_npy_header
from bitcodec.hidden_checks import two_dimensional


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
            shape, fortran_order, self.dtype = read_npy_header(file)
        except Exception as error:  # numpy's parser of headers raises of every kind
            raise FormatError(f"the input is not a .npy stream: {one_line(error)}") from error
        if fortran_order:
            raise FormatError("the .npy stream must be C-ordered numbers: save it so")
        self.n_rows, self.n_dims = two_dimensional(shape, "hidden")
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


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    pieces = []
    while size > 0 and (piece := file.read(min(size, 2**24))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
