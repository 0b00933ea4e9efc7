"""Matrix products whose rows do not depend on the rows beside them.

Libraries choose a kernel by the shape of a product and divide it among threads, and add up the
terms of a row in an order that depends on both: single rows, the last few rows, and the last few
columns of a thread's share come out different in their last digit. A logit near its threshold
then gives another bit. Shapes of whole tiles are computed alike, whatever their number.
"""

from __future__ import annotations

import torch

ROW_MULTIPLE = 4
COLUMN_MULTIPLE = 16
"""Rows and columns are made up with zeros to multiples of these."""


class RowProduct:
    """The map from rows to `rows @ matrix + offset`.

    On the CPU the result for a row is the same, to the bit, for any number of rows beside it and
    of threads.

    Args:
        matrix: (m, k) float32; copied.
        offset: (k,), what is added to every row; None for nothing.
    """

    def __init__(self, matrix: torch.Tensor, offset: torch.Tensor | None = None) -> None:
        self.n_columns = matrix.shape[1]
        self._matrix = pad_columns(matrix.detach()).clone(memory_format=torch.contiguous_format)
        self._offset = None if offset is None else pad_columns(offset.detach())

    @property
    def matrix(self) -> torch.Tensor:
        """(m, k), without the columns of zeros; a view."""
        return self._matrix[:, : self.n_columns]

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Map (n, m) rows to (n, k), contiguous."""
        padded = pad_rows(rows)
        product = (
            padded @ self._matrix
            if self._offset is None
            else torch.addmm(self._offset, padded, self._matrix)
        )
        return product[: len(rows), : self.n_columns].contiguous()


def pad_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return (n, m) rows, contiguous, with rows of zeros to a multiple of `ROW_MULTIPLE`."""
    missing = -len(rows) % ROW_MULTIPLE
    return torch.nn.functional.pad(rows, (0, 0, 0, missing)).contiguous()


def pad_columns(matrix: torch.Tensor, *, value: float = 0.0) -> torch.Tensor:
    """Return (..., k) with columns of a value to a multiple of `COLUMN_MULTIPLE`."""
    missing = -matrix.shape[-1] % COLUMN_MULTIPLE
    return torch.nn.functional.pad(matrix, (0, missing), value=value)


def laid_out(matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix in the order in which a device's product reads it fastest.

    On the CPU that is column after column: a product of few rows spends most of its time on reading
    the matrix. The result of the product is the same, to the bit.
    """
    return matrix.T.contiguous().T if matrix.device.type == "cpu" else matrix.contiguous()
