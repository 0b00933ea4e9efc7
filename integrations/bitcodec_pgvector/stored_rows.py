"""Writing, reading and removing the rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from psycopg import sql

from bitcodec.arguments import as_ids, check_distinct
from bitcodec.errors import ConfigError, ValueRangeError
from bitcodec_pgvector.filters import Where, condition_of
from bitcodec_pgvector.open_table import Lock, OpenTable
from bitcodec_pgvector.rows import (
    Rows,
    check_given_ids,
    copy_over_rows,
    copy_rows,
    next_id,
    remember_ids,
)
from bitcodec_pgvector.schema import quoted
from bitcodec_pgvector.server import Cursor

Columns = Mapping[str, Iterable[Any]]
"""Values of further columns by name, one a row; they may be read as a stream."""

_BLOCK = 4096
"""Rows turned into PostgreSQL's form at a time."""


class StoredRows(OpenTable):
    """Packed rows of one codec in a table, under 64-bit ids; the base of `PackedTable`."""

    def __len__(self) -> int:
        return int(self._ask(sql.SQL("SELECT count(*) FROM {}").format(self._table)))

    @property
    def ids(self) -> np.ndarray:
        """(n,) int64, all ids, ascending."""
        with self._opened("read ids") as cursor:
            query = sql.SQL("SELECT id FROM {} ORDER BY id").format(self._table)
            rows = cursor.execute(query, binary=True)
            return np.fromiter((row[0] for row in rows), dtype=np.int64)

    @property
    def bytes_per_vector(self) -> float:
        """Bytes that the table takes in the database, its key and graph included, over its rows.

        Raises:
            ValueRangeError: the table is empty.
        """
        n_rows = len(self)
        if not n_rows:
            raise ValueRangeError("the table is empty: add rows first")
        query = sql.SQL("SELECT pg_total_relation_size(to_regclass({}))")
        return float(self._ask(query.format(quoted(self._table)))) / n_rows

    def add(self, hidden: Any, *, ids: Any = None, columns: Columns | None = None) -> np.ndarray:
        """Encode hidden states and add them as a stream, all or none.

        Args:
            hidden: (n, d) array or tensor, path(s), or an iterable of batches.
            ids: (n,) distinct integers from 0 to 2**63 - 1, new to the table; by default counted
                on from the largest that the table has had, while others who write wait.
            columns: values of columns of your own, one a row; those left out are NULL.

        Returns:
            (n,) int64, the rows' ids.

        Raises:
            ShapeError: the hidden states' width, or a length of ids or values is wrong.
            ValueRangeError: a value is not finite; an id is negative or not new; a column does not
                take a value.
            ConfigError: there is no such column.
            MismatchError: the table or the codec has become another codec's.
            ServerError: the server went away, or refuses; nothing is half written.
        """
        return self._write(self.codec.encode_batches(hidden), ids, columns, copy=copy_rows)

    def add_packed(
        self, packed: Any, *, ids: Any = None, columns: Columns | None = None
    ) -> np.ndarray:
        """Add packed rows, all or none.

        Args:
            packed: (n, row_bytes) uint8, which may be memory-mapped, or an iterable of such.
            ids: as in `add`.
            columns: as in `add`.

        Returns:
            (n,) int64, the rows' ids.

        Raises:
            ShapeError: as in `add`.
            ValueRangeError: a pad bit is set, and as in `add`.
            ConfigError: as in `add`.
            MismatchError: as in `add`.
            ServerError: as in `add`.
        """
        return self._write(_blocks(packed), ids, columns, copy=copy_rows)

    def upsert(self, hidden: Any, *, ids: Any, columns: Columns | None = None) -> np.ndarray:
        """Encode hidden states and write them as a stream in the place of rows of the same ids.

        It may be repeated, so a long load cut into several goes on where it stopped.

        Args:
            hidden: as in `add`.
            ids: (n,) distinct integers from 0 to 2**63 - 1.
            columns: as in `add`; in rows that were there, those left out stay as they are.

        Returns:
            (n,) int64, the ids.

        Raises:
            ShapeError: as in `add`.
            ValueRangeError: as in `add`, but that ids need not be new.
            ConfigError: as in `add`, or there are no ids.
            MismatchError: as in `add`.
            ServerError: as in `add`.
        """
        batches = self.codec.encode_batches(hidden)
        return self._write(batches, _required(ids), columns, copy=copy_over_rows)

    def upsert_packed(self, packed: Any, *, ids: Any, columns: Columns | None = None) -> np.ndarray:
        """Write packed rows in the place of rows of the same ids; see `upsert`.

        Args:
            packed: as in `add_packed`.
            ids: as in `upsert`.
            columns: as in `upsert`.

        Returns:
            (n,) int64, the ids.

        Raises:
            ShapeError: as in `add`.
            ValueRangeError: a pad bit is set, and as in `upsert`.
            ConfigError: as in `upsert`.
            MismatchError: as in `add`.
            ServerError: as in `add`.
        """
        return self._write(_blocks(packed), _required(ids), columns, copy=copy_over_rows)

    def remove(self, rows: Any) -> int:
        """Remove rows, all or none; their ids may be used again.

        Args:
            rows: (m,) distinct integer ids, all in the table; or a `Where`.

        Returns:
            How many rows were removed.

        Raises:
            ShapeError: `rows` is neither.
            ValueRangeError: an id is given twice or not in the table.
            ConfigError: `rows` is None, or no condition on this table.
            MismatchError: the table or the codec has become another codec's.
            ServerError: the server went away, or refuses; nothing is half removed.
        """
        if rows is None:
            raise ConfigError("remove takes ids or a Where, got None: TRUNCATE removes all rows")
        condition = condition_of(rows)
        delete = sql.SQL("DELETE FROM {} WHERE {}").format(self._table, condition.sql)
        with self._opened("remove rows", lock="ROW EXCLUSIVE") as cursor:
            if not isinstance(rows, Where):
                gone = as_ids(rows)
                check_distinct(gone)
                _refuse_unknown(gone, self._reader().fetch(gone)[0])
            return cursor.execute(delete, condition.parameters).rowcount

    def reconstruct_packed(self, ids: Any) -> np.ndarray:
        """Return the packed rows of some ids.

        Args:
            ids: (m,) integers, all in the table.

        Returns:
            (m, row_bytes) uint8, in the order of `ids`.

        Raises:
            ShapeError: the ids are not one-dimensional integers.
            ValueRangeError: an id is not in the table.
            MismatchError: the table or the codec has become another codec's.
            ServerError: the server went away.
        """
        wanted = as_ids(ids)
        with self._opened("read rows"):
            known, packed = self._reader().fetch(np.unique(wanted))
        _refuse_unknown(wanted, known)
        rows: np.ndarray = packed[np.searchsorted(known, wanted)]
        return rows

    def reconstruct(self, ids: Any) -> np.ndarray:
        """Return the decoded hidden states, (m, d) float32, of ids; see `reconstruct_packed`."""
        return self.codec.decode(self.reconstruct_packed(ids))

    def _write(
        self,
        batches: Iterable[np.ndarray],
        ids: Any,
        columns: Columns | None,
        *,
        copy: Callable[[Cursor, Rows, sql.Identifier], None],
    ) -> np.ndarray:
        rows = Rows(self._header, batches, check_given_ids(ids), columns or {})
        # Whoever counts ids on must see the largest one, so nobody else writes meanwhile.
        lock: Lock = "SHARE ROW EXCLUSIVE" if rows.ids is None else "ROW EXCLUSIVE"
        with self._opened("write rows", lock=lock) as cursor:
            if rows.ids is None:
                rows.first_id = next_id(cursor, self._table)
            copy(cursor, rows, self._table)
            written = rows.written_ids()
            remember_ids(cursor, self._table, written)
        return written


def _blocks(packed: Any) -> Iterable[Any]:
    """Cut an array into blocks of rows; an iterable of blocks stays one."""
    if not hasattr(packed, "shape"):
        blocks: Iterable[Any] = packed
        return blocks
    if len(packed.shape) != 2:
        return [packed]  # refused where rows are checked
    return (packed[start : start + _BLOCK] for start in range(0, max(1, len(packed)), _BLOCK))


def _required(ids: Any) -> Any:
    if ids is None:
        raise ConfigError("upsert needs ids, got None: say which rows to replace, or use add")
    return ids


def _refuse_unknown(wanted: np.ndarray, known: np.ndarray) -> None:
    unknown = wanted[~np.isin(wanted, known)]
    if len(unknown):
        raise ValueRangeError(
            f"ids must be in the table, got {unknown[0]} which it does not hold "
            f"({len(unknown)} such)"
        )
