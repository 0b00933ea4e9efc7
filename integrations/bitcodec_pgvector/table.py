"""PackedTable: nearest rows in a PostgreSQL table, and better scores for them in the client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from bitcodec.arguments import check_count, check_packed
from bitcodec.ranking import Hits, from_similarity, no_hits
from bitcodec.rescoring import Rescore, Rescoring, plan_rescoring, rescored
from bitcodec.search_results import RangeResult, SearchResult
from bitcodec.similarity import Metric
from bitcodec_pgvector.creation import create_graph, drop_graphs, graphs
from bitcodec_pgvector.filters import condition_of
from bitcodec_pgvector.search import Candidates, choose_effort
from bitcodec_pgvector.stored_rows import StoredRows


class PackedTable(StoredRows):
    """Search one codec's packed rows in PostgreSQL, beside columns of your own.

    `create` makes a table, `open` opens one. Searches read every row, exactly, until `build_hnsw`
    has built pgvector's graph; then they take it, except with `exact=True`. Either way a query has
    min(k, rows that match) hits in order of (distance, id): one for which the graph yields fewer is
    answered exactly. Exact searches resolve ties at the k-th place by id, the graph any way.

    Every call is a transaction: it is done as a whole or leaves no trace, and inside a transaction
    of yours on the same connection it is a part of that.

    >>> from bitcodec_pgvector import PackedTable, Where
    >>> url = "postgresql://user@host/database"
    >>> table = PackedTable.open(url, codec)  # doctest: +SKIP
    >>> here = Where("document = %(name)s", {"name": "execmodel"})  # doctest: +SKIP
    >>> table.search(queries, k=10, rescore="asymmetric", filter=here).ids  # doctest: +SKIP
    """

    def search(
        self,
        queries: Any,
        *,
        k: int = 10,
        filter: Any = None,
        exact: bool = False,
        ef_search: int | None = None,
        rescore: Rescore | None = None,
        metric: Metric | None = None,
        oversample: int | None = None,
        originals: Any = None,
        n_threads: int | None = None,
    ) -> SearchResult:
        """Encode queries and find their k nearest rows.

        Args:
            queries: (..., d) hidden states.
            k: hits a query, at least 1; may exceed the number of rows.
            filter: (m,) integer ids that may be found (unknown ones match nothing), or a `Where`;
                None allows every row.
            exact: read every row, though there is a graph.
            ef_search: with a graph only: candidates kept (at least k are), by default 64, at most
                1,000.
            rescore: None returns Hamming distances. Otherwise `oversample` times k candidates by
                Hamming distance are scored again here, and the k best by the new scores returned:
                "asymmetric" scores float queries against the codes, "float" against `originals`.
            metric: of the new scores: "inner_product" by default, "cosine", or "l2", the squared
                distance; only with `rescore`.
            oversample: candidates a hit, by default 10; only with `rescore`.
            originals: with `rescore="float"`: (n, d) array, which may be memory-mapped, whose row
                is the id; or a callable from (m,) ascending ids to (m, d).
            n_threads: threads of the new scores; None means one for each CPU.

        Returns:
            (..., k) scores and ids.

        Raises:
            ShapeError: the width of the queries or originals, or the filter is wrong.
            ValueRangeError: a query or an original is not finite, a candidate has no original, or
                the table is empty.
            ConfigError: k or a search parameter is out of range, belongs to a graph that is not
                there, or lacks what it goes with; the codec cannot score; or the filter is no
                condition on this table.
            MismatchError: the table or the codec has become another codec's.
            ServerError: the server went away, or refuses.
        """
        plan = plan_rescoring(rescore, metric=metric, oversample=oversample, originals=originals)
        n_hits = check_count(k, name="k")
        if plan is None:
            packed = self.codec.encode(queries)
            return self.search_packed(
                packed, k=n_hits, filter=filter, exact=exact, ef_search=ef_search
            )
        scores, ids = self._rescored(
            plan,
            queries,
            k=n_hits,
            n_threads=n_threads,
            filter=filter,
            exact=exact,
            ef_search=ef_search,
        )
        return SearchResult(scores, ids, scored_by=plan.by, metric=plan.metric)

    def search_packed(
        self,
        packed: Any,
        *,
        k: int = 10,
        filter: Any = None,
        exact: bool = False,
        ef_search: int | None = None,
    ) -> SearchResult:
        """Find the k nearest rows of packed queries.

        Args:
            packed: (..., row_bytes) uint8.
            k: as in `search`, like every other argument.
            filter: as in `search`.
            exact: as in `search`.
            ef_search: as in `search`.

        Returns:
            (..., k) scores and ids.

        Raises:
            ShapeError: the width or type of the queries or the filter is wrong.
            ValueRangeError: a pad bit is set, or the table is empty.
            ConfigError: as in `search`.
            MismatchError: as in `search`.
            ServerError: as in `search`.
        """
        n_hits = check_count(k, name="k")
        rows = check_packed(packed, n_bits=self.n_bits, row_bytes=self.row_bytes)
        shape = (*rows.shape[:-1], n_hits)
        flat = rows.reshape(-1, rows.shape[-1])
        how = {"filter": filter, "exact": exact, "ef_search": ef_search}
        with self._searching(flat, k=n_hits, **how) as hits:
            parts = [(found.scores, found.ids) for _, found in hits(codes=False)]
        scores, ids = joined(parts, k=n_hits)
        return SearchResult(scores.reshape(shape), ids.reshape(shape), scored_by="hamming")

    def range_search(self, queries: Any, *, radius: int, filter: Any = None) -> RangeResult:
        """Encode queries and find all rows at most `radius` bits away, exactly.

        Args:
            queries: (n_queries, d) hidden states, or (d,) for one.
            radius: largest Hamming distance, inclusive, at least 0.
            filter: as in `search`.

        Returns:
            The hits of every query in order of (distance, id).

        Raises:
            ShapeError: the width of the queries or the filter is wrong.
            ValueRangeError: a query is not finite, or the table is empty.
            ConfigError: the radius is out of range, or the filter is no condition on this table.
            MismatchError: as in `search`.
            ServerError: as in `search`.
        """
        return self.range_search_packed(self.codec.encode(queries), radius=radius, filter=filter)

    def range_search_packed(self, packed: Any, *, radius: int, filter: Any = None) -> RangeResult:
        """Find all rows at most `radius` bits away from packed queries; see `range_search`.

        Args:
            packed: (n_queries, row_bytes) uint8, or (row_bytes,) for one.
            radius: as in `range_search`.
            filter: as in `range_search`.

        Returns:
            The hits of every query in order of (distance, id).

        Raises:
            ShapeError: the width or type of the queries or the filter is wrong.
            ValueRangeError: a pad bit is set, or the table is empty.
            ConfigError: as in `range_search`.
            MismatchError: as in `search`.
            ServerError: as in `search`.
        """
        reach = check_count(radius, name="radius", smallest=0)
        rows = check_packed(packed, n_bits=self.n_bits, row_bytes=self.row_bytes)
        condition = condition_of(filter)
        with self._opened("search"):
            reader = self._reader()
            reader.refuse_empty()
            flat = rows.reshape(-1, rows.shape[-1])
            found = reader.within(flat, radius=reach, condition=condition)
        limits = np.cumsum([0, *map(len, found)], dtype=np.int64)
        hits = [row for some in found for row in some]
        scores = np.array([row[1] for row in hits], dtype=np.int32)
        ids = np.array([row[0] for row in hits], dtype=np.int64)
        return RangeResult(limits, scores, ids, scored_by="hamming")

    def build_hnsw(self, *, n_links: int = 16, ef_construction: int = 64) -> None:
        """Build pgvector's HNSW graph over the codes; later rows join it as they come.

        It is built fastest after the rows are loaded, and while it fits into the server's
        `maintenance_work_mem`. Those who write wait meanwhile; docs/pgvector.md tells how not to.

        Args:
            n_links: links a row, 2 to 100.
            ef_construction: candidates considered for them, 4 to 1,000, at least twice `n_links`.

        Raises:
            ConfigError: there is a graph, the codes have more than 64,000 bits, or an argument is
                no whole number.
            ValueRangeError: the server refuses an argument.
            MismatchError: as in `search`.
            ServerError: the server went away, or refuses; there is no half-built graph.
        """
        links = check_count(n_links, name="n_links", smallest=2)
        effort = check_count(ef_construction, name="ef_construction", smallest=4)
        with self._opened("build a graph", lock="SHARE ROW EXCLUSIVE") as cursor:
            create_graph(
                cursor,
                name=self._table,
                n_bits=self.n_bits,
                n_links=links,
                ef_construction=effort,
            )

    def drop_hnsw(self) -> None:
        """Remove the graph, if there is one; the rows stay, and searches are exact again."""
        with self._opened("drop a graph", lock="SHARE ROW EXCLUSIVE") as cursor:
            drop_graphs(cursor, name=self._table)

    @property
    def has_hnsw(self) -> bool:
        """Whether there is a graph over the codes."""
        with self._opened("look for a graph") as cursor:
            return bool(graphs(cursor, self._table))

    def _rescored(
        self, plan: Rescoring, queries: Any, *, k: int, n_threads: int | None, **how: Any
    ) -> Hits:
        """Return the (..., k) nearest rows by new scores, in the metric's own sign."""
        floats = queries if hasattr(queries, "detach") else np.asarray(queries)
        packed = self.codec.encode(floats)
        shape = (*packed.shape[:-1], k)
        flat = floats.reshape(-1, floats.shape[-1])
        packed = packed.reshape(-1, packed.shape[-1])
        parts = []
        with self._searching(packed, k=k * plan.oversample, **how) as hits:
            for block, found in hits(codes=True):
                parts.append(
                    rescored(
                        plan,
                        flat[block],
                        found.ids,
                        codec=self.codec,
                        packed=found.packed,
                        k=k,
                        n_threads=n_threads,
                    )
                )
        scores, ids = joined(parts, k=k)
        return from_similarity(scores, metric=plan.metric).reshape(shape), ids.reshape(shape)

    @contextmanager
    def _searching(
        self, packed: np.ndarray, *, k: int, filter: Any, exact: bool, ef_search: Any
    ) -> Iterator[Callable[..., Iterator[tuple[slice, Candidates]]]]:
        """Give what yields the nearest rows block by block, in one transaction."""
        condition = condition_of(filter)
        with self._opened("search") as cursor:
            has_graph = bool(graphs(cursor, self._table))
            effort = choose_effort(ef_search, exact=exact, has_graph=has_graph, k=k)
            reader = self._reader()
            reader.refuse_empty()
            yield partial(reader.nearest, packed, k=k, condition=condition, effort=effort)


def joined(parts: list[Hits], *, k: int) -> Hits:
    """Put the hits of blocks of queries together; (0, k) where there are none."""
    scores, ids = no_hits(0, k)
    if not parts:
        return scores, ids
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
