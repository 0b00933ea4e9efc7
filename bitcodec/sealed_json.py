"""JSON files under a seal: a changed digit is found, a changed layout does no harm.

The key `seal` holds the SHA-256, hexadecimal, of the other keys as JSON with sorted keys and no
spaces. It finds accidents. Who changes a file on purpose can seal it anew.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from bitcodec.errors import FormatError
from bitcodec.files import PathLike, write_json

SEAL = "seal"
"""The key of the seal."""


def seal_of(content: dict[str, Any]) -> str:
    """Return the seal of an object, which is to be without one.

    >>> seal_of({"b": 1, "a": [0.5]})[:16]
    '1c6e9e1e92b8d1d5'
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Return an object with its seal as the last key; it is to be JSON-ready."""
    plain = json.loads(json.dumps(content))  # keys that are numbers become strings, as in a file
    return {**plain, SEAL: seal_of(plain)}


def write_sealed(path: PathLike, content: dict[str, Any], *, overwrite: bool = False) -> None:
    """Write an object under its seal, atomically and readably.

    Raises:
        FileError: `path` exists and `overwrite` is false, or cannot be written.
    """
    write_json(path, sealed(content), overwrite=overwrite)


def unsealed(content: dict[str, Any], *, where: PathLike) -> dict[str, Any]:
    """Return an object without its seal, once that was found to fit.

    Args:
        content: what was read.
        where: it was read from, for messages.

    Raises:
        FormatError: there is no seal, or it is that of another object.
    """
    inner = {key: value for key, value in content.items() if key != SEAL}
    if content.get(SEAL) != seal_of(inner):
        raise FormatError(
            f"{Path(where)} is damaged or was edited: its seal does not fit; restore it, or write "
            "it anew with bitcodec"
        )
    return inner
