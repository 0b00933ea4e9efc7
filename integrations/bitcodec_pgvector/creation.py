"""Making tables and their graphs."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import errors, sql

from bitcodec.bits import row_bytes
from bitcodec.errors import ConfigError, FileError
from bitcodec.protocol import Codec
from bitcodec_pgvector.rows import OWN_COLUMNS
from bitcodec_pgvector.schema import check_extension, quoted, take_steps
from bitcodec_pgvector.server import Cursor

_LOCK = 0x62697463
"""Names the advisory lock that two who create tables at once wait for: "bitc" in ASCII."""

_LARGEST_BITS = 83_886_080
"""Of a PostgreSQL bit string."""

LARGEST_GRAPH_BITS = 64_000
"""Of the codes in one of pgvector's graphs."""

_NO_EXTENSION = (errors.UndefinedFile, errors.FeatureNotSupported, errors.InsufficientPrivilege)


def create_table(
    cursor: Cursor, codec: Codec, *, name: sql.Identifier, columns: Mapping[str, str]
) -> None:
    """Make an empty table, and the extension where it may and must be made.

    Args:
        cursor: inside a transaction.
        codec: whose rows the table is for.
        name: of the table.
        columns: PostgreSQL's types of further columns, by name.

    Raises:
        FileError: there is a table of this name.
        ConfigError: a column's name is taken or its type unknown, the codes are too long, or the
            database has no pgvector that is new enough.
    """
    if codec.n_bits_ > _LARGEST_BITS:
        raise ConfigError(f"codes must have at most {_LARGEST_BITS:,} bits, got {codec.n_bits_:,}")
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
    _need_extension(cursor)
    own = [sql.SQL("id bigint PRIMARY KEY")]
    fields: list[sql.Composable] = [*own, sql.SQL("code bit({})").format(codec.n_bits_)]
    if codec.row_bytes_ > row_bytes(codec.n_bits_):
        fields.append(sql.SQL("side bytea"))
    fields += [_column(cursor, column, written) for column, written in columns.items()]
    try:
        made = sql.SQL("CREATE TABLE {} ({})").format(name, sql.SQL(", ").join(fields))
        cursor.execute(made)
    except errors.DuplicateTable as error:
        raise FileError(
            f"table {quoted(name)} exists: open it with PackedTable.open, or choose another name"
        ) from error
    take_steps(cursor, codec, name=name)


def create_graph(
    cursor: Cursor, *, name: sql.Identifier, n_bits: int, n_links: int, ef_construction: int
) -> None:
    """Build an HNSW graph over the codes of a table.

    Raises:
        ConfigError: the codes are too long for it, or there is one.
    """
    if n_bits > LARGEST_GRAPH_BITS:
        raise ConfigError(
            f"pgvector builds graphs of codes of at most {LARGEST_GRAPH_BITS:,} bits, got "
            f"{n_bits:,}: search without one, or fit a codec of fewer bits"
        )
    if graphs(cursor, name):
        raise ConfigError(f"table {quoted(name)} has a graph: call drop_hnsw before you build one")
    cursor.execute(
        sql.SQL(
            "CREATE INDEX ON {} USING hnsw (code bit_hamming_ops) "
            "WITH (m = {}, ef_construction = {})"
        ).format(name, n_links, ef_construction)
    )


def drop_graphs(cursor: Cursor, *, name: sql.Identifier) -> None:
    """Remove the graphs of a table; its rows stay."""
    for graph in graphs(cursor, name):
        cursor.execute(sql.SQL("DROP INDEX {}").format(graph))


def graphs(cursor: Cursor, name: sql.Identifier) -> list[sql.Identifier]:
    """Return the names of a table's finished HNSW indexes."""
    cursor.execute(
        "SELECT nspname, relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
        "JOIN pg_am ON pg_am.oid = relam JOIN pg_namespace ON pg_namespace.oid = relnamespace "
        "WHERE indrelid = to_regclass(%s) AND amname = 'hnsw' AND indisvalid",
        [quoted(name)],
    )
    return [sql.Identifier(*row) for row in cursor.fetchall()]


def _need_extension(cursor: Cursor) -> None:
    try:
        cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except _NO_EXTENSION as error:
        raise ConfigError(
            "the database has no pgvector, and this user cannot make it: install it on the server, "
            "then have its administrator run CREATE EXTENSION vector"
        ) from error
    check_extension(cursor)


def _column(cursor: Cursor, name: str, written: str) -> sql.Composed:
    """Return a column's definition, its type as PostgreSQL itself writes it."""
    if name in OWN_COLUMNS:
        raise ConfigError(f"columns must not be named {' or '.join(OWN_COLUMNS)}, got {name!r}")
    if "(" in written:
        raise ConfigError(
            f"the type of column {name!r} must have no size, got {written!r}: give it without, and "
            f"use ALTER TABLE for more"
        )
    try:
        cursor.execute("SELECT format_type(to_regtype(%s), NULL)", [written])
        found = cursor.fetchall()[0][0]
    except errors.SyntaxError:
        found = None
    if found is None:
        raise ConfigError(f"column {name!r} must be of a PostgreSQL type, got {written!r}")
    # The type is PostgreSQL's own spelling of what it found: nothing that was given is pasted.
    return sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(found))
