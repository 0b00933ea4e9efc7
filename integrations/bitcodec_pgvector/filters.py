"""Which rows may be found: ids, or a condition in SQL with parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, LiteralString

from psycopg import sql

from bitcodec.arguments import as_ids
from bitcodec.errors import ConfigError

RESERVED = "bitcodec_"
"""How the names of this package's own parameters begin."""


@dataclass(frozen=True)
class Where:
    """A condition on a table's rows, in SQL.

    >>> where = Where("document = %(name)s AND position < 100", {"name": "O'Reilly"})

    Values travel as parameters, beside the SQL; the condition itself is code and must never be
    made of what users say, which a type checker refuses. A percent sign in it is written `%%`.

    Raises:
        ConfigError: the name of a parameter begins with "bitcodec_".
    """

    condition: LiteralString
    """What stands after WHERE; parameters as `%(name)s`."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Their values by name."""

    def __post_init__(self) -> None:
        taken = [name for name in self.parameters if name.startswith(RESERVED)]
        if taken:
            raise ConfigError(
                f'names of parameters must not begin with "{RESERVED}", got {taken[0]!r}: rename it'
            )


@dataclass(frozen=True)
class Condition:
    """A checked filter."""

    sql: sql.Composable
    """What stands after WHERE."""

    parameters: dict[str, Any]
    """Their values by name."""


def condition_of(rows: Any) -> Condition:
    """Turn a filter into SQL.

    Args:
        rows: (m,) integer ids, a `Where`, or None for every row.

    Raises:
        ShapeError: it is neither.
        ValueRangeError: an unsigned id does not fit into 63 bits.
    """
    if rows is None:
        return Condition(sql.SQL("true"), {})
    if isinstance(rows, Where):
        return Condition(sql.SQL("({})").format(sql.SQL(rows.condition)), dict(rows.parameters))
    ids = as_ids(rows, name="filter").tolist()
    return Condition(sql.SQL("id = ANY(%(bitcodec_ids)s::bigint[])"), {"bitcodec_ids": ids})
