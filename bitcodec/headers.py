"""JSON headers of what `bitcodec.storage` writes: read, held against their seal, and built."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

from bitcodec.errors import FormatError
from bitcodec.files import read_json
from bitcodec.sealed_json import unsealed

_SEALED_FROM = 3
_Header = TypeVar("_Header")


def read_header(path: Path, *, kind: str, newest: int) -> tuple[int, dict[str, Any]]:
    """Read a header and check its kind, version and seal.

    Args:
        path: of the JSON file.
        kind: what its key `format` must say.
        newest: the newest version that can be read.

    Returns:
        The version, and the content without format, version and seal.

    Raises:
        FileError: there is no such file.
        FormatError: the header is foreign, damaged or of a newer format.
    """
    content = read_json(path)
    if content.pop("format", None) != kind:
        raise FormatError(f"{path} is not a {kind} header")
    version = content.pop("format_version", None)
    if type(version) is not int or version < 1:
        raise FormatError(f"{path} has no valid format_version, got {version!r:.40}")
    if version > newest:
        raise FormatError(
            f"{path} is of format {version!r:.40}, this version reads up to {newest}: "
            "upgrade bitcodec"
        )
    if version < _SEALED_FROM:
        return version, content
    inner = unsealed(content | {"format": kind, "format_version": version}, where=path)
    said = {key: value for key, value in inner.items() if key not in ("format", "format_version")}
    return version, said


def build_header(kind: type[_Header], content: dict[str, Any], path: Path) -> _Header:
    """Make a dataclass of what a header says, every key of it known, there and of its type.

    Raises:
        FormatError: a key is unknown or missing, or a value of another type or out of range.
    """
    expected = get_type_hints(kind)
    for name in sorted(set(content) ^ set(expected)):
        problem = "unknown" if name in content else "missing"
        raise FormatError(f"{path}: {name!r} is {problem}, expected {', '.join(expected)}")
    for name, value in content.items():
        wanted = get_origin(expected[name]) or expected[name]
        allowed = (int, float) if wanted is float else wanted
        if not isinstance(value, allowed) or (isinstance(value, bool) and wanted is not bool):
            raise FormatError(f"{path}: {name!r} must be {wanted.__name__}, got {value!r:.80}")
        largest = {int: 2**63 - 1, float: sys.float_info.max}.get(wanted)
        if largest is not None and not -largest <= value <= largest:
            raise FormatError(f"{path}: {name!r} is out of range: {value!r:.80}")
    return kind(**content)
