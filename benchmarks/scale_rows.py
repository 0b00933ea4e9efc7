"""A long source: real rows over and over, as a stream of slices."""

from __future__ import annotations

import numpy as np

from bitcodec_ray import Rows, open_rows


class RepeatedRows:
    """`n_rows` rows that repeat those of a source; none is kept.

    Args:
        path: what `open_rows` takes.
        n_rows: how many.
    """

    def __init__(self, path: str, n_rows: int) -> None:
        self._path, self._n_rows = path, n_rows
        self._rows: Rows = open_rows(path)

    def __reduce__(self) -> tuple[type[RepeatedRows], tuple[str, int]]:
        """Travel as a path."""
        return RepeatedRows, (self._path, self._n_rows)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._n_rows

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Read rows start to stop."""
        start, stop, _ = rows.indices(self._n_rows)
        pieces = [self._rows[:0]]
        while start < stop:
            first = start % len(self._rows)
            last = min(len(self._rows), first + stop - start)
            pieces.append(self._rows[first:last])
            start += last - first
        return np.concatenate(pieces)
