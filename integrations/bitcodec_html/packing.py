"""Bytes inside a page: arrays in a safetensors file, gzipped, in base64."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from safetensors.numpy import save

_INTEGERS = (np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32)


def embed(data: bytes) -> str:
    """Gzip and write in base64, which has no character that HTML gives a meaning to."""
    return base64.b64encode(gzip.compress(data, compresslevel=9, mtime=0)).decode("ascii")


def tensor_file(arrays: dict[str, np.ndarray], page: dict[str, Any]) -> bytes:
    """Lay arrays, and what is not numbers, into one safetensors file."""
    content = json.dumps(page, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, {"page": content}
    )


def smallest(values: Sequence[int] | np.ndarray) -> np.ndarray:
    """Keep integers in the smallest type that holds them all.

    >>> smallest([3, -200]).dtype
    dtype('int16')
    """
    wide = np.asarray(values, dtype=np.int64).ravel()
    low, high = (int(wide.min()), int(wide.max())) if len(wide) else (0, 0)
    for kind in _INTEGERS:
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return wide.astype(kind)
    raise OverflowError(f"{low} to {high} fit no 32-bit integer")


def differences(values: Sequence[int] | np.ndarray) -> np.ndarray:
    """Keep integers as differences from the one before, which compress better.

    >>> differences([7, 8, 9]).tolist()
    [7, 1, 1]
    """
    return smallest(np.diff(np.asarray(values, dtype=np.int64), prepend=0))


def trimmed(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Round float32 to twelve binary digits, three to four decimal ones; the zeros compress.

    >>> trimmed([0.1234567]).tolist()
    [0.123443603515625]
    """
    return _rounded(values, n_zeros=12).view(np.float32)


def halves(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Round to bfloat16, kept as the upper halves of float32: two to three digits, for display.

    >>> halves([1.0]).tolist() == [0x3F80]
    True
    """
    upper: np.ndarray = (_rounded(values, n_zeros=16) >> 16).astype(np.uint16)
    return upper


def _rounded(values: Sequence[float] | np.ndarray, *, n_zeros: int) -> np.ndarray:
    """Round float32 to the nearest whose last bits are 0, returned as uint32; NaN stays NaN."""
    bits = np.asarray(values, dtype=np.float32).ravel().view(np.uint32)
    half = np.uint32(2 ** (n_zeros - 1))
    kept: np.ndarray = (bits + half) & ~np.uint32(2**n_zeros - 1)
    return kept


def lists(name: str, counts: Iterable[int], **columns: np.ndarray) -> dict[str, np.ndarray]:
    """Name the arrays of lists of unequal lengths, laid end to end."""
    named = {f"{name}_{column}": values for column, values in columns.items()}
    return {f"{name}_count": smallest(list(counts)), **named}


class Strings:
    """Texts numbered in the order of their first use."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """Return a text's number."""
        return self._numbers.setdefault(text, len(self._numbers))

    @property
    def texts(self) -> list[str]:
        """All texts in the order of their numbers."""
        return list(self._numbers)
