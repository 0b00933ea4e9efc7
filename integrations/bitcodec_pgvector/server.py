"""Connections to PostgreSQL, their transactions, and their errors in bitcodec's words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors
from psycopg.rows import TupleRow, tuple_row

from bitcodec.errors import (
    BitcodecError,
    ConfigError,
    FileError,
    ServerError,
    ValueRangeError,
)
from bitcodec.files import one_line

Connection = psycopg.Connection[Any]
Cursor = psycopg.Cursor[TupleRow]

Server = str | Connection
"""A connection string or URL, or an open connection."""


@contextmanager
def connected(server: Server) -> Iterator[Connection]:
    """Give a connection: the one that is given, or a new one that is closed at the end.

    Raises:
        ServerError: the server is not reached.
    """
    if isinstance(server, str):
        with connect(server) as connection:
            yield connection
    else:
        yield server


def connect(url: str) -> Connection:
    """Open a connection in which every statement that is in no transaction is one of its own.

    Raises:
        ServerError: the server is not reached.
        ConfigError: the URL is no connection string.
    """
    try:
        return psycopg.connect(url, autocommit=True)
    except psycopg.ProgrammingError as error:
        raise ConfigError(
            f"a server is named by a connection string such as postgresql://user@host/database, "
            f"got one that does not parse: {one_line(error)}"
        ) from error
    except psycopg.Error as error:
        raise ServerError(f"cannot connect to PostgreSQL: {one_line(error)}") from error


@contextmanager
def transaction(connection: Connection, *, doing: str) -> Iterator[Cursor]:
    """Give a cursor in a transaction that succeeds as a whole or leaves no trace.

    Inside a transaction of the caller's it is a part of that one, with a savepoint of its own.

    Args:
        connection: to the server.
        doing: what is being done, for messages: "add rows".

    Raises:
        ValueRangeError: the table refuses an id or a value.
        ConfigError: a condition or a column is none of this table's.
        FileError: the table is gone.
        ServerError: the server went away, or refuses for another reason.
    """
    try:
        with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
            yield cursor
    except psycopg.Error as error:
        raise translated(error, doing=doing) from error


def translated(error: psycopg.Error, *, doing: str) -> BitcodecError:
    """Return the error to raise in the place of one of psycopg's."""
    said = one_line(error)
    if isinstance(error, errors.UniqueViolation):
        detail = error.diag.message_detail or said
        return ValueRangeError(
            f"ids must be new to the table, got one that it holds: {detail} Nothing was written: "
            f"choose others, or upsert to replace rows"
        )
    if isinstance(error, errors.UndefinedTable):
        return FileError(f"cannot {doing}: {said}: create the table with PackedTable.create")
    if isinstance(error, errors.InsufficientPrivilege):
        return ServerError(f"cannot {doing}: {said}: ask its owner for the right")
    if isinstance(error, errors.DataError | errors.IntegrityError):
        return ValueRangeError(f"cannot {doing}: the table does not take a value: {said}")
    if isinstance(error, psycopg.ProgrammingError):
        return ConfigError(f"cannot {doing}: this is no SQL for the table: {said}")
    return ServerError(
        f"cannot {doing}: {said}: connect again and repeat it, for it is written as a whole or not "
        f"at all"
    )
