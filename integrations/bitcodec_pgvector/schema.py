"""What a table looks like, which codec its rows are of, and how older tables become today's.

Every table carries its header as JSON in PostgreSQL's comment on it: that follows the table where
it is renamed, dumped or restored, changes only with the transaction that changes the table, and is
read by anyone with `SELECT obj_description('codes'::regclass)`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

from psycopg import sql

from bitcodec.bits import row_bytes
from bitcodec.errors import ConfigError, FileError, FormatError, MismatchError
from bitcodec.protocol import Codec, check_rows
from bitcodec_pgvector.server import Cursor, Server, connected, transaction

FORMAT = "bitcodec.table"
"""What a header calls itself."""

OLDEST_PGVECTOR = (0, 8)
"""The first pgvector whose filtered searches go on until they have enough hits."""


@dataclass(frozen=True)
class TableHeader:
    """What a table says about its rows."""

    schema_version: int
    """Of the table's columns and constraints."""

    fingerprint: str
    """The codec's, hex."""

    n_bits: int
    """Bits of one code, h."""

    row_bytes: int
    """Bytes of one packed row, side bytes included."""

    format: str = FORMAT
    """What the comment is."""

    @property
    def side_bytes(self) -> int:
        """Bytes of a row after those of its bits."""
        return self.row_bytes - row_bytes(self.n_bits)


def parse_name(name: str) -> sql.Identifier:
    """Return a table's name quoted for SQL.

    Args:
        name: "codes", or "schema.codes".

    Raises:
        ConfigError: it is empty, has more than two parts, or a percent sign, which psycopg takes
            for a parameter's.
    """
    parts = name.split(".")
    if len(parts) > 2 or not all(parts) or "%" in name:
        raise ConfigError(
            f'a table is named "codes" or "schema.codes", without a percent sign, got {name!r}'
        )
    return sql.Identifier(*parts)


def quoted(name: sql.Identifier) -> str:
    """Return a name as text that PostgreSQL's functions look a table up by."""
    return name.as_string(None)


def read_table_header(server: Server, *, name: str = "codes") -> TableHeader:
    """Read what a table says about itself; its codec is not needed.

    Raises:
        FileError: there is no such table.
        FormatError: it has no header, or one of a newer version.
        ServerError: the server is not reached, or goes away.
    """
    with connected(server) as connection, transaction(connection, doing="open a table") as cursor:
        return read_header(cursor, parse_name(name))


def read_header(cursor: Cursor, name: sql.Identifier) -> TableHeader:
    """Read a table's header inside a transaction."""
    header = _find_header(cursor, name)
    if header is None:
        raise FormatError(
            f"table {quoted(name)} has no header of bitcodec in its comment: if its codes are the "
            f"codec's, bitcodec_pgvector.migrate(server, codec, name=...) adds one"
        )
    return header


def check_header(header: TableHeader, codec: Codec, *, name: sql.Identifier) -> None:
    """Refuse a table of another codec or of an older version.

    Raises:
        MismatchError: the rows are another codec's.
        FormatError: the table is of an older version.
    """
    check_codec(header, codec, name=name)
    if header.schema_version < SCHEMA_VERSION:
        raise FormatError(
            f"table {quoted(name)} is of schema version {header.schema_version}, this bitcodec "
            f"uses {SCHEMA_VERSION}: run bitcodec_pgvector.migrate(server, codec, name=...)"
        )


def check_codec(header: TableHeader, codec: Codec, *, name: sql.Identifier) -> None:
    """Refuse a table of another codec.

    Raises:
        MismatchError: the rows are another codec's.
    """
    made = (header.fingerprint, header.n_bits, header.row_bytes)
    if made != (codec.fingerprint_, codec.n_bits_, codec.row_bytes_):
        raise MismatchError(
            f"table {quoted(name)} holds rows of {header.row_bytes} bytes of codec "
            f"{header.fingerprint[:12]}, and this one is {codec.fingerprint_[:12]} of "
            f"{codec.row_bytes_} bytes: open it with that codec, or create another table"
        )


def migrate(server: Server, codec: Codec, *, name: str = "codes") -> int:
    """Bring a table to today's schema, as a whole or not at all.

    A table without a header counts as version 0: one made by hand, of `id bigint`, `code bit(h)`
    and, where the codec has side bytes, `side bytea`, whose rows you know to be this codec's.

    Args:
        server: a connection string, or a connection.
        codec: the codec that the rows were encoded with.
        name: of the table.

    Returns:
        The version it had before; `SCHEMA_VERSION` where there was nothing to do.

    Raises:
        FileError: there is no such table.
        FormatError: it is of a newer version.
        MismatchError: its rows are another codec's, or cannot be this one's.
        ServerError: the server is not reached, or goes away.
    """
    check_rows(codec)
    table = parse_name(name)
    with connected(server) as connection, transaction(connection, doing="migrate") as cursor:
        if exists(cursor, table):
            cursor.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table))
        return take_steps(cursor, codec, name=table)


