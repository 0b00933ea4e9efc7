"""Hashes of blocks of packed rows, by which damage is found where it is read.

A hash is the first 64 bits of the SHA-256 of a block's bytes, 16 hexadecimal digits. It misses one
damage in 2^64, and finds accidents, not who changes a file on purpose.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from bitcodec.errors import FormatError
from bitcodec.files import PathLike

BLOCK_BYTES = 2**20
"""Of a block at most, but for rows that are longer: a hash of it takes half a millisecond."""
DIGITS = 16
"""Hexadecimal digits of one hash."""


def block_rows_of(row_bytes: int) -> int:
    """Return how many rows of a width make a block."""
    return max(1, BLOCK_BYTES // max(1, row_bytes))


@dataclass(frozen=True)
class BlockHashes:
    """Hashes of all blocks of some rows."""

    block_rows: int
    """Rows of a block; the last may have fewer."""
    digits: str
    """Of all hashes, one after another."""
    width: int = DIGITS
    """Hexadecimal digits of one hash."""

    def require_blocks_of(self, n_rows: int, *, where: PathLike) -> None:
        """Raise unless there is a hash for every block of so many rows.

        Raises:
            FormatError: there are more or fewer.
        """
        n_blocks = -(-n_rows // self.block_rows) if self.block_rows > 0 else -1
        if len(self.digits) != n_blocks * self.width:
            raise FormatError(
                f"{where} has hashes of blocks of {self.block_rows} rows in {len(self.digits)} "
                f"digits, which are not those of {n_rows} rows: it is damaged"
            )

    def check(self, block: int, rows: np.ndarray, *, where: PathLike) -> None:
        """Raise unless a block is what it was when it was written.

        Args:
            block: its number.
            rows: of it, (n, row_bytes) uint8.
            where: they were read from, for messages.

        Raises:
            FormatError: it is not; names its rows.
        """
        noted = self.digits[self.width * block :][: self.width]
        if hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()[: self.width] != noted:
            first = block * self.block_rows
            raise FormatError(
                f"{where} is damaged: rows {first} to {first + len(rows)} are not those that were "
                "written; restore it, or encode anew"
            )


class BlockHasher:
    """Hash rows as they come.

    Args:
        block_rows: rows of a block.
    """

    def __init__(self, block_rows: int) -> None:
        assert block_rows > 0, "a block has rows"
        self._block_rows, self._room = block_rows, block_rows
        self._block, self._done = hashlib.sha256(), list[str]()

    @property
    def n_whole(self) -> int:
        """Whole blocks so far."""
        return len(self._done)

    def update(self, rows: np.ndarray) -> None:
        """Take the next rows, (n, row_bytes) uint8."""
        while len(rows):
            part, rows = rows[: self._room], rows[self._room :]
            self._block.update(np.ascontiguousarray(part).data)
            self._room -= len(part)
            if not self._room:
                self._close()

    def finish(self) -> BlockHashes:
        """Return the hashes; nothing may follow."""
        if self._room < self._block_rows:
            self._close()
        return BlockHashes(self._block_rows, "".join(self._done))

    def _close(self) -> None:
        self._done.append(self._block.hexdigest()[:DIGITS])
        self._block, self._room = hashlib.sha256(), self._block_rows
