"""Packed rows as PostgreSQL's bit strings, on the wire and as text.

PostgreSQL counts the bits of a bit string from the left, and packs its first bit as the most
significant of the first byte; bitcodec packs bit 0 as the least significant. Both end in 0 bits of
padding. So bit j of a code is character j of the text and `get_bit(code, j)` in SQL, and only the
order within the bytes differs. In binary, a bit string is its length in bits, four bytes with the
most significant first, and then its bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitcodec.bits import reverse_bit_order, row_bytes, unpack

_LENGTH_BYTES = 4


def bit_strings(packed: np.ndarray, *, n_bits: int) -> list[str]:
    """Write codes as texts that PostgreSQL reads as `bit(n_bits)`.

    Args:
        packed: (n, w) uint8 packed rows; side bytes after the bits are not looked at.
        n_bits: bits of a code, h.

    Returns:
        n texts of h characters 0 and 1; character j is bit j.

    Raises:
        ShapeError: a row is too short for its bits.
        ValueRangeError: the dtype is not uint8, or a pad bit is set.

    >>> bit_strings(np.array([[0b1101]], dtype=np.uint8), n_bits=5)
    ['10110']
    """
    bits = unpack(packed[:, : row_bytes(n_bits)], n_bits=n_bits)
    return [row.tobytes().decode("ascii") for row in bits + np.uint8(ord("0"))]


def to_wire(packed: np.ndarray, *, n_bits: int) -> list[bytes]:
    """Turn codes into what COPY takes for a `bit(n_bits)` in binary.

    Args:
        packed: (n, ceil(n_bits / 8)) uint8.
        n_bits: bits of a code.

    Returns:
        n values of 4 + ceil(n_bits / 8) bytes.
    """
    length = np.frombuffer(n_bits.to_bytes(_LENGTH_BYTES, "big"), dtype=np.uint8)
    lengths = np.broadcast_to(length, (len(packed), _LENGTH_BYTES))
    return split_rows(np.hstack([lengths, reverse_bit_order(packed, n_bits=n_bits)]))


def from_wire(values: Sequence[bytes], *, n_bits: int) -> np.ndarray:
    """Turn binary values of `bit(n_bits)` into codes: the inverse of `to_wire`.

    Returns:
        (n, ceil(n_bits / 8)) uint8.
    """
    rows = join_rows(values, width=_LENGTH_BYTES + row_bytes(n_bits))
    return reverse_bit_order(rows[:, _LENGTH_BYTES:], n_bits=n_bits)


def split_rows(rows: np.ndarray) -> list[bytes]:
    """Return the bytes of every row of (n, w) uint8."""
    width, data = rows.shape[1], rows.tobytes()
    return [data[start : start + width] for start in range(0, len(data), width)]


def join_rows(values: Sequence[bytes], *, width: int) -> np.ndarray:
    """Return (n, width) uint8 of n values of `width` bytes each."""
    return np.frombuffer(b"".join(values), dtype=np.uint8).reshape(len(values), width)
