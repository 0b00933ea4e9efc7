"""The tables that bits are coded with, as bytes and as coders."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from bitcodec.context_coder import ContextCoder
from bitcodec.context_table import ContextTable
from bitcodec.probability import Buffer, ProbabilityTable
from bitcodec.profile_coder import ProfileCoder

Table = ProbabilityTable | ContextTable


class BitsCoder(Protocol):
    """Codes the bits of rows, and leaves a range coder for what else rows have."""

    def encode(self, codes: np.ndarray) -> tuple[bytes, Any]:
        """Encode (n, ceil(h / 8)) uint8; return what stands before the range coder, and that."""

    def decode(self, view: memoryview, n_rows: int) -> tuple[np.ndarray, Any]:
        """Decode what `encode` returned; return the rows, and the range coder behind them."""


def read_table(data: Buffer) -> Table:
    """Read a table of either kind.

    Raises:
        FormatError: the bytes are no whole table, damaged or of a newer format.
    """
    kind = ContextTable if ContextTable.is_magic(data) else ProbabilityTable
    return kind.from_bytes(data)


def bits_coder(table: Table) -> BitsCoder:
    """Return the coder of a table; its models take memory and time to build."""
    return ProfileCoder(table) if isinstance(table, ProbabilityTable) else ContextCoder(table)
