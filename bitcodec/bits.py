"""Bits packed eight to a byte: packing, distances, and other tools' layouts.

A packed row is least significant bit first: bit j of a row is bit j % 8 of byte j // 8, the order
FAISS uses. The spare high bits of a row's last byte are 0 and never counted.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from bitarray import bitarray

from bitcodec.errors import ShapeError, ValueRangeError


def row_bytes(n_bits: int) -> int:
    """Return the bytes that a packed row of `n_bits` bits takes.

    >>> row_bytes(9)
    2
    """
    return -(-n_bits // 8)


def pack(bits: np.ndarray) -> np.ndarray:
    """Pack bits eight to a byte, least significant bit first.

    Args:
        bits: (n, h) bool or uint8, values 0 or 1.

    Returns:
        (n, ceil(h / 8)) uint8; spare high bits of each row's last byte are 0.

    Raises:
        ShapeError: `bits` is not two-dimensional.
        ValueRangeError: a value is neither 0 nor 1, or the dtype is not bool or uint8.

    >>> pack(np.array([[1, 0, 1]], dtype=np.uint8))
    array([[5]], dtype=uint8)
    """
    _check_bits(bits)
    return np.packbits(bits, axis=1, bitorder="little")


def unpack(packed: np.ndarray, *, n_bits: int) -> np.ndarray:
    """Unpack rows into one byte a bit.

    Args:
        packed: (n, ceil(n_bits / 8)) uint8.
        n_bits: the true number of bits h of a row.

    Returns:
        (n, n_bits) uint8, values 0 or 1.

    Raises:
        ShapeError: the width is not that of `n_bits` bits.
        ValueRangeError: the dtype is not uint8, or a pad bit is set.

    >>> unpack(np.array([[5]], dtype=np.uint8), n_bits=3)
    array([[1, 0, 1]], dtype=uint8)
    """
    check_packed(packed, n_bits=n_bits)
    return np.unpackbits(packed, axis=1, count=n_bits, bitorder="little")


def check_packed(packed: np.ndarray, *, n_bits: int) -> None:
    """Raise unless an array holds packed rows of `n_bits` bits.

    Args:
        packed: should be (n, ceil(n_bits / 8)) uint8 with pad bits 0.
        n_bits: the true number of bits of a row.

    Raises:
        ShapeError: rank or width is wrong.
        ValueRangeError: the dtype is not uint8, or a pad bit is set.
    """
    width = row_bytes(n_bits)
    if packed.ndim != 2 or packed.shape[1] != width:
        raise ShapeError(f"packed must be (n, {width}) for {n_bits} bits, got {packed.shape}")
    if packed.dtype != np.uint8:
        raise ValueRangeError(f"packed must be uint8, got {packed.dtype}: pass the packed bytes")
    spare = 8 * width - n_bits
    if spare and len(packed):
        stray = packed[:, -1] >> (8 - spare)
        if stray.any():
            row = int(np.flatnonzero(stray)[0])
            raise ValueRangeError(
                f"row {row} has a pad bit set beyond bit {n_bits - 1}: the rows have another "
                "bit count or another bit order (reverse_bit_order converts)"
            )


def hamming(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Count the bits in which packed rows differ.

    Args:
        left: (..., w) uint8 packed rows.
        right: (..., w) uint8 packed rows; leading axes broadcast against `left`'s.

    Returns:
        Broadcast leading shape, int64 distances.

    Raises:
        ShapeError: the widths differ.
        ValueRangeError: a dtype is not uint8.

    >>> hamming(np.array([5], dtype=np.uint8), np.array([[4], [5]], dtype=np.uint8))
    array([1, 0])
    """
    if left.dtype != np.uint8 or right.dtype != np.uint8:
        raise ValueRangeError(f"packed rows must be uint8, got {left.dtype} and {right.dtype}")
    if left.ndim == 0 or right.ndim == 0 or left.shape[-1] != right.shape[-1]:
        raise ShapeError(f"rows must have the same bytes, got {left.shape} and {right.shape}")
    differing: np.ndarray = np.bitwise_count(left ^ right).sum(axis=-1, dtype=np.int64)
    return differing


def reverse_bit_order(packed: np.ndarray, *, n_bits: int) -> np.ndarray:
    """Convert rows between least and most significant bit first.

    sentence-transformers packs with `np.packbits`, most significant bit first. The conversion is
    its own inverse; pad bits move to the other end of the last byte and stay 0.

    Args:
        packed: (n, ceil(n_bits / 8)) uint8 in either order.
        n_bits: the true number of bits of a row.

    Returns:
        (n, ceil(n_bits / 8)) uint8 in the other order.

    Raises:
        ShapeError: the width is not that of `n_bits` bits.
        ValueRangeError: the dtype is not uint8.

    >>> reverse_bit_order(np.array([[0b101]], dtype=np.uint8), n_bits=3)
    array([[160]], dtype=uint8)
    """
    if packed.ndim != 2 or packed.shape[1] != row_bytes(n_bits):
        raise ShapeError(
            f"packed must be (n, {row_bytes(n_bits)}) for {n_bits} bits, got {packed.shape}"
        )
    if packed.dtype != np.uint8:
        raise ValueRangeError(f"packed must be uint8, got {packed.dtype}")
    return np.packbits(np.unpackbits(packed, axis=1), axis=1, bitorder="little")


def to_bitarrays(packed: np.ndarray, *, n_bits: int) -> list[bitarray]:
    """Turn packed rows into bitarrays of exactly `n_bits` bits, little-endian.

    Args:
        packed: (n, ceil(n_bits / 8)) uint8.
        n_bits: the true number of bits of a row.

    Returns:
        n bitarrays of length `n_bits`.

    Raises:
        ShapeError: the width is not that of `n_bits` bits.
        ValueRangeError: the dtype is not uint8, or a pad bit is set.

    >>> to_bitarrays(np.array([[5]], dtype=np.uint8), n_bits=3)
    [bitarray('101')]
    """
    check_packed(packed, n_bits=n_bits)
    rows = []
    for row in packed:
        bits = bitarray(endian="little")
        bits.frombytes(row.tobytes())
        rows.append(bits[:n_bits])
    return rows


def from_bitarrays(rows: Iterable[bitarray], *, n_bits: int) -> np.ndarray:
    """Pack bitarrays of `n_bits` bits each, whatever their endianness.

    Args:
        rows: n bitarrays of length `n_bits`.
        n_bits: the number of bits of every row.

    Returns:
        (n, ceil(n_bits / 8)) uint8.

    Raises:
        ShapeError: a bitarray has another length.

    >>> from_bitarrays([bitarray("101")], n_bits=3)
    array([[5]], dtype=uint8)
    """
    packed = []
    for index, row in enumerate(rows):
        if len(row) != n_bits:
            raise ShapeError(f"bitarray {index} has {len(row)} bits, expected {n_bits}")
        packed.append(np.frombuffer(bitarray(row, endian="little").tobytes(), dtype=np.uint8))
    return np.array(packed, dtype=np.uint8).reshape(len(packed), row_bytes(n_bits))


def _check_bits(bits: np.ndarray) -> None:
    if bits.ndim != 2:
        raise ShapeError(f"bits must be (n, h), got {bits.shape}")
    if bits.dtype == np.bool_:
        return
    if bits.dtype != np.uint8:
        raise ValueRangeError(f"bits must be bool or uint8, got {bits.dtype}")
    if bits.size and bits.max() > 1:
        row = int(np.flatnonzero((bits > 1).any(axis=1))[0])
        raise ValueRangeError(f"bits must be 0 or 1, got {bits[row].max()} in row {row}")
