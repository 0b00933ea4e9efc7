"""One table of one codec: made, opened, and checked before every use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, Self

from psycopg import sql

from bitcodec.errors import MismatchError
from bitcodec.protocol import Codec, check_rows
from bitcodec_pgvector.creation import create_table
from bitcodec_pgvector.schema import (
    SCHEMA_VERSION,
    TableHeader,
    check_header,
    parse_name,
    read_header,
)
from bitcodec_pgvector.search import Reader
from bitcodec_pgvector.server import Connection, Cursor, Server, connect, transaction

Lock = Literal["ROW EXCLUSIVE", "SHARE ROW EXCLUSIVE"]
"""What a writer keeps others from: changes of the table itself, or writing too."""


class OpenTable:
    """A connection to a table of one codec's rows; the base of `StoredRows`."""

    def __init__(self, connection: Connection, codec: Codec, *, name: str, owned: bool) -> None:
        self.connection = connection
        self.codec = codec
        self.name = name
        self.fingerprint = codec.fingerprint_
        self.n_bits = codec.n_bits_
        self.row_bytes = codec.row_bytes_
        self._table = parse_name(name)
        self._owned = owned
        self._header = TableHeader(SCHEMA_VERSION, self.fingerprint, self.n_bits, self.row_bytes)

    @classmethod
    def create(
        cls,
        server: Server,
        codec: Codec,
        *,
        name: str = "codes",
        columns: Mapping[str, str] | None = None,
    ) -> Self:
        """Make an empty table.

        Args:
            server: a connection string or URL, or an open psycopg connection.
            codec: a fitted codec.
            name: of the table; "schema.name" for one outside the search path.
            columns: PostgreSQL's types of columns of your own, by name: `{"document": "text"}`.

        Returns:
            The table.

        Raises:
            FileError: there is a table of this name.
            ConfigError: a column's name or type is wrong, or the database has no pgvector.
            NotFittedError: the codec is not fitted.
            ServerError: the server is not reached, or refuses.
        """
        check_rows(codec)
        table = cls._connected(server, codec, name)
        try:
            with transaction(table.connection, doing="create the table") as cursor:
                create_table(cursor, codec, name=table._table, columns=columns or {})
        except BaseException:
            table.close()
            raise
        return table

    @classmethod
    def open(cls, server: Server, codec: Codec, *, name: str = "codes") -> Self:
        """Open a table.

        Args:
            server: as in `create`.
            codec: the codec that its rows were encoded with.
            name: as in `create`.

        Returns:
            The table.

        Raises:
            FileError: there is no such table.
            FormatError: it has no header, or is of another version; `migrate` brings old ones up.
            MismatchError: its rows are another codec's.
            NotFittedError: the codec is not fitted.
            ServerError: the server is not reached, or refuses.
        """
        check_rows(codec)
        table = cls._connected(server, codec, name)
        try:
            with table._opened("open the table"):
                return table
        except BaseException:
            table.close()
            raise

    def close(self) -> None:
        """Close the connection, if the table has opened it."""
        if self._owned:
            self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, n_bits={self.n_bits})"

    @classmethod
    def _connected(cls, server: Server, codec: Codec, name: str) -> Self:
        parse_name(name)
        if isinstance(server, str):
            return cls(connect(server), codec, name=name, owned=True)
        return cls(server, codec, name=name, owned=False)

    @contextmanager
    def _opened(self, doing: str, *, lock: Lock | None = None) -> Iterator[Cursor]:
        """Give a cursor in a transaction on a table that is still this codec's."""
        if self.codec.fingerprint_ != self.fingerprint:
            raise MismatchError(
                f"this table was opened with codec {self.fingerprint[:12]}, which has since become "
                f"{self.codec.fingerprint_[:12]}: open it anew, or create another"
            )
        with transaction(self.connection, doing=doing) as cursor:
            if lock is not None:
                mode = sql.SQL(lock)
                cursor.execute(sql.SQL("LOCK TABLE {} IN {} MODE").format(self._table, mode))
            check_header(read_header(cursor, self._table), self.codec, name=self._table)
            yield cursor

    def _ask(self, query: sql.Composed) -> Any:
        with self._opened("read the table") as cursor:
            return cursor.execute(query).fetchall()[0][0]

    def _reader(self) -> Reader:
        return Reader(self.connection, self._table, self._header)
