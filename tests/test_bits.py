"""Packing, distances and the layouts of other tools, against numpy, bitarray and Python."""

from __future__ import annotations

import numpy as np
import pytest
from bitarray import bitarray
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcodec.bits import (
    check_packed,
    from_bitarrays,
    hamming,
    pack,
    reverse_bit_order,
    row_bytes,
    to_bitarrays,
    unpack,
)
from bitcodec.errors import ShapeError, ValueRangeError

ROWS = [0, 1, 7, 8, 9]


@st.composite
def codes(draw: st.DrawFn, n_rows: int | None = None, n_bits: int | None = None) -> np.ndarray:
    """Draw (n, h) uint8 bits."""
    h = draw(st.integers(1, 17)) if n_bits is None else n_bits
    n = draw(st.sampled_from(ROWS)) if n_rows is None else n_rows
    flat = draw(st.lists(st.integers(0, 1), min_size=n * h, max_size=n * h))
    return np.array(flat, dtype=np.uint8).reshape(n, h)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw two sets of codes of the same number of bits."""
    left = draw(codes())
    return left, draw(codes(n_bits=left.shape[1]))


def packed_by_hand(bits: np.ndarray) -> np.ndarray:
    """Pack with Python integers: bit j has the value 2^j of the row's number."""
    width = row_bytes(bits.shape[1])
    rows = [sum(int(bit) << j for j, bit in enumerate(row)) for row in bits]
    joined = b"".join(row.to_bytes(width, "little") for row in rows)
    return np.frombuffer(joined, dtype=np.uint8).reshape(len(bits), width)


@given(st.integers(1, 100))
def test_a_row_takes_the_fewest_bytes_that_hold_its_bits(n_bits: int) -> None:
    assert 8 * (row_bytes(n_bits) - 1) < n_bits <= 8 * row_bytes(n_bits)


@given(codes())
def test_bit_j_is_the_bit_of_value_two_to_the_j_of_its_row(bits: np.ndarray) -> None:
    np.testing.assert_array_equal(pack(bits), packed_by_hand(bits), strict=True)


@given(codes())
def test_boolean_bits_pack_like_zeros_and_ones(bits: np.ndarray) -> None:
    np.testing.assert_array_equal(pack(bits.astype(bool)), pack(bits), strict=True)


@given(codes())
def test_unpacking_gives_the_packed_bits_back(bits: np.ndarray) -> None:
    np.testing.assert_array_equal(unpack(pack(bits), n_bits=bits.shape[1]), bits, strict=True)


@given(codes(n_rows=9))
def test_a_row_packs_as_it_would_alone(bits: np.ndarray) -> None:
    alone = np.concatenate([pack(bits[row : row + 1]) for row in range(len(bits))])
    np.testing.assert_array_equal(pack(bits), alone)


@given(codes(n_rows=9), st.data())
def test_a_set_pad_bit_is_refused_and_its_row_named(bits: np.ndarray, data: st.DataObject) -> None:
    h = bits.shape[1]
    spare = 8 * row_bytes(h) - h
    packed = pack(bits)
    row = data.draw(st.integers(0, 8))
    if spare == 0:
        check_packed(packed | 0x80, n_bits=h)
        return
    packed[row, -1] |= 0x80 >> data.draw(st.integers(0, spare - 1))
    with pytest.raises(ValueRangeError, match=f"row {row} has a pad bit set beyond bit {h - 1}"):
        unpack(packed, n_bits=h)


@given(pairs())
def test_hamming_counts_the_bits_that_differ_and_broadcasts_over_rows(
    sets: tuple[np.ndarray, np.ndarray],
) -> None:
    left, right = sets
    found = hamming(pack(left)[:, None], pack(right)[None])
    expected = (left[:, None] != right[None]).sum(axis=2, dtype=np.int64)
    np.testing.assert_array_equal(found, expected, strict=True)


