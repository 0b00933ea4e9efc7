"""The HNSW kind: a graph of neighbours, searched approximately."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitcodec.arguments import check_count
from bitcodec.errors import ConfigError
from bitcodec.ranking import Hits, RangeHits, best
from bitcodec.search_results import MISSING_SCORE
from bitcodec_faiss.backend import flat_codes, load_faiss, mapped_ids
from bitcodec_faiss.scan import flat_nearest, flat_within, query_blocks

DEFAULT_EF_SEARCH = 64
"""Candidates kept during a search; FAISS's own default of 16 misses many neighbours."""

_SCAN_BELOW = 0.1
"""Filters that allow a smaller part of the rows are scanned: a graph walks mostly past them."""


class HnswStore:
    """A graph over rows in one block; FAISS's IDMap keeps their ids once, beside them.

    The block is an `IndexBinaryFlat`. What the graph cannot answer (a range, a narrow filter, a
    query for which it reaches fewer rows than match) is answered by scanning it, exactly.

    Args:
        faiss_index: `IndexBinaryIDMap` over an `IndexBinaryHNSW`.
    """

    kind = "HNSW"
    keeps_order = True
    is_trained = True
    training_rows = 0

    def __init__(self, faiss_index: Any) -> None:
        faiss = load_faiss()
        self.faiss_index = faiss_index
        self._graph = faiss.downcast_IndexBinary(faiss_index.index)
        self._flat = faiss.downcast_IndexBinary(self._graph.storage)

    @classmethod
    def empty(cls, row_bytes: int, *, n_links: int) -> HnswStore:
        """Make a store without rows."""
        faiss = load_faiss()
        return cls(faiss.IndexBinaryIDMap(faiss.IndexBinaryHNSW(8 * row_bytes, n_links)))

    @property
    def ids(self) -> np.ndarray:
        """(n,) int64 in order of addition; valid until the index changes."""
        return mapped_ids(self.faiss_index)

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """Copy the packed rows of (m,) row numbers."""
        packed: np.ndarray = flat_codes(self._flat)[rows]
        return packed

    def train(self, packed: np.ndarray) -> None:
        """Do nothing: the graph grows with the rows."""

    def add(self, packed: np.ndarray, ids: np.ndarray) -> None:
        """Add rows whose ids were checked."""
        self.faiss_index.add_with_ids(packed, ids)

    def remove(self, ids: np.ndarray) -> None:
        """Refuse: FAISS cannot take rows out of the graph.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "an HNSW index cannot remove rows: Flat and IVF can, or exclude them with `filter`"
        )

    def nearest(
        self, queries: np.ndarray, *, k: int, allowed: np.ndarray | None, effort: int | None
    ) -> Hits:
        """Find near allowed rows by the graph; always as many as match, up to k."""
        ef_search = DEFAULT_EF_SEARCH if effort is None else check_count(effort, name="ef_search")
        ids = self.ids
        n_match = len(ids) if allowed is None else int(np.count_nonzero(allowed))
        if n_match <= max(k, _SCAN_BELOW * len(ids)):
            return flat_nearest(self._flat, ids, queries, k=k, allowed=allowed)
        scores, found = self._walk(queries, k=k, allowed=allowed, ef_search=ef_search)
        short = np.flatnonzero(found[:, -1] < 0)
        if len(short):
            exact = flat_nearest(self._flat, ids, queries[short], k=k, allowed=allowed)
            scores[short], found[short] = exact
        return scores, found

    def within(
        self, queries: np.ndarray, *, radius: int, allowed: np.ndarray | None, effort: int | None
    ) -> RangeHits:
        """Find all allowed rows within `radius`, exactly, by scanning."""
        return flat_within(self._flat, self.ids, queries, radius=radius, allowed=allowed)

    def _walk(
        self, queries: np.ndarray, *, k: int, allowed: np.ndarray | None, ef_search: int
    ) -> Hits:
        faiss = load_faiss()
        chosen: dict[str, Any] = {}
        if allowed is not None:
            bitmap = np.packbits(allowed, bitorder="little")
            chosen["sel"] = faiss.IDSelectorBitmap(bitmap)
        parameters = faiss.SearchParametersHNSW(efSearch=max(ef_search, k), **chosen)
        ids = self.ids
        scores = np.empty((len(queries), k), dtype=np.int32)
        found = np.empty((len(queries), k), dtype=np.int64)
        for block in query_blocks(queries, n_hits=k):
            fetched, rows = self._graph.search(queries[block], k, params=parameters)
            labels = np.where(rows < 0, rows, ids[rows])
            # FAISS gives what is missing the lowest distance there is.
            fetched = np.where(rows < 0, MISSING_SCORE, fetched)
            scores[block], found[block] = best(fetched, labels, k=k)
        return scores, found
