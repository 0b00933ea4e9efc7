"""The IVF kind: rows in lists around centroids, a few of which are searched."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np

from bitcodec.arguments import check_count
from bitcodec.errors import ConfigError, ValueRangeError
from bitcodec.ranking import Hits, RangeHits, best, no_hits, no_range_hits, sort_range
from bitcodec.search_results import MISSING_ID, MISSING_SCORE
from bitcodec_faiss.backend import flat_codes, load_faiss, view
from bitcodec_faiss.scan import owners_of, query_blocks, reach_of, scan_rows, strict_radius

_log = logging.getLogger(__name__)

_TRAINING_ROWS_PER_LIST = 64
"""FAISS trains on floats, 32 times the size of the bits: more rows cost much memory."""

SCAN_BELOW = 0.05
"""Filters that allow a smaller part of the rows are scanned: their hits lie too far apart."""


class IvfStore:
    """Inverted lists that hold packed rows and their ids, once.

    FAISS cannot filter here, so more hits are fetched than asked for and the filter is checked on
    them. A query that still has fewer hits than rows match is answered by an exact scan of the
    rows that match: no search returns fewer hits than there are.

    Args:
        faiss_index: `IndexBinaryIVF` over an `IndexBinaryFlat` of centroids.
    """

    kind = "IVF"
    keeps_order = False

    def __init__(self, faiss_index: Any) -> None:
        self.faiss_index = faiss_index
        self.n_lists: int = faiss_index.nlist
        # Threads share this number, so it is set once: a search says itself how many lists.
        faiss_index.nprobe = self.n_lists

    @classmethod
    def empty(cls, row_bytes: int, *, n_lists: int) -> IvfStore:
        """Make a store without rows, to be trained first."""
        faiss = load_faiss()
        centroids = faiss.IndexBinaryFlat(8 * row_bytes)
        index = faiss.IndexBinaryIVF(centroids, 8 * row_bytes, n_lists)
        # FAISS would print a warning below 39 rows a list; `train` logs one instead.
        index.cp.min_points_per_centroid = 1
        return cls(index)

    @property
    def is_trained(self) -> bool:
        """Whether the lists have their centroids."""
        return bool(self.faiss_index.is_trained)

    @property
    def training_rows(self) -> int:
        """Rows that training can use."""
        return _TRAINING_ROWS_PER_LIST * self.n_lists

    @property
    def ids(self) -> np.ndarray:
        """(n,) int64, list by list."""
        parts = [self.list_ids(number) for number in range(self.n_lists)]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    @property
    def centroids(self) -> np.ndarray:
        """(n_lists, row_bytes) uint8, FAISS's own memory; valid until the index changes."""
        return flat_codes(load_faiss().downcast_IndexBinary(self.faiss_index.quantizer))

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """Copy the packed rows of (m,) row numbers."""
        starts = self.starts()
        order = np.argsort(rows, kind="stable")
        cuts = np.searchsorted(rows[order], starts)
        packed = np.empty((len(rows), self.faiss_index.code_size), dtype=np.uint8)
        for number in np.flatnonzero(np.diff(cuts)):
            here = order[cuts[number] : cuts[number + 1]]
            packed[here] = self.list_codes(int(number))[rows[here] - starts[number]]
        return packed

    def train(self, packed: np.ndarray) -> None:
        """Cluster (n, row_bytes) rows into the lists' centroids.

        Raises:
            ValueRangeError: there are fewer rows than lists.
        """
        if len(packed) < self.n_lists:
            raise ValueRangeError(
                f"an IVF of {self.n_lists} lists must be trained on at least as many rows, got "
                f"{len(packed)}: add more at first, or use fewer lists or Flat"
            )
        if len(packed) < 39 * self.n_lists:
            _log.warning("%d rows are few to train %d lists on", len(packed), self.n_lists)
        self.faiss_index.train(packed)
        self._replace_repeated_centroids(packed)

    def add(self, packed: np.ndarray, ids: np.ndarray) -> None:
        """Add rows whose ids were checked."""
        self.faiss_index.add_with_ids(packed, ids)

    def remove(self, ids: np.ndarray) -> None:
        """Remove rows whose ids were checked."""
        self.faiss_index.remove_ids(ids)

    def nearest(
        self, queries: np.ndarray, *, k: int, allowed: np.ndarray | None, effort: int | None
    ) -> Hits:
        """Find near allowed rows in `effort` lists; always as many as match, up to k."""
        n_probe = self.n_probe(effort)
        n_rows = self.faiss_index.ntotal
        n_match = n_rows if allowed is None else int(np.count_nonzero(allowed))
        if n_match <= max(k, SCAN_BELOW * n_rows):
            return self._scan(queries, k=k, allowed=allowed)
        reach = reach_of(math.ceil(k * n_rows / n_match), n_rows=n_rows)
        scores, found = self._probe(
            queries, k=k, reach=reach, allowed=self._allowed_ids(allowed), n_probe=n_probe
        )
        short = np.flatnonzero(found[:, -1] < 0)
        if len(short):
            scores[short], found[short] = self._scan(queries[short], k=k, allowed=allowed)
        return scores, found

    def within(
        self, queries: np.ndarray, *, radius: int, allowed: np.ndarray | None, effort: int | None
    ) -> RangeHits:
        """Find the allowed rows within `radius` in `effort` lists."""
        n_probe, members = self.n_probe(effort), self._allowed_ids(allowed)
        parts = [no_range_hits()]
        for block in query_blocks(queries, n_hits=self.n_lists):
            owners, scores, ids = self._within_lists(queries[block], radius=radius, n_probe=n_probe)
            kept = _is_member(ids, members)
            parts.append((owners[kept] + block.start, scores[kept], ids[kept]))
        owners, scores, ids = (np.concatenate(column) for column in zip(*parts, strict=True))
        return sort_range((owners, scores, ids))

    def n_probe(self, effort: int | None) -> int:
        """Return how many lists to search: as asked, by default the root of their number.

        Raises:
            ConfigError: it is no count, or more than there are.
        """
        if effort is None:
            return math.ceil(math.sqrt(self.n_lists))
        n_probe = check_count(effort, name="nprobe")
        if n_probe > self.n_lists:
            raise ConfigError(f"nprobe must be at most the {self.n_lists} lists, got {n_probe}")
        return n_probe

    def _probe(
        self, queries: np.ndarray, *, k: int, reach: int, allowed: np.ndarray | None, n_probe: int
    ) -> Hits:
        parameters = load_faiss().SearchParametersIVF(nprobe=n_probe)
        scores, found = no_hits(len(queries), k)
        for block in query_blocks(queries, n_hits=reach):
            fetched, ids = self.faiss_index.search(queries[block], reach, params=parameters)
            kept = _is_member(ids, allowed)
            fetched, ids = np.where(kept, fetched, MISSING_SCORE), np.where(kept, ids, MISSING_ID)
            scores[block], found[block] = best(fetched, ids, k=k)
        return scores, found

    def _within_lists(self, queries: np.ndarray, *, radius: int, n_probe: int) -> RangeHits:
        # FAISS's range search takes no parameters, but the lists themselves: -1 for none.
        lists = np.full((len(queries), self.n_lists), -1, dtype=np.int64)
        lists[:, :n_probe] = self.faiss_index.quantizer.search(queries, n_probe)[1]
        limits, scores, ids = self.faiss_index.range_search_preassigned(
            queries, strict_radius(radius, queries), lists, None
        )
        return owners_of(limits), scores.astype(np.int32), ids

    def _scan(self, queries: np.ndarray, *, k: int, allowed: np.ndarray | None) -> Hits:
        ids = self.ids
        rows = np.arange(len(ids)) if allowed is None else np.flatnonzero(allowed)
        return scan_rows(self.codes, ids, queries, k=k, rows=rows)

    def _allowed_ids(self, allowed: np.ndarray | None) -> np.ndarray | None:
        return None if allowed is None else np.sort(self.ids[allowed])

    def starts(self) -> np.ndarray:
        """Return the first row number of every list, and the number of rows, (n_lists + 1,)."""
        lists = self.faiss_index.invlists
        sizes = [lists.list_size(number) for number in range(self.n_lists)]
        return np.cumsum([0, *sizes], dtype=np.int64)

    def list_ids(self, number: int) -> np.ndarray:
        """Look at the (m,) int64 ids of a list; valid until the index changes."""
        lists = self.faiss_index.invlists
        return view(lists.get_ids(number), lists.list_size(number), dtype=np.int64)

    def list_codes(self, number: int) -> np.ndarray:
        """Look at the (m, row_bytes) uint8 rows of a list; valid until the index changes."""
        lists, width = self.faiss_index.invlists, self.faiss_index.code_size
        n_bytes = lists.list_size(number) * width
        return view(lists.get_codes(number), n_bytes, dtype=np.uint8).reshape(-1, width)

    def _replace_repeated_centroids(self, packed: np.ndarray) -> None:
        # A centroid is the majority of its rows' bits: where most bits are rare, many centroids
        # round to the same code and the lists of all but one stay empty.
        centroids = load_faiss().downcast_IndexBinary(self.faiss_index.quantizer)
        distinct = np.unique(flat_codes(centroids), axis=0)
        if len(distinct) == self.n_lists:
            return
        # The first candidates are the centroids kept: rows equal to one of them drop out.
        candidates = np.concatenate([distinct, packed])
        first = np.unique(candidates, axis=0, return_index=True)[1]
        fresh = np.sort(first[first >= len(distinct)])
        n_wanted = self.n_lists - len(distinct)
        chosen = fresh[:: max(1, len(fresh) // n_wanted)][:n_wanted]
        filled = np.concatenate([distinct, candidates[chosen]])
        spare = np.repeat(filled[:1], self.n_lists - len(filled), axis=0)
        centroids.reset()
        centroids.add(np.concatenate([filled, spare]))


def _is_member(ids: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
    """Say which ids are real and, unless `allowed` is None, among its (m,) ascending ones."""
    if allowed is None:
        return ids >= 0
    if len(allowed) == 0:
        return np.zeros(ids.shape, dtype=bool)
    places = np.minimum(np.searchsorted(allowed, ids), len(allowed) - 1)
    member: np.ndarray = allowed[places] == ids
    return member
