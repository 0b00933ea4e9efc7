"""Rows on their way into a table: batches of codes, cut to go with ids and other columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from psycopg import sql

from bitcodec.arguments import as_ids, check_distinct, check_packed_rows
from bitcodec.bits import row_bytes
from bitcodec.errors import ConfigError, ShapeError, ValueRangeError
from bitcodec_pgvector.schema import TableHeader, column_types, quoted
from bitcodec_pgvector.server import Cursor
from bitcodec_pgvector.wire import split_rows, to_wire

_BYTEA = 17
"""PostgreSQL's number of the type whose binary form is the value's own bytes; a `bit` goes so too,
as `to_wire` has it."""
_BIGINT = 20

_INTEGER_BYTES = {21: 2, 23: 4, _BIGINT: 8}
"""Widths of PostgreSQL's integers by the numbers of their types."""

OWN_COLUMNS = ("id", "code", "side")
"""The columns that are not the user's."""


@dataclass
class Rows:
    """A stream of rows of a table, each batch with its ids and its values of other columns."""

    header: TableHeader
    """Of the table."""

    batches: Iterable[np.ndarray]
    """(b, row_bytes) uint8 each."""

    ids: np.ndarray | None
    """(n,) int64; None counts on from `first_id`."""

    columns: Mapping[str, Iterable[Any]] = field(default_factory=dict)
    """Values of other columns, one a row."""

    first_id: int = 0
    """The id of the first row where none are given."""

    n_rows: int = 0
    """How many have passed."""

    @property
    def names(self) -> list[str]:
        """The columns of the table that are written, in order."""
        own = OWN_COLUMNS if self.header.side_bytes else OWN_COLUMNS[:2]
        return [*own, *self.columns]

    def tuples(self) -> Iterator[tuple[Any, ...]]:
        """Yield every row as the values of its columns.

        Raises:
            ShapeError: there are more or fewer ids or values than rows.
            ValueRangeError: a pad bit is set.
        """
        values = {name: iter(column) for name, column in self.columns.items()}
        n_bits, width = self.header.n_bits, row_bytes(self.header.n_bits)
        for batch in self.batches:
            packed = check_packed_rows(batch, n_bits=n_bits, row_bytes=self.header.row_bytes)
            own = [self._next_ids(len(packed)), to_wire(packed[:, :width], n_bits=n_bits)]
            if self.header.side_bytes:
                own.append(split_rows(packed[:, width:]))
            others = [_take(column, len(packed), name) for name, column in values.items()]
            yield from zip(*own, *others, strict=True)
            self.n_rows += len(packed)
        self._refuse_rest(values)

    def written_ids(self) -> np.ndarray:
        """Return the (n,) int64 ids of the rows that have passed."""
        counted = np.arange(self.n_rows, dtype=np.int64) + self.first_id
        return counted if self.ids is None else self.ids

    def _next_ids(self, n_rows: int) -> list[int]:
        after = self.n_rows + n_rows
        if self.ids is None:
            return list(range(self.first_id + self.n_rows, self.first_id + after))
        if after > len(self.ids):
            raise ShapeError(
                f"ids must be one a row, got {len(self.ids)} for {after} rows or more: give one "
                f"for each"
            )
        own: list[int] = self.ids[self.n_rows : after].tolist()
        return own

    def _refuse_rest(self, values: Mapping[str, Iterator[Any]]) -> None:
        if self.ids is not None and len(self.ids) > self.n_rows:
            raise ShapeError(f"ids must be one a row, ({self.n_rows},), got ({len(self.ids)},)")
        for name, column in values.items():
            if list(islice(column, 1)):
                raise ShapeError(f"column {name!r} must have one value a row, got more")


def check_given_ids(ids: Any) -> np.ndarray | None:
    """Return ids as (n,) int64, or None where none are given.

    Raises:
        ShapeError: they are not one-dimensional integers.
        ValueRangeError: one is negative or given twice.
    """
    if ids is None:
        return None
    given = as_ids(ids)
    if len(given) and given.min() < 0:
        raise ValueRangeError(f"ids must be 0 or more, got {given.min()}: -1 stands for 'none'")
    check_distinct(given)
    return given


