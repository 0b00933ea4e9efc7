"""Counts of bits, and what follows from them, at values known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcodec import BitCodec
from bitcodec.bits import pack
from bitcodec.errors import ConfigError, NotFittedError, ShapeError, ValueRangeError
from bitcodec.statistics import (
    BitStatistics,
    binary_entropy,
    burstiness,
    row_prices,
    self_information,
)


def random_bits(n_rows: int, n_bits: int, *, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.random((n_rows, n_bits)) < generator.random(n_bits)).astype(np.uint8)


def test_entropy_is_exactly_zero_one_and_zero_at_never_half_and_always() -> None:
    assert binary_entropy(np.array([0.0, 0.5, 1.0])).tolist() == [0.0, 1.0, 0.0]


@settings(max_examples=50)
@given(st.floats(0, 1))
def test_entropy_is_symmetric_and_at_most_one(p: float) -> None:
    left, right = binary_entropy(np.array([p, 1 - p]))
    assert left == pytest.approx(right, rel=1e-9, abs=1e-15)
    assert 0 <= left <= 1


def test_entropy_equals_the_textbook_value_at_a_quarter() -> None:
    expected = 2 - 0.75 * np.log2(3)
    assert binary_entropy(np.array([[0.25]], np.float32))[0, 0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("p", [-1e-9, 1 + 1e-9, np.nan])
def test_entropy_refuses_what_is_no_probability(p: float) -> None:
    with pytest.raises(ValueRangeError, match=r"activity must lie in \[0, 1\]: pass the mean"):
        binary_entropy(np.array([0.5, p]))


def test_burstiness_is_the_log_of_the_distance_from_the_mean() -> None:
    bits = np.array([[0, 1], [1, 0]], dtype=np.uint8)
    found = burstiness(bits, np.array([0.25, 0.5]))
    np.testing.assert_array_equal(found, [[-2.0, -1.0], [np.log2(0.75), -1.0]])


def test_a_bit_that_is_as_it_always_is_has_a_burstiness_of_minus_infinity() -> None:
    found = burstiness(np.array([[0, 1]], np.uint8), np.array([0.0, 1.0]))
    assert found.tolist() == [[-np.inf, -np.inf]]


def test_a_bit_that_is_the_opposite_of_what_it_always_was_has_a_burstiness_of_zero() -> None:
    found = burstiness(np.array([[True, False]]), np.array([0.0, 1.0]))
    assert found.tolist() == [[0.0, 0.0]]


@pytest.mark.filterwarnings("error")
def test_burstiness_of_constant_bits_warns_of_nothing() -> None:
    assert burstiness(np.zeros((1, 1), np.uint8), np.zeros(1))[0, 0] == -np.inf


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 3, 1)])
def test_burstiness_refuses_bits_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"bits must be \(n, 3\), got"):
        burstiness(np.zeros(shape, np.uint8), np.zeros(3))


@settings(max_examples=40)
@given(n_rows=st.sampled_from([1, 7, 8, 9]), n_bits=st.integers(1, 17), seed=st.integers(0, 9))
def test_activity_is_the_mean_of_each_bit(n_rows: int, n_bits: int, seed: int) -> None:
    bits = random_bits(n_rows, n_bits, seed=seed)
    statistics = BitStatistics.empty(n_bits).update(pack(bits))
    assert statistics.n_rows == n_rows
    np.testing.assert_array_equal(statistics.activity, bits.mean(axis=0))


@settings(max_examples=40)
@given(cuts=st.lists(st.integers(0, 50), max_size=4), n_bits=st.integers(1, 17))
def test_counting_in_parts_and_merging_is_counting_at_once(cuts: list[int], n_bits: int) -> None:
    packed = pack(random_bits(50, n_bits))
    once = BitStatistics.empty(n_bits).update(packed)
    merged = BitStatistics.empty(n_bits)
    for part in np.split(packed, sorted(cuts)):
        merged.merge(BitStatistics.empty(n_bits).update(part))
    assert merged.n_rows == once.n_rows
    np.testing.assert_array_equal(merged.counts, once.counts, strict=True)


def test_more_rows_than_are_unpacked_at_a_time_are_all_counted() -> None:
    bits = random_bits(10_000, 3)
    statistics = BitStatistics.empty(3).update(pack(bits))
    np.testing.assert_array_equal(statistics.counts, bits.sum(axis=0))


def test_merging_leaves_the_other_counts_as_they_were() -> None:
    left, right = (BitStatistics.empty(3).update(pack(random_bits(5, 3, seed=s))) for s in (0, 1))
    before = right.counts.copy()
    left.merge(right).update(pack(random_bits(5, 3)))
    np.testing.assert_array_equal(right.counts, before)


def test_the_entropy_of_a_code_is_the_sum_over_its_bits() -> None:
    statistics = BitStatistics(n_rows=4, counts=np.array([0, 1, 2, 4]))
    assert statistics.entropy_bits == pytest.approx(1 + 2 - 0.75 * np.log2(3), rel=1e-12)


def test_activity_of_no_rows_is_refused() -> None:
    with pytest.raises(NotFittedError, match="no rows were counted yet: update"):
        _ = BitStatistics.empty(3).activity


def test_counts_of_different_numbers_of_bits_do_not_merge() -> None:
    with pytest.raises(ShapeError, match="cannot merge counts of 4 bits into 3"):
        BitStatistics.empty(3).merge(BitStatistics.empty(4))


def test_rows_with_a_pad_bit_change_no_count_and_are_named_by_their_place() -> None:
    packed = pack(np.ones((5000, 3), np.uint8))
    packed[4500] |= 0x80
    statistics = BitStatistics.empty(3)
    with pytest.raises(ValueRangeError, match="row 4500 has a pad bit set"):
        statistics.update(packed)
    assert (statistics.n_rows, statistics.counts.tolist()) == (0, [0, 0, 0])


def test_a_row_price_is_the_sum_of_what_its_bits_cost_exactly() -> None:
    bits = random_bits(5000, 13)
    activity = BitStatistics.empty(13).update(pack(bits)).activity
    np.testing.assert_array_equal(
        row_prices(pack(bits), activity), self_information(bits, activity).sum(axis=1)
    )


def test_rows_cost_the_sum_of_their_own_bit_entropies_on_the_mean() -> None:
    statistics = BitStatistics.empty(13).update(packed := pack(random_bits(5000, 13)))
    mean = row_prices(packed, statistics.activity).mean()
    assert mean == pytest.approx(statistics.entropy_bits, rel=1e-12)


def test_what_bits_cost_is_minus_the_log_of_their_probability() -> None:
    found = self_information(np.array([[1, 0], [0, 1]], np.uint8), np.array([0.25, 0.125]))
    np.testing.assert_allclose(found, [[2, -np.log2(0.875)], [-np.log2(0.75), 3]], rtol=1e-15)


@pytest.mark.filterwarnings("error")
def test_a_bit_that_never_changes_costs_nothing_and_its_opposite_costs_infinitely_much() -> None:
    found = self_information(np.array([[0, 1], [1, 0]], np.uint8), np.array([0.0, 1.0]))
    assert found.tolist() == [[0.0, 0.0], [np.inf, np.inf]]
    assert not np.signbit(found).any()


def test_a_price_is_what_the_range_coder_takes(codec: BitCodec, hidden: np.ndarray) -> None:
    packed = codec.encode(hidden)
    counted = codec.statistics_
    known = (counted.counts + 0.5) / (counted.n_rows + 1)
    coded = 8 * len(codec.compress(packed))
    assert coded == pytest.approx(row_prices(packed, known).sum(), rel=0.02)


def test_prices_of_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"packed must be \(n, 2\) for 9 bits, got \(4, 1\)"):
        row_prices(np.zeros((4, 1), np.uint8), np.full(9, 0.5))


def test_mean_burstiness_is_the_mean_over_the_rows() -> None:
    bits = random_bits(700, 9)
    statistics = BitStatistics.empty(9).update(pack(bits))
    expected = burstiness(bits, statistics.activity).mean(axis=0)
    np.testing.assert_allclose(statistics.mean_burstiness, expected, rtol=1e-12)


@pytest.mark.filterwarnings("error")
def test_mean_burstiness_of_bits_that_never_change_is_minus_infinity() -> None:
    statistics = BitStatistics(n_rows=4, counts=np.array([0, 4, 2]))
    assert statistics.mean_burstiness.tolist() == [-np.inf, -np.inf, -1.0]


def test_the_correction_of_miller_and_madow_is_half_a_nat_a_row_for_bits_that_change() -> None:
    statistics = BitStatistics(n_rows=10, counts=np.array([0, 5, 10]))
    added = statistics.entropies(correction="miller-madow") - statistics.entropies()
    np.testing.assert_allclose(added, [0, 1 / (20 * np.log(2)), 0], rtol=1e-12)


def test_the_corrected_entropy_of_few_rows_is_nearer_to_the_truth() -> None:
    bits = (np.random.default_rng(0).random((20, 4000)) < 0.3).astype(np.uint8)
    statistics = BitStatistics.empty(4000).update(pack(bits))
    truth = 4000 * float(binary_entropy(np.array(0.3)))
    plain = statistics.entropies().sum()
    corrected = statistics.entropies(correction="miller-madow").sum()
    assert abs(corrected - truth) < 0.1 * abs(plain - truth)


def test_an_unknown_correction_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"correction must be .* 'jackknife'"):
        BitStatistics(1, np.ones(1, np.int64)).entropies(correction="jackknife")  # type: ignore[arg-type]


def test_standard_errors_are_the_spread_over_repeated_draws() -> None:
    generator, n, p = np.random.default_rng(0), 400, 0.2
    draws = [BitStatistics(n, generator.binomial(n, p, size=1)) for _ in range(4000)]
    known = BitStatistics(n, np.array([int(n * p)]))
    spread = np.std([draw.activity[0] for draw in draws])
    assert known.activity_standard_errors[0] == pytest.approx(spread, rel=0.05)
    spread = np.std([draw.entropies()[0] for draw in draws])
    assert known.entropy_standard_errors[0] == pytest.approx(spread, rel=0.05)


@pytest.mark.filterwarnings("error")
def test_standard_errors_of_bits_that_never_change_are_zero() -> None:
    statistics = BitStatistics(n_rows=4, counts=np.array([0, 4]))
    assert statistics.activity_standard_errors.tolist() == [0, 0]
    assert statistics.entropy_standard_errors.tolist() == [0, 0]
