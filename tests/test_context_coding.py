from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcodec import BitCodec, BitStatistics
from bitcodec.bits import pack, row_bytes, unpack
from bitcodec.block_coder import BlockCoder
from bitcodec.context_table import UNIT, logit_probabilities
from bitcodec.errors import ConfigError, FormatError, ShapeError, ValueRangeError
from bitcodec.probability import digest_of
from bitcodec.range_coding import (
    ContextTable,
    ProbabilityTable,
    compress,
    decompress,
    learn_context,
    read_rows,
)

WIDTHS = st.sampled_from([*range(1, 18), 64])


def random_table(n_bits: int, *, seed: int = 0, largest: int = 127) -> ContextTable:
    generator = np.random.default_rng(seed)
    within, across = generator.integers(-largest, largest + 1, (2, n_bits, n_bits), dtype=np.int8)
    bias = generator.integers(-8 * largest, 8 * largest + 1, n_bits, dtype=np.int16)
    return ContextTable(bias=bias, within=np.triu(within, 1), across=across)


def random_rows(n_rows: int, n_bits: int, *, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return pack(generator.random((n_rows, n_bits)) < generator.random(n_bits) ** 2)


def information(packed: np.ndarray, table: ContextTable) -> float:
    """Return -log2 P of rows under a table, bit by bit."""
    bits = unpack(packed, n_bits=table.n_bits).astype(np.int64)
    chances, most, total = logit_probabilities() / 2**16, 177, 0.0
    for i, row in enumerate(bits):
        before = bits[i - 1] if i else np.zeros_like(row)
        for j, bit in enumerate(row):
            logit = table.bias[j] + row[:j] @ table.within[:j, j] + before @ table.across[:, j]
            p = chances[int(np.clip(logit, -most, most)) + most]
            total -= np.log2(p if bit else 1 - p)
    return total


@given(
    n_bits=WIDTHS,
    n_rows=st.sampled_from([0, 1, 7, 8, 9, 300]),
    side_bytes=st.sampled_from([0, 2, 4]),
    seed=st.integers(0, 99),
    largest=st.sampled_from([0, 3, 127]),
    block_rows=st.sampled_from([1, 7, 256, 257, 65536]),
)
@settings(max_examples=100, deadline=None)
def test_rows_survive_any_table(
    n_bits: int, n_rows: int, side_bytes: int, seed: int, largest: int, block_rows: int
) -> None:
    table = random_table(n_bits, seed=seed, largest=largest)
    codes = random_rows(n_rows, n_bits, seed=seed)
    side = np.random.default_rng(seed).integers(0, 256, (n_rows, side_bytes), dtype=np.uint8)
    packed = np.concatenate([codes, side], axis=1)
    data = compress(packed, table, side_bytes=side_bytes, block_rows=block_rows)
    assert np.array_equal(decompress(data), packed)
    assert np.array_equal(read_rows(data, n_rows // 3, n_rows), packed[n_rows // 3 :])


@pytest.mark.parametrize("largest", [0, 5, 60])
def test_rows_take_their_information_and_a_byte_or_two(largest: int) -> None:
    table = random_table(21, seed=3, largest=largest)
    packed = random_rows(600, 21, seed=4)  # more than are coded at once
    block = BlockCoder(table).encode(packed)
    bits = 8 * (len(block) - 8 - 4)  # less the digest and the number of bytes
    assert 0 <= bits - information(packed, table) <= 16


def test_real_codes_take_fewer_bits_than_any_bit_alone_would(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    known, unknown = codec.encode(hidden[:3072]), codec.encode(hidden[3072:])
    table = learn_context(known, n_bits=codec.n_bits_, n_steps=150)
    alone = ProbabilityTable.from_statistics(BitStatistics.empty(67).update(known))
    sizes = [len(compress(unknown, model, embed_table=False)) for model in (table, alone)]
    assert sizes[0] < 0.95 * sizes[1]


def test_a_bit_that_repeats_another_and_one_that_repeats_the_row_before_are_learned() -> None:
    generator = np.random.default_rng(0)
    bits = generator.random((4000, 3)) < 0.5
    bits[:, 2] = bits[:, 0]
    bits[1:, 1] = bits[:-1, 0]
    table = learn_context(pack(bits), n_bits=3, n_steps=2000)
    assert information(pack(bits[:500]), table) / 500 == pytest.approx(1, abs=0.2)
    assert abs(int(table.across[1, 0])) < 2


def test_weights_that_tell_nothing_are_zero() -> None:
    bits = np.random.default_rng(0).random((4000, 16)) < 0.3
    table = learn_context(pack(bits), n_bits=16, n_steps=200)
    assert (table.within != 0).mean() + (table.across != 0).mean() < 0.06
    p = 1 / (1 + np.exp(-table.bias * UNIT))
    np.testing.assert_allclose(p, bits.mean(axis=0), atol=0.04)


def test_learning_is_reproducible() -> None:
    packed = random_rows(500, 40)
    first, second = (learn_context(packed, n_bits=40, n_steps=20, seed=7) for _ in range(2))
    assert first == second
    assert first != learn_context(packed, n_bits=40, n_steps=20, seed=8)


def test_learning_tells_after_each_step() -> None:
    steps: list[int] = []
    learn_context(random_rows(50, 5), n_bits=5, n_steps=4, batch_size=8, on_step=steps.append)
    assert steps == [1, 2, 3, 4]


def test_probabilities_of_logits_are_symmetric_and_rounded_right() -> None:
    chances = logit_probabilities()
    assert (chances + chances[::-1] == 2**16).all()
    exact = 2**16 / (1 + np.exp(-UNIT * np.arange(-177, 178)))
    np.testing.assert_allclose(chances, exact, atol=0.5 + 1e-6)


def test_a_table_survives_its_bytes() -> None:
    table = random_table(33)
    again = ContextTable.from_bytes(table.to_bytes())
    assert again == table
    assert again.to_bytes() == table.to_bytes()
    assert hash(again) == hash(table)


def test_a_table_with_a_byte_flipped_is_refused_wherever_it_is() -> None:
    content = random_table(9).to_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        with pytest.raises(FormatError, match="table"):
            ContextTable.from_bytes(bytes(damaged))


@pytest.mark.parametrize("size", [0, 3, 11, 40])
def test_a_truncated_table_is_refused(size: int) -> None:
    with pytest.raises(FormatError, match="table"):
        ContextTable.from_bytes(random_table(9).to_bytes()[:size])


def sealed(n_bits: int, content: bytes) -> bytes:
    body = struct.pack("<4sHHI", b"bptc", 1, 0, n_bits) + content
    return body + digest_of(body)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (sealed(9, zlib.compress(bytes(10**7))), "does not hold 180 bytes"),
        (sealed(9, zlib.compress(bytes(179))), "does not hold 180 bytes"),
        (sealed(9, zlib.compress(bytes(180)) + b"x"), "does not hold 180 bytes"),
        (sealed(9, b"no zlib"), "is damaged"),
        (sealed(0, zlib.compress(b"")), "1 to 8192 bits, got 0"),
        (sealed(2**31, zlib.compress(b"")), "1 to 8192 bits, got 2147483648"),
        (sealed(1, zlib.compress(b"\0\0\1\0")), "on and below its diagonal"),
    ],
)
def test_a_sealed_table_that_lies_is_refused(content: bytes, told: str) -> None:
    with pytest.raises(FormatError, match=told):
        ContextTable.from_bytes(content)


def test_a_newer_table_says_so() -> None:
    content = bytearray(random_table(9).to_bytes())
    content[4] = 2
    with pytest.raises(FormatError, match="format 2, this version reads 1"):
        ContextTable.from_bytes(bytes(content))


def test_arrays_that_are_no_table_are_refused() -> None:
    bias, weights = np.zeros(3, np.int16), np.zeros((3, 3), np.int8)
    with pytest.raises(ShapeError, match=r"\(h,\), \(h, h\) and \(h, h\)"):
        ContextTable(bias=bias, within=weights[:2], across=weights)
    with pytest.raises(ValueRangeError, match="bias must be int16"):
        ContextTable(bias=bias.astype(np.int32), within=weights, across=weights)
    with pytest.raises(ValueRangeError, match="on and below its diagonal"):
        ContextTable(bias=bias, within=weights + np.int8(1), across=weights)


def corrupted(block: bytes, place: int) -> bytes:
    damaged = bytearray(block)
    damaged[place] ^= 1
    return bytes(damaged)


def test_a_flipped_byte_of_a_block_is_an_error_or_changes_nothing() -> None:
    coder, packed = BlockCoder(random_table(17)), random_rows(20, 17)
    block = coder.encode(packed)
    harmless = 0
    for place in range(len(block)):
        with contextlib.suppress(FormatError):
            assert np.array_equal(coder.decode(corrupted(block, place), n_rows=20), packed)
            harmless += 1
    assert harmless <= 1  # the last byte only has to lie in an interval


DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda block: block[:-1],
    lambda block: block[:10],
    lambda block: block[:8],
    lambda block: block + b"\0",
    lambda block: block[:8] + struct.pack("<I", 2**31) + block[12:],
    lambda block: block[:8] + struct.pack("<I", len(block) - 12 + 4) + block[12:] + bytes(4),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_truncated_or_longer_block_is_refused(damage: Callable[[bytes], bytes]) -> None:
    coder, packed = BlockCoder(random_table(17)), random_rows(20, 17)
    with pytest.raises(FormatError, match="block"):
        coder.decode(damage(coder.encode(packed)), n_rows=20)


def test_learning_refuses_what_it_cannot_learn_from() -> None:
    packed = random_rows(10, 9)
    with pytest.raises(ConfigError, match="up to 8192 bits"):
        learn_context(packed, n_bits=2**13 + 1)
    with pytest.raises(ConfigError, match="from 1; got 9, 0 and 512"):
        learn_context(packed, n_bits=9, n_steps=0)
    with pytest.raises(ShapeError, match="at least 2 rows, got 1"):
        learn_context(packed[:1], n_bits=9)
    with pytest.raises(ShapeError, match="packed"):
        learn_context(packed, n_bits=99)


def test_a_block_of_the_likeliest_rows_is_accepted() -> None:
    table = ContextTable(
        bias=np.full(2304, -(2**15), np.int16),
        within=np.zeros((2304, 2304), np.int8),
        across=np.zeros((2304, 2304), np.int8),
    )
    coder, packed = BlockCoder(table), np.zeros((5000, row_bytes(2304)), np.uint8)
    assert np.array_equal(coder.decode(coder.encode(packed), n_rows=5000), packed)
