"""Packed rows in blocks, as a stream delivers them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

_BLOCK_ROWS = 1 << 16
"""Rows handed to FAISS at a time."""


def split(packed: np.ndarray) -> list[np.ndarray]:
    """Cut (n, row_bytes) rows into views of at most 65,536 rows."""
    starts = range(0, len(packed), _BLOCK_ROWS)
    return [packed[start : start + _BLOCK_ROWS] for start in starts]


def sample(blocks: Sequence[np.ndarray], *, n_rows: int) -> np.ndarray:
    """Copy up to `n_rows` rows, evenly from all blocks."""
    total = sum(len(block) for block in blocks)
    step = max(1, -(-total // max(1, n_rows)))
    starts = np.cumsum([0, *(len(block) for block in blocks)])
    parts = [block[-start % step :: step] for block, start in zip(blocks, starts, strict=False)]
    return np.concatenate(parts)


def drain(blocks: list[np.ndarray], ids: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give every block and its ids in order, and forget it, so that memory is freed as it goes."""
    blocks.reverse()
    start = 0
    while blocks:
        block = blocks.pop()
        yield np.ascontiguousarray(block), ids[start : start + len(block)]
        start += len(block)