def test_hamming_counts_beyond_what_a_byte_holds() -> None:
    left, right = np.zeros((1, 100), np.uint8), np.full((1, 100), 255, np.uint8)
    assert hamming(left, right).tolist() == [800]


@given(codes())
def test_reversed_rows_are_what_numpy_packs_most_significant_bit_first(bits: np.ndarray) -> None:
    found = reverse_bit_order(pack(bits), n_bits=bits.shape[1])
    np.testing.assert_array_equal(found, np.packbits(bits, axis=1), strict=True)


@given(codes())
def test_reversing_the_bit_order_twice_changes_nothing(bits: np.ndarray) -> None:
    h, packed = bits.shape[1], pack(bits)
    twice = reverse_bit_order(reverse_bit_order(packed, n_bits=h), n_bits=h)
    np.testing.assert_array_equal(twice, packed, strict=True)


@given(codes())
def test_bitarrays_hold_exactly_the_bits_of_their_rows(bits: np.ndarray) -> None:
    rows = to_bitarrays(pack(bits), n_bits=bits.shape[1])
    assert [row.tolist() for row in rows] == bits.tolist()


@given(codes(), st.sampled_from(["little", "big"]))
def test_bitarrays_of_either_endianness_pack_to_the_same_rows(
    bits: np.ndarray, endian: str
) -> None:
    rows = [bitarray(row.tolist(), endian=endian) for row in bits]
    found = from_bitarrays(rows, n_bits=bits.shape[1])
    np.testing.assert_array_equal(found, pack(bits), strict=True)


@settings(max_examples=30)
@given(st.integers(1, 17), st.integers(1, 17))
def test_bitarrays_of_another_length_are_refused(n_bits: int, length: int) -> None:
    rows = [bitarray(n_bits), bitarray(length)]
    if length == n_bits:
        from_bitarrays(rows, n_bits=n_bits)
        return
    with pytest.raises(ShapeError, match=f"bitarray 1 has {length} bits, expected {n_bits}"):
        from_bitarrays(rows, n_bits=n_bits)


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2)])
def test_bits_of_another_rank_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"bits must be \(n, h\), got"):
        pack(np.zeros(shape, np.uint8))


def test_a_value_that_is_no_bit_is_refused_and_its_row_named() -> None:
    with pytest.raises(ValueRangeError, match="bits must be 0 or 1, got 2 in row 1"):
        pack(np.array([[0, 1], [2, 0]], dtype=np.uint8))


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.int8])
def test_bits_of_another_dtype_are_refused(dtype: type) -> None:
    with pytest.raises(ValueRangeError, match="bits must be bool or uint8, got"):
        pack(np.zeros((2, 2), dtype))


@pytest.mark.parametrize("shape", [(2, 1), (2, 3), (2,), (1, 1, 2)])
def test_packed_rows_of_another_width_or_rank_are_refused(shape: tuple[int, ...]) -> None:
    packed = np.zeros(shape, np.uint8)
    with pytest.raises(ShapeError, match=r"packed must be \(n, 2\) for 9 bits, got"):
        unpack(packed, n_bits=9)
    with pytest.raises(ShapeError, match=r"packed must be \(n, 2\) for 9 bits, got"):
        reverse_bit_order(packed, n_bits=9)


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.bool_])
def test_packed_rows_of_another_dtype_are_refused(dtype: type) -> None:
    packed: np.ndarray = np.zeros((2, 2), dtype)
    with pytest.raises(ValueRangeError, match="packed must be uint8, got"):
        unpack(packed, n_bits=9)
    with pytest.raises(ValueRangeError, match="packed must be uint8, got"):
        reverse_bit_order(packed, n_bits=9)
    with pytest.raises(ValueRangeError, match="packed rows must be uint8, got"):
        hamming(packed, packed)


def test_hamming_refuses_rows_of_different_widths() -> None:
    with pytest.raises(ShapeError, match=r"rows must have the same bytes, got \(3, 2\) and"):
        hamming(np.zeros((3, 2), np.uint8), np.zeros((3, 1), np.uint8))
