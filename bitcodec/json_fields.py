"""Nested frozen dataclasses as JSON objects, and back."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, TypeVar

from bitcodec.errors import FormatError

Fields = TypeVar("Fields")
_NULL = "null"


def null_means(value: float) -> dict[str, float]:
    """Return metadata of a field of floats: what a null in the JSON stands for.

    JSON has no infinities and no NaN; `to_fields` writes null for them.
    """
    return {_NULL: value}


def to_fields(instance: Any) -> dict[str, Any]:
    """Return a dataclass as an object of its fields, dataclasses inside likewise.

    Tuples become lists. Floats keep six significant digits, those that are not finite become None.
    """
    return {
        field.name: _plain(getattr(instance, field.name)) for field in dataclasses.fields(instance)
    }


def from_fields(kind: type[Fields], content: Any, *, null: float = math.nan) -> Fields:
    """Build a dataclass from what `to_fields` gave.

    Args:
        kind: the dataclass.
        content: the object.
        null: what None stands for where a float is wanted.

    Raises:
        FormatError: a field is missing, unknown or of another type; names it.
    """
    return typing.cast(Fields, _built(kind, content, null=null, where=kind.__name__))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_fields(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _built(kind: Any, value: Any, *, null: float, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _object(kind, value, null=null, where=where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        _check(isinstance(value, list), where, "a list", value)
        return tuple(_built(arguments[0], item, null=null, where=where) for item in value)
    if origin is types.UnionType:  # only `T | None` is used
        return None if value is None else _built(arguments[0], value, null=null, where=where)
    if origin is typing.Literal:
        _check(value in arguments, where, f"one of {', '.join(map(str, arguments))}", value)
        return value
    return _scalar(origin or kind, value, null=null, where=where)


def _scalar(kind: type, value: Any, *, null: float, where: str) -> Any:
    if kind is float:
        if value is None:
            return null
        _check(_is_number(value), where, "a number", value)
        return float(value)
    right = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    _check(right, where, kind.__name__, value)
    return value


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**1023  # or it is no float
    return isinstance(value, float)


def _object(kind: Any, value: Any, *, null: float, where: str) -> Any:
    _check(isinstance(value, dict), where, "an object", value)
    fields, hints = {field.name: field for field in dataclasses.fields(kind)}, _hints(kind)
    if set(value) != set(fields):
        missing, unknown = sorted(set(fields) - set(value)), sorted(set(value) - set(fields))
        raise FormatError(f"{where} lacks the fields {missing} and has the unknown {unknown}")
    return kind(
        **{
            name: _built(
                hints[name],
                value[name],
                null=field.metadata.get(_NULL, null),
                where=f"{where}.{name}",
            )
            for name, field in fields.items()
        }
    )


_HINTS: dict[Any, dict[str, Any]] = {}


def _hints(kind: Any) -> dict[str, Any]:
    if kind not in _HINTS:  # evaluating annotations is slow, and features are thousands
        _HINTS[kind] = typing.get_type_hints(kind)
    return _HINTS[kind]


def _check(right: bool, where: str, expected: str, value: Any) -> None:
    if not right:
        raise FormatError(
            f"{where} must be {expected}, got {type(value).__name__}: {str(value)[:40]}"
        )