def copy_rows(
    cursor: Cursor, rows: Rows, table: sql.Identifier, into: sql.Identifier | None = None
) -> None:
    """Stream rows into a table by COPY in binary.

    Args:
        cursor: inside a transaction.
        rows: what to write.
        table: where to.
        into: another table of the same columns to write to instead.

    Raises:
        ConfigError: there is no such column, or it is not the user's.
    """
    own = [_BIGINT, *[_BYTEA] * (1 + bool(rows.header.side_bytes))]
    theirs = _types_of(cursor, rows.columns, table=table)
    rows.columns = {
        name: _checked(name, values, theirs[name]) for name, values in rows.columns.items()
    }
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)")
    with cursor.copy(statement.format(into or table, listed(rows.names))) as copy:
        copy.set_types([*own, *theirs.values()])
        for row in rows.tuples():
            try:
                copy.write_row(row)
            except (TypeError, ValueError, AttributeError, OverflowError) as error:
                raise _misfit(rows, row) from error


def copy_over_rows(cursor: Cursor, rows: Rows, table: sql.Identifier) -> None:
    """Write rows into a table, in the place of those of the same ids.

    They come by COPY into a temporary table, and from there by id, so that two who write the same
    rows wait for each other and do not block each other for good.

    Raises:
        ConfigError: there is no such column, or it is not the user's.
    """
    incoming, names = sql.Identifier("bitcodec_incoming"), listed(rows.names)
    like = sql.SQL("CREATE TEMPORARY TABLE {} AS SELECT {} FROM {} WITH NO DATA")
    _types_of(cursor, rows.columns, table=table)
    cursor.execute(like.format(incoming, names, table))
    copy_rows(cursor, rows, table, incoming)
    replaced = [
        sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(column)) for column in rows.names[1:]
    ]
    move = sql.SQL(
        "INSERT INTO {} ({names}) SELECT {names} FROM {} ORDER BY id "
        "ON CONFLICT (id) DO UPDATE SET {}"
    )
    cursor.execute(move.format(table, incoming, sql.SQL(", ").join(replaced), names=names))
    cursor.execute(sql.SQL("DROP TABLE {}").format(incoming))


def next_id(cursor: Cursor, table: sql.Identifier) -> int:
    """Return one more than the largest id that a table has had, or 0."""
    query = sql.SQL(
        "SELECT coalesce(greatest(pg_sequence_last_value("
        "pg_get_serial_sequence(%s, 'id')::regclass), (SELECT max(id) FROM {})) + 1, 0)"
    )
    return int(cursor.execute(query.format(table), [quoted(table)]).fetchall()[0][0])


def remember_ids(cursor: Cursor, table: sql.Identifier, ids: np.ndarray) -> None:
    """Have rows that are given no id count on from the largest so far."""
    if len(ids):
        cursor.execute(
            "SELECT setval(sequence, greatest(pg_sequence_last_value(sequence), %s)) "
            "FROM (SELECT pg_get_serial_sequence(%s, 'id')::regclass AS sequence) AS of_ids",
            [int(ids.max()), quoted(table)],
        )


def listed(names: Sequence[str]) -> sql.Composed:
    """Return column names as SQL lists them."""
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _types_of(cursor: Cursor, columns: Iterable[str], *, table: sql.Identifier) -> dict[str, int]:
    types = column_types(cursor, table)
    known = {name: number for name, (number, _) in types.items() if name not in OWN_COLUMNS}
    for name in columns:
        if name not in known:
            raise ConfigError(
                f"columns must be of table {quoted(table)} and not its own, got {name!r}: it has "
                f"{', '.join(known) or 'none besides its own'}"
            )
    return {name: known[name] for name in columns}


def _checked(name: str, column: Iterable[Any], type_number: int) -> Iterator[Any]:
    """Yield a column's values as Python's, and refuse integers that psycopg would cut off."""
    values = column.tolist() if isinstance(column, np.ndarray) else column
    if type_number not in _INTEGER_BYTES:
        yield from values
        return
    bound = 1 << (8 * _INTEGER_BYTES[type_number] - 1)
    for value in values:
        is_whole = isinstance(value, int | np.integer) and -bound <= value < bound
        if not (value is None or is_whole):
            raise ValueRangeError(
                f"column {name!r} takes whole numbers from {-bound} to {bound - 1}, got {value!r}"
            )
        yield value


def _misfit(rows: Rows, row: Sequence[Any]) -> ValueRangeError:
    names = rows.names[-len(rows.columns) :]
    given = ", ".join(
        f"column {name!r} does not take {value!r}"
        for name, value in zip(names, row[-len(names) :], strict=True)
        if value is not None
    )
    return ValueRangeError(f"the row of id {row[0]} has a value of another type: {given}")


def _take(column: Iterator[Any], n_rows: int, name: str) -> list[Any]:
    values = list(islice(column, n_rows))
    if len(values) < n_rows:
        raise ShapeError(f"column {name!r} must have one value a row, got fewer")
    return values
