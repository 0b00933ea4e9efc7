"""Packed codes in PostgreSQL with pgvector: bulk loads, SQL filters, search where they lie.

>>> from bitcodec_pgvector import PackedTable
>>> PackedTable.__name__
'PackedTable'

A table holds one codec's rows as `bit(h)` columns, beside columns of your own; docs/pgvector.md
has the SQL for those who write it themselves. Modules are imported on first use, and so is psycopg:
a missing one names the extra that installs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bitcodec.extras import import_extra

if TYPE_CHECKING:
    from bitcodec.search_results import MISSING_ID, MISSING_SCORE, RangeResult, SearchResult
    from bitcodec_pgvector.filters import Where
    from bitcodec_pgvector.schema import SCHEMA_VERSION, TableHeader, migrate, read_table_header
    from bitcodec_pgvector.table import PackedTable
    from bitcodec_pgvector.wire import bit_strings

__all__ = [
    "MISSING_ID",
    "MISSING_SCORE",
    "SCHEMA_VERSION",
    "PackedTable",
    "RangeResult",
    "SearchResult",
    "TableHeader",
    "Where",
    "bit_strings",
    "migrate",
    "read_table_header",
]

_HOMES = {
    "bitcodec.search_results": ("MISSING_ID", "MISSING_SCORE", "RangeResult", "SearchResult"),
    "bitcodec_pgvector.filters": ("Where",),
    "bitcodec_pgvector.schema": ("SCHEMA_VERSION", "TableHeader", "migrate", "read_table_header"),
    "bitcodec_pgvector.table": ("PackedTable",),
    "bitcodec_pgvector.wire": ("bit_strings",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_extra("psycopg", extra="pgvector")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
