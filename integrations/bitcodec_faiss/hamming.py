"""HammingIndex: nearest codes by the number of differing bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitcodec_faiss.arguments import check_count
from bitcodec_faiss.backend import limit_threads
from bitcodec_faiss.packed_index import PackedIndex
from bitcodec_faiss.results import RangeResult, SearchResult
from bitcodec_faiss.store import choose_effort


class HammingIndex(PackedIndex):
    """Search packed codes by Hamming distance, under external 64-bit ids.

    | kind | search | filter | range | remove |
    |---|---|---|---|---|
    | Flat | exact, ties by id | exact | exact | yes |
    | IVF<lists> | `nprobe` lists | checked on the hits | `nprobe` lists | yes |
    | HNSW<links> | graph | in the graph | exact, by scanning | no |

    Every kind returns min(k, rows that match) hits in order of (distance, id): a query for which
    lists or graph yield fewer is answered by an exact scan. Filters that allow few rows are
    scanned, hence exact, too.

    Args:
        codec: a fitted `bitcodec.BitCodec`, or anything with the same `Codec` attributes.
        factory: `"Flat"`, `"IVF<lists>"` or `"HNSW<links>"`.

    Raises:
        ConfigError: an unknown factory, or a codec whose rows carry more than their bits.
        NotFittedError: the codec is not fitted.
        MissingExtraError: FAISS is not installed, or too old.
    """

    def search(
        self,
        queries: Any,
        *,
        k: int = 10,
        filter: Any = None,
        n_threads: int | None = None,
        nprobe: int | None = None,
        ef_search: int | None = None,
    ) -> SearchResult:
        """Encode queries and find their k nearest rows.

        Args:
            queries: (..., d) hidden states.
            k: hits a query, at least 1; may exceed the number of rows.
            filter: (m,) integer ids that may be found (unknown ones match nothing), or (n,) bool
                in the order of `ids`; None allows every row.
            n_threads: FAISS's threads during the call; by default as FAISS has it.
            nprobe: IVF only: lists searched, by default the square root of their number.
            ef_search: HNSW only: candidates kept (at least k are), by default 64.

        Returns:
            (..., k) scores and ids.

        Raises:
            ShapeError: the width of the queries or the filter is wrong.
            ValueRangeError: a query is not finite, or the index is empty.
            ConfigError: k or a search parameter is out of range, or belongs to another kind.
            MismatchError: the codec has changed since the index was made.
        """
        self._check_codec()
        self._refuse_empty()
        return self.search_packed(
            self.codec.encode(queries),
            k=k,
            filter=filter,
            n_threads=n_threads,
            nprobe=nprobe,
            ef_search=ef_search,
        )

    def search_packed(
        self,
        packed: Any,
        *,
        k: int = 10,
        filter: Any = None,
        n_threads: int | None = None,
        nprobe: int | None = None,
        ef_search: int | None = None,
    ) -> SearchResult:
        """Find the k nearest rows of packed queries.

        Args:
            packed: (..., row_bytes) uint8.
            k: as in `search`, like every other argument.
            filter: as in `search`.
            n_threads: as in `search`.
            nprobe: as in `search`.
            ef_search: as in `search`.

        Returns:
            (..., k) scores and ids.

        Raises:
            ShapeError: the width or type of the queries or the filter is wrong.
            ValueRangeError: a pad bit is set, or the index is empty.
            ConfigError: k or a search parameter is out of range, or belongs to another kind.
        """
        n_hits = check_count(k, name="k")
        effort = choose_effort(self._store.kind, nprobe=nprobe, ef_search=ef_search)
        queries = self._check_queries(packed)
        with limit_threads(n_threads):
            scores, ids = self._store.nearest(
                _as_rows(queries), k=n_hits, allowed=self._allowed_rows(filter), effort=effort
            )
        shape = (*queries.shape[:-1], n_hits)
        return SearchResult(scores.reshape(shape), ids.reshape(shape), scored_by="hamming")

    def range_search(
        self,
        queries: Any,
        *,
        radius: int,
        filter: Any = None,
        n_threads: int | None = None,
        nprobe: int | None = None,
    ) -> RangeResult:
        """Encode queries and find all rows at most `radius` bits away.

        Args:
            queries: (n_queries, d) hidden states, or (d,) for one.
            radius: largest Hamming distance, inclusive, at least 0.
            filter: as in `search`.
            n_threads: as in `search`.
            nprobe: IVF only: lists searched; the number of lists makes the result exact.

        Returns:
            The hits of every query in order of (distance, id).

        Raises:
            ShapeError: the width of the queries or the filter is wrong.
            ValueRangeError: a query is not finite, or the index is empty.
            ConfigError: the radius or nprobe is out of range, or this is no IVF.
            MismatchError: the codec has changed since the index was made.
        """
        self._check_codec()
        self._refuse_empty()
        return self.range_search_packed(
            self.codec.encode(queries),
            radius=radius,
            filter=filter,
            n_threads=n_threads,
            nprobe=nprobe,
        )

    def range_search_packed(
        self,
        packed: Any,
        *,
        radius: int,
        filter: Any = None,
        n_threads: int | None = None,
        nprobe: int | None = None,
    ) -> RangeResult:
        """Find all rows at most `radius` bits away from packed queries.

        Args:
            packed: (n_queries, row_bytes) uint8, or (row_bytes,) for one.
            radius: as in `range_search`, like every other argument.
            filter: as in `range_search`.
            n_threads: as in `range_search`.
            nprobe: as in `range_search`.

        Returns:
            The hits of every query in order of (distance, id).

        Raises:
            ShapeError: the width or type of the queries or the filter is wrong.
            ValueRangeError: a pad bit is set, or the index is empty.
            ConfigError: the radius or nprobe is out of range, or this is no IVF.
        """
        reach = check_count(radius, name="radius", smallest=0)
        effort = choose_effort(self._store.kind, nprobe=nprobe, ef_search=None)
        queries = _as_rows(self._check_queries(packed))
        with limit_threads(n_threads):
            owners, scores, ids = self._store.within(
                queries, radius=reach, allowed=self._allowed_rows(filter), effort=effort
            )
        limits = np.searchsorted(owners, np.arange(len(queries) + 1)).astype(np.int64)
        return RangeResult(limits, scores, ids, scored_by="hamming")


def _as_rows(packed: np.ndarray) -> np.ndarray:
    """Lay (..., row_bytes) out as (n, row_bytes), contiguous."""
    return np.ascontiguousarray(packed.reshape(-1, packed.shape[-1]))
