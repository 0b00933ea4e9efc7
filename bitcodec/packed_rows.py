"""Packed rows of a file, checked where they are read."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitcodec.block_hashes import BlockHashes
from bitcodec.errors import ShapeError
from bitcodec.files import PathLike


class PackedRows:
    """Packed codes in a memory-mapped file, read by slices.

    A block of the file is held against its hash when a row of it is read first, and then no more.
    `packed[:]` and `numpy.asarray(packed)` therefore check all rows before they give any. What they
    give are views of the map and not copies: reading costs no memory, and a file that changes after
    it was checked changes them. Threads may share an object.

    Args:
        mapped: (n, row_bytes) uint8, the map of the file.
        hashes: of its blocks; None and nothing is checked.
        where: the file, for messages.

    >>> rows = PackedRows(np.arange(6, dtype=np.uint8).reshape(3, 2), None, where="codes.npy")
    >>> rows[1:].tolist(), rows[0].tolist(), len(rows)
    ([[2, 3], [4, 5]], [0, 1], 3)
    """

    def __init__(self, mapped: np.ndarray, hashes: BlockHashes | None, *, where: PathLike) -> None:
        self._mapped, self._hashes, self._where = mapped, hashes, where
        n_blocks = 0 if hashes is None else -(-len(mapped) // hashes.block_rows)
        self._is_checked = np.zeros(n_blocks, dtype=np.bool_)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and bytes of a row."""
        n_rows, row_bytes = self._mapped.shape
        return n_rows, row_bytes

    @property
    def ndim(self) -> int:
        """2, as of an array."""
        return 2

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Of the rows."""
        return np.dtype(np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self._mapped.nbytes

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._mapped)

    def __repr__(self) -> str:
        """Describe the rows in one line."""
        return f"PackedRows({str(self._where)!r}, shape={self.shape})"

    def __getitem__(self, rows: int | slice) -> np.ndarray:
        """Read rows, once the blocks they lie in are checked.

        Args:
            rows: a slice, as of a list; or a row's number.

        Returns:
            (n, row_bytes) uint8; or (row_bytes,) for a number. Not to be written to.

        Raises:
            ShapeError: neither a slice nor a number is asked for.
            IndexError: a number is out of range.
            FormatError: a block is damaged; names its rows.
        """
        if not isinstance(rows, slice | int | np.integer):
            raise ShapeError(
                f"rows of a file are read by a slice or a number, got {rows!r:.80}: take a slice, "
                "packed[:] for all, and choose from that"
            )
        chosen = range(len(self))[rows]
        self._check(range(chosen, chosen + 1) if isinstance(chosen, int) else chosen)
        found: np.ndarray = self._mapped[rows]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read all rows."""
        return np.array(self[:], dtype=dtype, copy=copy)

    def _check(self, chosen: range) -> None:
        if self._hashes is None or not len(chosen):
            return
        size = self._hashes.block_rows
        first, last = sorted((chosen[0] // size, chosen[-1] // size))
        for block in range(first, last + 1):
            if not self._is_checked[block]:
                rows = self._mapped[block * size : (block + 1) * size]
                self._hashes.check(block, rows, where=self._where)
                self._is_checked[block] = True
