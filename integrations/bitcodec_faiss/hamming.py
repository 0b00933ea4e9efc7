"""HammingIndex: nearest codes by the number of differing bits."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from bitcodec.arguments import check_count
from bitcodec.errors import ConfigError
from bitcodec.protocol import Codec
from bitcodec.ranking import from_similarity
from bitcodec.rescoring import Rescore, plan_rescoring, rescored
from bitcodec.search_results import RangeResult, SearchResult
from bitcodec.similarity import Metric
from bitcodec_faiss.backend import limit_threads, load_faiss
from bitcodec_faiss.index_files import IndexHeader
from bitcodec_faiss.packed_index import PackedIndex
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

    Distances count the bits of a code. Side bytes, if the codec has any, are kept beside FAISS's
    index; `search` can score the nearest candidates again with them, or with the original vectors.

    Args:
        codec: a fitted `bitcodec.BitCodec`, or anything with the same `Codec` attributes.
        factory: `"Flat"`, `"IVF<lists>"` or `"HNSW<links>"`.

    Raises:
        ConfigError: an unknown factory, or a codec whose rows are too short.
        NotFittedError: the codec is not fitted.
        MissingExtraError: FAISS is not installed, or too old.
    """

    metric = "hamming"
    _splits_side = True

    def search(
        self,
        queries: Any,
        *,
        k: int = 10,
        filter: Any = None,
        n_threads: int | None = None,
        nprobe: int | None = None,
        ef_search: int | None = None,
        rescore: Rescore | None = None,
        metric: Metric | None = None,
        oversample: int | None = None,
        originals: Any = None,
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
            rescore: None returns Hamming distances. Otherwise `oversample` times k candidates by
                Hamming distance are scored again, and the k best by the new scores returned:
                "asymmetric" scores float queries against the codes, "float" against `originals`.
            metric: of the new scores: "inner_product" by default, "cosine", or "l2", the squared
                distance; only with `rescore`.
            oversample: candidates a hit, by default 10; only with `rescore`.
            originals: with `rescore="float"`: (n, d) array, which may be memory-mapped, whose row
                is the id; or a callable from (m,) ascending ids to (m, d).

        Returns:
            (..., k) scores and ids.

        Raises:
            ShapeError: the width of the queries, the originals or the filter is wrong.
            ValueRangeError: a query or an original is not finite, a candidate has no original, or
                the index is empty.
            ConfigError: k or a search parameter is out of range, belongs to another kind, or
                lacks what it goes with; or the codec cannot score.
            MismatchError: the codec has changed since the index was made.
        """
        plan = plan_rescoring(rescore, metric=metric, oversample=oversample, originals=originals)
        n_hits = check_count(k, name="k")
        self._check_codec()
        self._refuse_empty()
        found = self.search_packed(
            self.codec.encode(queries),
            k=n_hits if plan is None else min(n_hits * plan.oversample, max(n_hits, len(self))),
            filter=filter,
            n_threads=n_threads,
            nprobe=nprobe,
            ef_search=ef_search,
        )
        if plan is None:
            return found
        with limit_threads(n_threads):
            scores, ids = rescored(
                plan,
                queries,
                found.ids.reshape(-1, found.ids.shape[-1]),
                codec=self.codec,
                packed=self._rows.packed,
                k=n_hits,
                n_threads=load_faiss().omp_get_max_threads(),
            )
        shape = (*found.ids.shape[:-1], n_hits)
        own = from_similarity(scores, metric=plan.metric)
        return SearchResult(
            own.reshape(shape), ids.reshape(shape), scored_by=plan.by, metric=plan.metric
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
        rescore: Any = None,
    ) -> SearchResult:
        """Find the k nearest rows of packed queries.

        Args:
            packed: (..., row_bytes) uint8.
            k: as in `search`, like every other argument.
            filter: as in `search`.
            n_threads: as in `search`.
            nprobe: as in `search`.
            ef_search: as in `search`.
            rescore: must be None: a packed query is no float query. Use `search`.

        Returns:
            (..., k) scores and ids.

        Raises:
            ShapeError: the width or type of the queries or the filter is wrong.
            ValueRangeError: a pad bit is set, or the index is empty.
            ConfigError: k or a search parameter is out of range, or belongs to another kind.
        """
        if rescore is not None:
            raise ConfigError(
                f"packed queries cannot be rescored, got rescore={rescore!r}: give float queries "
                f"to `search`"
            )
        n_hits = check_count(k, name="k")
        store = self._rows.store
        effort = choose_effort(store.kind, nprobe=nprobe, ef_search=ef_search)
        queries = self._check_queries(packed)
        with limit_threads(n_threads):
            scores, ids = store.nearest(
                self._as_codes(queries),
                k=n_hits,
                allowed=self._rows.allowed(filter),
                effort=effort,
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
        store = self._rows.store
        effort = choose_effort(store.kind, nprobe=nprobe, ef_search=None)
        queries = self._as_codes(self._check_queries(packed))
        with limit_threads(n_threads):
            owners, scores, ids = store.within(
                queries, radius=reach, allowed=self._rows.allowed(filter), effort=effort
            )
        limits = np.searchsorted(owners, np.arange(len(queries) + 1)).astype(np.int64)
        return RangeResult(limits, scores, ids, scored_by="hamming")

    @classmethod
    def _like(cls, header: IndexHeader, codec: Codec) -> Self:
        if header.metric != "hamming":
            raise ConfigError(
                f"it holds an AsymmetricIndex of metric {header.metric!r}: load it with "
                f"AsymmetricIndex.load"
            )
        return cls(codec, factory=header.factory)

    def _as_codes(self, packed: np.ndarray) -> np.ndarray:
        """Lay the bits of (..., row_bytes) rows out as (n, code_bytes), contiguous."""
        rows = packed.reshape(-1, packed.shape[-1])
        return np.ascontiguousarray(rows[:, : self._stored_bytes])
