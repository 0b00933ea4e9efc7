from __future__ import annotations

import pickle
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcodec import BitCodec, BitStatistics
from bitcodec.bits import pack, row_bytes
from bitcodec.block_coder import BlockCoder
from bitcodec.errors import (
    BitcodecError,
    ConfigError,
    FormatError,
    MismatchError,
    NotFittedError,
    ShapeError,
    ValueRangeError,
)
from bitcodec.probability import ProbabilityTable, digest_of, probability_levels, to_levels
from bitcodec.profile_coder import ProfileCoder
from bitcodec.range_coding import compress, decompress, read_rows
from bitcodec.statistics import binary_entropy
from bitcodec.tables import read_table

GOLDEN = Path(__file__).parent / "golden"
WIDTHS = st.sampled_from([*range(1, 18), 64])
N_ROWS = st.sampled_from([0, 1, 7, 8, 9, 1025])
DECODERS: list[Callable[[bytes], object]] = [decompress, lambda data: read_rows(data, 3, 5)]


def random_rows(n_rows: int, n_bits: int, seed: int = 0, side_bytes: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    codes = pack(generator.random((n_rows, n_bits)) < generator.random(n_bits) ** 2)
    numbers = generator.normal(1.1, 0.2, (n_rows, side_bytes // 2)).clip(0).astype("<f2")
    return np.concatenate([codes, numbers.view(np.uint8).reshape(n_rows, side_bytes)], axis=1)


@pytest.fixture(scope="module")
def side_codec(hidden: np.ndarray) -> BitCodec:
    """A codec for search with a factor and a length beside the bits; not to be changed."""
    parameters = {"n_bits": 133, "n_steps": 60, "batch_size": 256, "refine": "fast"}
    return BitCodec.preset("search", side_bytes=4, **parameters).fit(hidden[:3072])


def table_of(*activity: float, n_bits: int) -> ProbabilityTable:
    levels = to_levels(np.array([[p] * n_bits for p in activity]))
    return ProbabilityTable(levels=levels, weights=np.ones(len(activity), dtype=np.uint16))


def counted(packed: np.ndarray, n_bits: int) -> ProbabilityTable:
    return ProbabilityTable.from_statistics(BitStatistics.empty(n_bits).update(packed))


@given(
    n_bits=WIDTHS,
    n_rows=N_ROWS,
    side_bytes=st.sampled_from([0, 2, 4]),
    seed=st.integers(0, 99),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_rows_survive_any_table_block_and_kind(
    n_bits: int, n_rows: int, side_bytes: int, seed: int, data: st.DataObject
) -> None:
    packed = random_rows(n_rows, n_bits, seed, side_bytes)
    generator = np.random.default_rng(seed)
    n_profiles = data.draw(st.sampled_from([1, 2, 5]))
    table = ProbabilityTable(
        levels=generator.integers(0, 255, (n_profiles, n_bits), dtype=np.uint8),
        weights=generator.integers(1, 2**16, n_profiles, dtype=np.uint16),
    )
    block_rows = data.draw(st.sampled_from([1, 8, 1024, 65536] if n_rows < 100 else [100, 65536]))
    compressed = compress(packed, table, side_bytes=side_bytes, block_rows=block_rows)
    assert np.array_equal(decompress(compressed), packed)
    start = data.draw(st.integers(0, n_rows))
    stop = data.draw(st.integers(start, n_rows))
    assert np.array_equal(read_rows(compressed, start, stop), packed[start:stop])


@given(
    n_rows=st.sampled_from([0, 1, 15, 16, 255, 256, 700]),
    kinds=st.lists(st.sampled_from([0, 1, 2, 31, 32, 33, 256]), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_side_bytes_of_any_values_survive_and_hardly_exceed_their_size(
    n_rows: int, kinds: list[int], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    codes = random_rows(n_rows, 9, seed)
    chosen = [generator.permutation(256)[: max(kind, 1)] for kind in kinds]
    side = np.stack([generator.choice(values, n_rows) for values in chosen], axis=1)
    packed = np.concatenate([codes, side.astype(np.uint8)], axis=1)
    table = table_of(0.2, 0.6, n_bits=9)
    block = BlockCoder(table, 4).encode(packed)
    assert np.array_equal(BlockCoder(table, 4).decode(block, n_rows=n_rows), packed)
    # a number for each column, and the range coder's last words
    assert len(block) <= len(BlockCoder(table).encode(codes)) + 4 * n_rows + 4 + 8


@pytest.mark.parametrize("activity", [0.0, 1.0])
@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("n_bits", [1, 7, 8, 17])
def test_a_bit_the_table_thinks_impossible_is_kept(
    activity: float, value: int, n_bits: int
) -> None:
    packed = pack(np.full((200, n_bits), value, dtype=np.uint8))
    compressed = compress(packed, table_of(activity, n_bits=n_bits))
    assert np.array_equal(decompress(compressed), packed)
    bits = 8 * (len(compressed) - len(compress(packed[:0], table_of(activity, n_bits=n_bits))))
    # 16 bits each, but 24 for a byte of any number of them: models count to 2^24
    costs = [min(24, 16 * min(8, n_bits - start)) for start in range(0, n_bits, 8)]
    expected = 200 * sum(costs) if activity != value else 0
    # a block's size and digest, and the range coder's last words
    assert abs(bits - expected) <= 0.05 * expected + 96 + 64


def test_constriction_uses_our_integers_as_they_are() -> None:
    model = ProfileCoder(table_of(0.03, n_bits=8))._column_models(0)[0]
    p = Fraction(int(probability_levels()[0][to_levels(np.array(0.03))]), 2**16)
    for symbol in (0, 1, 128, 255):
        encoder = constriction.stream.queue.RangeEncoder()
        encoder.encode(np.full(4000, symbol, dtype=np.int32), model)
        ones = bin(symbol).count("1")
        count = 1 + int(p**ones * (1 - p) ** (8 - ones) * (2**24 - 256))
        assert encoder.num_bits() / 4000 == pytest.approx(24 - np.log2(count), abs=0.02)


def test_probability_levels_are_symmetric_integers_within_the_open_interval() -> None:
    on, off_costs = probability_levels()
    assert on.dtype == off_costs.dtype == np.int64
    assert on.min() == 1
    assert on.max() == 65535
    assert np.array_equal(on + on[::-1], np.full(255, 65536))
    assert (np.diff(on) >= 0).all()


def test_rounding_to_levels_costs_nearly_nothing() -> None:
    p = np.linspace(0.001, 0.999, 999)
    q = probability_levels()[0][to_levels(p)] / 65536
    cost = -(p * np.log2(q) + (1 - p) * np.log2(1 - q))
    assert (cost <= 1.0005 * binary_entropy(p)).all()


def test_real_codes_take_the_sum_of_their_bits_entropies(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    packed = codec.encode(hidden)
    statistics = BitStatistics.empty(codec.n_bits_).update(packed)
    coder = BlockCoder(ProbabilityTable.from_statistics(statistics))
    size = sum(len(coder.encode(packed[start : start + 1024])) for start in range(0, 4096, 1024))
    bound = statistics.entropy_bits * len(packed) / 8
    assert bound * 0.999 <= size <= 1.005 * bound + 4 * 16


@pytest.mark.parametrize("block_rows", [256, 1024])
def test_real_side_bytes_take_a_quarter_less_than_their_size(
    side_codec: BitCodec, hidden: np.ndarray, block_rows: int
) -> None:
    packed = side_codec.encode(hidden[:3072])
    code_bytes = row_bytes(side_codec.n_bits_)
    table = ProbabilityTable.from_statistics(side_codec.statistics_)
    sizes = {}
    for side_bytes in (0, 2, 4):
        rows, coder = packed[:, : code_bytes + side_bytes], BlockCoder(table, side_bytes)
        blocks = [coder.encode(rows[s : s + block_rows]) for s in range(0, 3072, block_rows)]
        sizes[side_bytes] = 8 * sum(map(len, blocks)) / 3072
    assert sizes[2] - sizes[0] < 0.75 * 16
    assert sizes[4] - sizes[0] < 0.75 * 32


def test_profiles_go_below_that_sum_on_real_rows_they_were_not_learned_from(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    packed = codec.encode(hidden)
    known, unknown = packed[:3072], packed[3072:]
    learned = ProbabilityTable.learn(known, n_bits=codec.n_bits_, n_profiles=16)
    plain = BlockCoder(counted(known, codec.n_bits_)).encode(unknown)
    block = BlockCoder(learned).encode(unknown)
    assert np.array_equal(BlockCoder(learned).decode(block, n_rows=len(unknown)), unknown)
    assert len(block) < 0.99 * len(plain)


def test_profiles_find_groups_of_rows() -> None:
    generator = np.random.default_rng(0)
    p = generator.choice([0.02, 0.98], (4, 64))
    packed = pack(generator.random((2000, 64)) < p[generator.integers(0, 4, 2000)])
    learned = ProbabilityTable.learn(packed, n_bits=64, n_profiles=8)
    bits = 8 * len(BlockCoder(learned).encode(packed)) / 2000
    assert 64 * binary_entropy(np.array(0.02)) + 2 - 0.5 < bits < 64 * 0.1415 + 2 + 1.5


def test_learning_is_reproducible_and_leaves_numpys_global_generator_alone() -> None:
    packed = random_rows(300, 17)
    np.random.seed(1)  # noqa: NPY002
    state = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    tables = [ProbabilityTable.learn(packed, n_bits=17, n_profiles=4, seed=3) for _ in range(2)]
    assert tables[0] == tables[1]
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize("n_profiles", [1, 3])
def test_a_table_survives_its_bytes(n_profiles: int) -> None:
    table = ProbabilityTable.learn(random_rows(50, 17), n_bits=17, n_profiles=n_profiles)
    again = ProbabilityTable.from_bytes(table.to_bytes())
    assert again == table
    assert np.array_equal(again.levels, table.levels)
    assert np.array_equal(again.weights, table.weights)
    coder = pickle.loads(pickle.dumps(BlockCoder(table, 2)))
    assert (coder.table, coder.side_bytes) == (table, 2)


def test_a_damaged_table_is_refused_wherever_the_damage() -> None:
    content = table_of(0.1, 0.2, n_bits=9).to_bytes()
    for index in range(len(content)):
        damaged = bytearray(content)
        damaged[index] ^= 0x40
        with pytest.raises(FormatError, match=r"table|bytes"):
            ProbabilityTable.from_bytes(bytes(damaged))
        with pytest.raises(FormatError, match=r"table|bytes"):
            ProbabilityTable.from_bytes(content[:index])


@pytest.mark.parametrize("embed_table", [True, False])
@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
@pytest.mark.parametrize("side_bytes", [0, 2, 4])
def test_a_flipped_byte_is_an_error_or_changes_nothing(
    embed_table: bool, mask: int, side_bytes: int
) -> None:
    packed = random_rows(50, 17, side_bytes=side_bytes)
    table = ProbabilityTable.learn(packed[:, :3], n_bits=17, n_profiles=2)
    content = compress(packed, table, side_bytes=side_bytes, block_rows=40, embed_table=embed_table)
    refused = 0
    for index in range(len(content)):
        damaged = bytearray(content)
        damaged[index] ^= mask
        try:
            assert np.array_equal(decompress(bytes(damaged), table=table), packed), index
        except (FormatError, MismatchError):
            refused += 1
    assert refused > 0.9 * len(content)


@pytest.mark.parametrize("place", [0, 4])
def test_a_flipped_side_byte_changes_the_digest(place: int) -> None:
    packed = random_rows(4, 17, side_bytes=2)
    coder = BlockCoder(counted(packed[:, :3], 17), 2)
    block = coder.encode(packed, place=place)
    for column in (3, 4):
        other = packed.copy()
        other[2, column] ^= 1
        forged = block[:8] + coder.encode(other, place=place)[8:]
        with pytest.raises(FormatError, match="checksum does not match"):
            coder.decode(forged, n_rows=4, place=place)


@pytest.mark.parametrize("side_bytes", [0, 2])
@pytest.mark.parametrize("decode", DECODERS)
def test_a_truncated_or_longer_file_is_refused(
    decode: Callable[[bytes], object], side_bytes: int
) -> None:
    packed = random_rows(9, 17, side_bytes=side_bytes)
    table = counted(packed[:, :3], 17)
    content = compress(packed, table, side_bytes=side_bytes, block_rows=4)
    for length in range(len(content)):
        with pytest.raises(FormatError, match=r"bytes|damaged"):
            decode(content[:length])
    with pytest.raises(FormatError, match="take"):
        decode(content + b"\0")


def test_swapped_blocks_are_refused() -> None:
    packed = np.concatenate([random_rows(4, 64, 1), random_rows(4, 64, 2)])
    table = counted(packed, 64)
    blocks = [BlockCoder(table).encode(packed[s : s + 4], place=s) for s in (0, 4)]
    with pytest.raises(FormatError, match="row 0 is damaged"):
        BlockCoder(table).decode(blocks[1], n_rows=4, place=0)


@pytest.mark.parametrize("side_bytes", [0, 4])
@pytest.mark.parametrize(
    ("offset", "lie"),
    [
        (10, b"\xff"),
        (11, b"\xff"),
        (11, b"\x02"),
        (12, b"\xff" * 4),
        (16, b"\xff" * 4),
        (20, b"\xff" * 4),
        (24, b"\xff" * 8),
    ],
    ids=str,
)
def test_lengths_that_lie_are_refused_even_under_a_right_checksum(
    offset: int, lie: bytes, side_bytes: int
) -> None:
    from bitcodec.range_coding import _HEADER

    packed = random_rows(9, 17, side_bytes=side_bytes)
    table = counted(packed[:, :3], 17)
    content = bytearray(compress(packed, table, side_bytes=side_bytes, block_rows=4))
    content[offset : offset + len(lie)] = lie
    end = _HEADER.size + len(table.to_bytes()) + 3 * 4
    content[end : end + 16] = digest_of(content[:end])
    with pytest.raises((FormatError, MismatchError), match=r"codes|table|block"):
        decompress(bytes(content))


@pytest.mark.parametrize("side_bytes", [0, 2, 4])
def test_a_block_cannot_promise_more_rows_than_it_has_room_for(side_bytes: int) -> None:
    coder = BlockCoder(table_of(0.4, n_bits=64), side_bytes)
    block = coder.encode(random_rows(8, 64, side_bytes=side_bytes))
    with pytest.raises(FormatError, match="cannot hold 65536 rows"):
        coder.decode(block, n_rows=65536)


def test_rows_are_too_wide_for_a_block_with_their_side_bytes_only() -> None:
    n_bits, n_rows = 8 * 4094, 2**16
    table = table_of(0.0, n_bits=n_bits)
    BlockCoder(table, 2).check_size(2**17, n_rows=n_rows)
    with pytest.raises(FormatError, match="cannot hold 65536 rows"):
        BlockCoder(table, 4).check_size(2**17, n_rows=n_rows)


def test_a_histogram_that_gives_a_value_no_weight_is_refused() -> None:
    packed = random_rows(40, 17, side_bytes=2)
    packed[:, 4] = 60
    coder = BlockCoder(counted(packed[:, :3], 17), 2)
    block = bytearray(coder.encode(packed))
    assert block[8:12] == bytes([0, 1, 60, 255])
    block[11] = 0
    with pytest.raises(FormatError, match="no weight"):
        coder.decode(bytes(block), n_rows=40)


def test_a_side_byte_that_is_rare_in_a_large_block_is_kept() -> None:
    packed = np.zeros((9000, 5), dtype=np.uint8)
    packed[4321, 4] = 61
    coder = BlockCoder(table_of(0.1, n_bits=17), 2)
    assert np.array_equal(coder.decode(coder.encode(packed), n_rows=9000), packed)


def test_a_digest_tells_how_many_bytes_of_a_row_are_side_bytes() -> None:
    packed, table = random_rows(5, 8, side_bytes=2), table_of(0.5, n_bits=8)
    assert (packed.size, packed.reshape(3, 5).shape) == (15, (3, 5))
    digest = BlockCoder(table, 2).encode(packed)[:8]
    assert BlockCoder(table, 4).encode(packed.reshape(3, 5))[:8] != digest


def test_a_block_that_ends_within_its_histograms_is_refused() -> None:
    coder = BlockCoder(table_of(0.5, n_bits=8), 2)
    for rest in ([0, 1], [1, 60], [1, 60, 255], [0, 2, 60, 255]):
        with pytest.raises(FormatError, match="damaged"):
            coder.decode(bytes(8) + bytes(rest), n_rows=0)


@pytest.mark.parametrize(("version", "side_bytes"), [(1, 2), (2, 0), (2, 3)])
def test_a_version_that_contradicts_the_side_bytes_is_refused(
    version: int, side_bytes: int
) -> None:
    content = bytearray(compress(random_rows(3, 8), table_of(0.5, n_bits=8)))
    content[8], content[11] = version, side_bytes
    with pytest.raises(FormatError, match="impossible header"):
        decompress(bytes(content))


@pytest.mark.parametrize("other", [0, 4])
def test_a_block_is_refused_by_the_coder_of_other_side_bytes(other: int) -> None:
    packed = random_rows(8, 17, side_bytes=2)
    table = counted(packed[:, :3], 17)
    block = BlockCoder(table, 2).encode(packed)
    with pytest.raises(FormatError, match="damaged"):
        BlockCoder(table, other).decode(block, n_rows=8)


@given(
    n_rows=st.integers(0, 3000),
    n_bits=WIDTHS,
    p=st.sampled_from([0.0, 0.01, 0.5]),
    side_bytes=st.sampled_from([0, 2, 4]),
)
@settings(max_examples=60, deadline=None)
def test_the_likeliest_rows_of_all_are_still_accepted(
    n_rows: int, n_bits: int, p: float, side_bytes: int
) -> None:
    coder = BlockCoder(table_of(p, 0.3, n_bits=n_bits), side_bytes)
    packed = np.zeros((n_rows, row_bytes(n_bits) + side_bytes), dtype=np.uint8)
    assert np.array_equal(coder.decode(coder.encode(packed), n_rows=n_rows), packed)


def test_a_wide_block_of_the_likeliest_rows_is_accepted() -> None:
    coder = BlockCoder(table_of(0.0, n_bits=1600))
    packed = np.zeros((65536, 200), dtype=np.uint8)
    assert np.array_equal(coder.decode(coder.encode(packed), n_rows=65536), packed)


@given(
    words=st.binary(max_size=64),
    n_rows=st.integers(0, 40),
    side_bytes=st.sampled_from([0, 2, 4]),
)
@settings(max_examples=300, deadline=None)
def test_junk_for_a_block_is_a_format_error(words: bytes, n_rows: int, side_bytes: int) -> None:
    with pytest.raises(FormatError, match=r"damaged|hold"):
        BlockCoder(table_of(0.2, 0.7, n_bits=12), side_bytes).decode(words, n_rows=n_rows)


@given(data=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_junk_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError, match="not compressed codes"):
        decompress(data)


def test_a_newer_format_says_so() -> None:
    content = bytearray(compress(random_rows(3, 8), table_of(0.5, n_bits=8)))
    content[8] = 3
    with pytest.raises(FormatError, match=r"format 3.*reads 2.*upgrade"):
        decompress(bytes(content))


def test_only_rows_with_side_bytes_are_written_in_the_newer_format() -> None:
    table = table_of(0.5, n_bits=8)
    for side_bytes, version in ((0, 1), (2, 2), (4, 2)):
        content = compress(random_rows(3, 8, side_bytes=side_bytes), table, side_bytes=side_bytes)
        assert (content[8], content[11]) == (version, side_bytes)


def test_a_table_of_another_kind_of_rows_is_a_mismatch() -> None:
    packed = random_rows(20, 9)
    content = compress(packed, counted(packed, 9), embed_table=False)
    assert np.array_equal(decompress(content, table=counted(packed, 9)), packed)
    with pytest.raises(MismatchError, match="pass `table`"):
        decompress(content)
    with pytest.raises(MismatchError, match="another probability table"):
        decompress(content, table=table_of(0.5, n_bits=9))


def test_wrong_arguments_are_named() -> None:
    packed, table = random_rows(5, 9), table_of(0.5, n_bits=9)
    with pytest.raises(ConfigError, match="block_rows must be 1 to 65536"):
        compress(packed, table, block_rows=0)
    with pytest.raises(ShapeError, match="for 9 bits"):
        compress(packed[:, :1], table)
    with pytest.raises(ShapeError, match="for 9 bits and 2 side bytes"):
        compress(packed, table, side_bytes=2)
    with pytest.raises(ConfigError, match="side_bytes must be 0, 2 or 4, got 3"):
        compress(packed, table, side_bytes=3)
    for side_bytes in (0, 2):
        with pytest.raises(ValueRangeError, match="pad bit"):
            rows = np.full((5, 2 + side_bytes), 255, dtype=np.uint8)
            compress(rows, table, side_bytes=side_bytes)
    with pytest.raises(ValueRangeError, match="rows must lie in 0 to 5"):
        read_rows(compress(packed, table), 2, 6)
    with pytest.raises(NotFittedError, match="no rows"):
        ProbabilityTable.from_statistics(BitStatistics.empty(9))
    with pytest.raises(ConfigError, match="n_profiles"):
        ProbabilityTable.learn(packed, n_bits=9, n_profiles=257)
    with pytest.raises(ShapeError, match="need as many rows"):
        ProbabilityTable.learn(packed, n_bits=9, n_profiles=6)
    with pytest.raises(ValueRangeError, match="levels must be uint8 up to 254"):
        ProbabilityTable(np.full((1, 9), 255, dtype=np.uint8), np.ones(1, dtype=np.uint16))


def test_one_coder_serves_huge_tables_within_bounded_memory() -> None:
    packed = random_rows(3, 40000)
    table = ProbabilityTable(
        levels=np.random.default_rng(0).integers(0, 255, (8, 40000), dtype=np.uint8),
        weights=np.ones(8, dtype=np.uint16),
    )
    coder = ProfileCoder(table)
    words = coder.encode(packed)[1].get_compressed().astype("<u4").tobytes()
    assert np.array_equal(coder.decode(memoryview(words), 3)[0], packed)
    assert 8 * len(coder._models) <= 2**15


@pytest.mark.parametrize("kind", ["v1_independent", "v1_profiles", "v1_context", "v2_side"])
def test_golden_bytes_decode_and_are_made_again(kind: str) -> None:
    packed = np.load(GOLDEN / "range_coding_rows.npy")
    if kind == "v2_side":
        packed = np.concatenate([packed, np.load(GOLDEN / "range_coding_side.npy")], axis=1)
    content = (GOLDEN / f"range_coding_{kind}.bin").read_bytes()
    assert np.array_equal(decompress(content), packed)
    assert np.array_equal(read_rows(content, 40, 60), packed[40:60])
    (table_size,) = np.frombuffer(content, "<u4", 1, 20)
    table = read_table(content[48 : 48 + table_size])
    side_bytes = packed.shape[1] - row_bytes(table.n_bits)
    assert compress(packed, table, side_bytes=side_bytes, block_rows=48) == content


def test_every_error_of_a_reader_is_a_bitcodec_error() -> None:
    assert issubclass(FormatError, BitcodecError)
    with pytest.raises(BitcodecError, match="not a probability table"):
        ProbabilityTable.from_bytes(b"")
