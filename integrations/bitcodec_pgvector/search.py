"""Searching a table: one statement a query, all of a block on their way at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from psycopg import sql
from psycopg.rows import tuple_row

from bitcodec.arguments import check_count
from bitcodec.errors import ConfigError, ValueRangeError
from bitcodec.ranking import Hits, best
from bitcodec.search_results import MISSING_ID, MISSING_SCORE
from bitcodec_pgvector.filters import Condition
from bitcodec_pgvector.schema import TableHeader
from bitcodec_pgvector.server import Connection, Cursor
from bitcodec_pgvector.wire import bit_strings, from_wire, join_rows

DEFAULT_EF_SEARCH = 64
LARGEST_EF_SEARCH = 1000
"""What pgvector allows."""

_BLOCK = 64
"""Queries that are on their way at once."""

# The sum keeps the planner from answering from the graph, which would be no exact answer.
_EXACT = sql.SQL(
    "SELECT id, (code <~> {code}) + 0 AS distance{more} FROM {table} WHERE {condition} "
    "ORDER BY distance, id LIMIT %(bitcodec_k)s"
)
_GRAPH = sql.SQL(
    "SELECT id, code <~> {code} AS distance{more} FROM {table} WHERE {condition} "
    "ORDER BY distance LIMIT %(bitcodec_k)s"
)
_WITHIN = sql.SQL(
    "SELECT id, (code <~> {code}) + 0 AS distance FROM {table} WHERE ({condition}) "
    "AND code <~> {code} <= %(bitcodec_radius)s ORDER BY distance, id"
)


@dataclass(frozen=True)
class Candidates:
    """The nearest rows of some queries, and, where asked for, their codes."""

    scores: np.ndarray
    """(q, k) int32; `MISSING_SCORE` beside `MISSING_ID`."""

    ids: np.ndarray
    """(q, k) int64."""

    known: np.ndarray
    """(m,) int64 ascending: the ids that were found."""

    rows: np.ndarray
    """(m, row_bytes) uint8: their packed rows; (0, row_bytes) where not asked for."""

    def packed(self, ids: np.ndarray) -> np.ndarray:
        """Return the packed rows of ids that were found."""
        found: np.ndarray = self.rows[np.searchsorted(self.known, ids)]
        return found


@dataclass(frozen=True)
class Reader:
    """Reads one table inside a transaction of its connection."""

    connection: Connection
    """To the server."""

    table: sql.Identifier
    """The table's name."""

    header: TableHeader
    """What the table says about its rows."""

    def nearest(
        self, packed: np.ndarray, *, k: int, condition: Condition, effort: int | None, codes: bool
    ) -> Iterator[tuple[slice, Candidates]]:
        """Find the k nearest rows of packed queries, block by block.

        Args:
            packed: (q, row_bytes) uint8.
            k: hits a query.
            condition: which rows may be found.
            effort: `ef_search` of the graph; None reads every row, and ties are by id.
            codes: fetch the hits' codes with them.

        Yields:
            Which queries, and their hits by (distance, id).
        """
        if effort is not None:
            self._set_effort(effort)
        parameters = {**condition.parameters, "bitcodec_k": k}
        parts = {"condition": condition.sql, "more": self._more() if codes else sql.SQL("")}
        for start in range(0, len(packed), _BLOCK):
            block = slice(start, start + _BLOCK)
            statement = _EXACT if effort is None else _GRAPH
            found = self._run(statement, packed[block], parts, parameters)
            short = [i for i, rows in enumerate(found) if len(rows) < k]
            if effort is not None and short:
                again = self._run(_EXACT, packed[block][short], parts, parameters)
                for i, rows in zip(short, again, strict=True):
                    found[i] = rows
            yield block, self._candidates(found, k=k, codes=codes)

    def within(
        self, packed: np.ndarray, *, radius: int, condition: Condition
    ) -> list[list[tuple[Any, ...]]]:
        """Return (id, distance) of all rows within a radius of each packed query, in order."""
        parameters = {**condition.parameters, "bitcodec_radius": radius}
        parts = {"condition": condition.sql, "more": sql.SQL("")}
        found = []
        for start in range(0, len(packed), _BLOCK):
            found += self._run(_WITHIN, packed[start : start + _BLOCK], parts, parameters)
        return found

    def fetch(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return those of (m,) ids that there are, ascending, and their packed rows."""
        statement = sql.SQL("SELECT id{} FROM {} WHERE id = ANY(%(ids)s::bigint[]) ORDER BY id")
        query = statement.format(self._more(), self.table)
        rows = self._execute(query, {"ids": ids.tolist()}).fetchall()
        return np.array([row[0] for row in rows], dtype=np.int64), self._packed(rows, first=1)

    def refuse_empty(self) -> None:
        """Raise where there are no rows.

        Raises:
            ValueRangeError: the table is empty.
        """
        query = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(self.table)
        if not self._execute(query, {}).fetchall()[0][0]:
            raise ValueRangeError("the table is empty: add rows first")

    def _run(
        self,
        statement: sql.SQL,
        packed: np.ndarray,
        parts: dict[str, sql.Composable],
        parameters: dict[str, Any],
    ) -> list[list[tuple[Any, ...]]]:
        n_bits = self.header.n_bits
        code = sql.SQL("%(bitcodec_code)s::bit({})").format(sql.Literal(n_bits))
        query = statement.format(code=code, table=self.table, **parts)
        with self.connection.pipeline():
            cursors = [
                self._execute(query, {**parameters, "bitcodec_code": text})
                for text in bit_strings(packed, n_bits=n_bits)
            ]
        return [cursor.fetchall() for cursor in cursors]

    def _execute(self, query: sql.SQL | sql.Composed, parameters: dict[str, Any]) -> Cursor:
        cursor = self.connection.cursor(row_factory=tuple_row)
        return cursor.execute(query, parameters, binary=True)

    def _set_effort(self, effort: int) -> None:
        # A filter that few of the graph's first candidates pass has pgvector look for more.
        self._execute(
            sql.SQL(
                "SELECT set_config('hnsw.ef_search', %(effort)s, true), "
                "set_config('hnsw.iterative_scan', 'strict_order', true)"
            ),
            {"effort": str(effort)},
        )

    def _more(self) -> sql.SQL:
        """Name the columns that hold a whole packed row."""
        return sql.SQL(", code, side" if self.header.side_bytes else ", code")

    def _packed(self, rows: Sequence[tuple[Any, ...]], *, first: int) -> np.ndarray:
        """Put rows together from the values of `_more`, which begin at column `first`."""
        packed = from_wire([row[first] for row in rows], n_bits=self.header.n_bits)
        if not self.header.side_bytes:
            return packed
        side = join_rows([row[first + 1] for row in rows], width=self.header.side_bytes)
        return np.hstack([packed, side])

    def _candidates(self, found: list[list[tuple[Any, ...]]], *, k: int, codes: bool) -> Candidates:
        scores, ids = as_hits(found, k=k)
        rows = [row for some in found for row in some] if codes else []
        known, places = np.unique([row[0] for row in rows], return_index=True)
        packed = self._packed([rows[place] for place in places], first=2)
        return Candidates(scores, ids, known.astype(np.int64), packed)


def as_hits(found: Sequence[Sequence[tuple[Any, ...]]], *, k: int) -> Hits:
    """Lay the (id, distance) of q queries out as (q, k) scores and ids, by (distance, id)."""
    scores = np.full((len(found), k), MISSING_SCORE, dtype=np.int32)
    ids = np.full((len(found), k), MISSING_ID, dtype=np.int64)
    for i, rows in enumerate(found):
        if rows:
            ids[i, : len(rows)] = [row[0] for row in rows]
            scores[i, : len(rows)] = [row[1] for row in rows]
    return best(scores, ids, k=k)


def choose_effort(ef_search: Any, *, exact: bool, has_graph: bool, k: int) -> int | None:
    """Return the candidates that a search of the graph keeps, or None for an exact search.

    Raises:
        ConfigError: `ef_search` is out of range, or there is no graph to search.
    """
    if ef_search is not None and (exact or not has_graph):
        reason = "exact=True" if exact else "a table without one"
        raise ConfigError(
            f"ef_search is of searches in an HNSW graph, got it with {reason}: leave it"
            + ("" if exact else ", or call build_hnsw")
        )
    if exact or not has_graph:
        return None
    wanted = DEFAULT_EF_SEARCH if ef_search is None else check_count(ef_search, name="ef_search")
    if wanted > LARGEST_EF_SEARCH:
        raise ConfigError(
            f"ef_search must be at most {LARGEST_EF_SEARCH}, got {wanted}: search with exact=True "
            f"instead"
        )
    return min(LARGEST_EF_SEARCH, max(wanted, k))