def take_steps(cursor: Cursor, codec: Codec, *, name: sql.Identifier) -> int:
    """Take the steps that a table lacks, and return the version that it had."""
    before = _find_header(cursor, name)
    version = 0 if before is None else before.schema_version
    after = TableHeader(
        schema_version=SCHEMA_VERSION,
        fingerprint=codec.fingerprint_,
        n_bits=codec.n_bits_,
        row_bytes=codec.row_bytes_,
    )
    if before is not None:
        check_codec(before, codec, name=name)
    for step in _STEPS[version:]:
        step(cursor, name, after)
    if version < SCHEMA_VERSION:
        text = sql.Literal(json.dumps(asdict(after)))
        cursor.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(name, text))
    return version


def exists(cursor: Cursor, name: sql.Identifier) -> bool:
    """Say whether there is a table of this name."""
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [quoted(name)])
    return bool(cursor.fetchall()[0][0])


def check_extension(cursor: Cursor) -> None:
    """Raise unless the database has a pgvector that is new enough.

    Raises:
        ConfigError: it is not there, or too old.
    """
    cursor.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    found = [row[0] for row in cursor.fetchall()]
    oldest = ".".join(map(str, OLDEST_PGVECTOR))
    if not found:
        raise ConfigError(
            f"the database must have pgvector {oldest} or later, got none: install it on the "
            f"server, then run CREATE EXTENSION vector"
        )
    if tuple(int(part) for part in found[0].split(".")[:2]) < OLDEST_PGVECTOR:
        raise ConfigError(
            f"the database must have pgvector {oldest} or later, got {found[0]}: install a newer "
            f"one, then run ALTER EXTENSION vector UPDATE"
        )


def column_types(cursor: Cursor, name: sql.Identifier) -> dict[str, tuple[int, str]]:
    """Return the type of every column, as number and as written in SQL, by the column's name."""
    cursor.execute(
        "SELECT attname, atttypid, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
        [quoted(name)],
    )
    return {column: (int(number), written) for column, number, written in cursor.fetchall()}


def _find_header(cursor: Cursor, name: sql.Identifier) -> TableHeader | None:
    cursor.execute(
        "SELECT obj_description(oid, 'pg_class') FROM pg_class WHERE oid = to_regclass(%s)",
        [quoted(name)],
    )
    found = cursor.fetchall()
    if not found:
        raise FileError(f"there is no table {quoted(name)}: make one with PackedTable.create")
    return None if found[0][0] is None else _parse_header(found[0][0], name)


def _parse_header(comment: str, name: sql.Identifier) -> TableHeader | None:
    try:
        values = json.loads(comment)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        return None
    version, known = values.get("schema_version"), {field.name for field in fields(TableHeader)}
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise FormatError(
            f"table {quoted(name)} is of schema version {version}, this bitcodec knows "
            f"{SCHEMA_VERSION}: install a newer one"
        )
    if set(values) != known or not isinstance(version, int) or version < 1:
        raise FormatError(f"the header in the comment on table {quoted(name)} is damaged")
    return TableHeader(**values)


def _from_hand_made(cursor: Cursor, name: sql.Identifier, header: TableHeader) -> None:
    """Version 0 to 1: one key a row, counted on where no id is given, and no missing values."""
    expected = {"id": "bigint", "code": f"bit({header.n_bits})"}
    if header.side_bytes:
        expected["side"] = "bytea"
    found = {column: written for column, (_, written) in column_types(cursor, name).items()}
    for column, written in expected.items():
        if found.get(column) != written:
            raise MismatchError(
                f"table {quoted(name)} must have a column {column} {written} to hold this codec's "
                f"rows, got {found.get(column, 'none')}"
            )
    for change in _missing(cursor, name, header):
        cursor.execute(sql.SQL("ALTER TABLE {} {}").format(name, change))


def _missing(cursor: Cursor, name: sql.Identifier, header: TableHeader) -> list[sql.Composable]:
    """Return what ALTER TABLE is to do to a table of version 0."""
    cursor.execute(
        "SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = to_regclass(%(name)s) "
        "AND indisprimary), pg_get_serial_sequence(%(name)s, 'id') IS NOT NULL",
        {"name": quoted(name)},
    )
    has_key, has_sequence = cursor.fetchall()[0]
    changes: list[sql.Composable] = [
        sql.SQL("ALTER code SET NOT NULL"),
        sql.SQL("ADD CHECK (id >= 0)"),
    ]
    if not has_key:
        changes.append(sql.SQL("ADD PRIMARY KEY (id)"))
    if not has_sequence:
        identity = "ALTER id ADD GENERATED BY DEFAULT AS IDENTITY (MINVALUE 0 START 0)"
        changes.append(sql.SQL(identity))
    if header.side_bytes:
        length = sql.Literal(header.side_bytes)
        changes.append(sql.SQL("ALTER side SET NOT NULL"))
        changes.append(sql.SQL("ADD CHECK (octet_length(side) = {})").format(length))
    return changes


_STEPS: tuple[Callable[[Cursor, sql.Identifier, TableHeader], None], ...] = (_from_hand_made,)
"""Step i turns version i into i + 1."""

SCHEMA_VERSION = len(_STEPS)
"""Of the tables that this version of bitcodec makes and uses."""
