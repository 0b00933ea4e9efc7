"""The Flat kind: every search is exact."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitcodec.ranking import Hits, RangeHits
from bitcodec_faiss.backend import flat_codes, load_faiss, mapped_ids
from bitcodec_faiss.scan import flat_nearest, flat_within


class FlatStore:
    """Rows in one block; FAISS's IDMap keeps their ids once, beside them.

    Args:
        faiss_index: `IndexBinaryIDMap` over an `IndexBinaryFlat`.
    """

    kind = "Flat"
    keeps_order = True
    is_trained = True
    training_rows = 0

    def __init__(self, faiss_index: Any) -> None:
        self.faiss_index = faiss_index
        self._flat = load_faiss().downcast_IndexBinary(faiss_index.index)
        self._ascending: bool | None = None if faiss_index.ntotal else True  # None: not yet asked

    @classmethod
    def empty(cls, row_bytes: int) -> FlatStore:
        """Make a store without rows."""
        faiss = load_faiss()
        return cls(faiss.IndexBinaryIDMap(faiss.IndexBinaryFlat(8 * row_bytes)))

    @property
    def ids(self) -> np.ndarray:
        """(n,) int64 in order of addition; valid until the index changes."""
        return mapped_ids(self.faiss_index)

    @property
    def packed(self) -> np.ndarray:
        """(n, row_bytes) uint8, FAISS's own memory; valid until the index changes."""
        return flat_codes(self._flat)

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """Copy the packed rows of (m,) row numbers."""
        packed: np.ndarray = flat_codes(self._flat)[rows]
        return packed

    def train(self, packed: np.ndarray) -> None:
        """Do nothing: a flat index has nothing to learn."""

    def add(self, packed: np.ndarray, ids: np.ndarray) -> None:
        """Add rows whose ids were checked."""
        if self._ascending:
            self._ascending = _ascend(np.append(self.ids[-1:], ids))
        self.faiss_index.add_with_ids(packed, ids)

    def remove(self, ids: np.ndarray) -> None:
        """Remove rows whose ids were checked."""
        self.faiss_index.remove_ids(ids)

    def nearest(
        self, queries: np.ndarray, *, k: int, allowed: np.ndarray | None, effort: int | None
    ) -> Hits:
        """Find the k nearest allowed rows, exactly."""
        if self._ascending is None:
            self._ascending = _ascend(self.ids)
        return flat_nearest(
            self._flat, self.ids, queries, k=k, allowed=allowed, ascending=self._ascending
        )

    def within(
        self, queries: np.ndarray, *, radius: int, allowed: np.ndarray | None, effort: int | None
    ) -> RangeHits:
        """Find all allowed rows within `radius`, exactly."""
        return flat_within(self._flat, self.ids, queries, radius=radius, allowed=allowed)


def _ascend(ids: np.ndarray) -> bool:
    return bool((ids[1:] > ids[:-1]).all())
