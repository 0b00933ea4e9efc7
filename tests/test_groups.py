"""Entropy by group of rows, against counting each group alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcodec.bits import pack
from bitcodec.errors import NotFittedError, ShapeError
from bitcodec.groups import GroupStatistics
from bitcodec.statistics import BitStatistics, binary_entropy
from tests.test_statistics import random_bits


def test_each_group_counts_as_its_rows_alone_do() -> None:
    packed = pack(random_bits(9000, 13))
    keys = np.random.default_rng(1).integers(0, 7, size=9000)
    found = GroupStatistics.empty(13).update(packed, keys)
    assert set(found.groups) == set(range(7))
    for key, counted in found.groups.items():
        alone = BitStatistics.empty(13).update(packed[keys == key])
        np.testing.assert_array_equal(counted.counts, alone.counts)
        assert counted.n_rows == alone.n_rows == found.n_rows[key]
        assert found.entropy_bits[key] == alone.entropy_bits


@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, 40), max_size=4), n_bits=st.integers(1, 17))
def test_counting_in_parts_and_merging_is_counting_at_once(cuts: list[int], n_bits: int) -> None:
    packed, keys = pack(random_bits(40, n_bits)), [("layer", row % 3) for row in range(40)]
    once = GroupStatistics.empty(n_bits).update(packed, keys)
    merged, borders = GroupStatistics.empty(n_bits), [0, *sorted(cuts), 40]
    for start, stop in pairwise(borders):
        part = GroupStatistics.empty(n_bits).update(packed[start:stop], keys[start:stop])
        merged.merge(part)
    assert merged.n_rows == once.n_rows
    for key, counted in once.groups.items():
        np.testing.assert_array_equal(merged.groups[key].counts, counted.counts)


def test_all_groups_together_are_all_rows() -> None:
    packed = pack(random_bits(500, 9))
    found = GroupStatistics.empty(9).update(packed, np.arange(500) % 11).total
    expected = BitStatistics.empty(9).update(packed)
    assert found.n_rows == expected.n_rows
    np.testing.assert_array_equal(found.counts, expected.counts)


def test_small_groups_are_pooled_under_the_key_none() -> None:
    keys = ["a"] * 5 + ["b"] * 2 + ["c"]
    found = GroupStatistics.empty(3).update(pack(random_bits(8, 3)), keys).pooled(min_rows=3)
    assert found.n_rows == {"a": 5, None: 3}


def test_a_group_that_sets_the_bit_leaves_it_no_entropy() -> None:
    keys = np.arange(1000) % 4
    bits = np.stack([keys == 2, np.arange(1000) < 500], axis=1).astype(np.uint8)
    found = GroupStatistics.empty(2).update(pack(bits), keys)
    np.testing.assert_allclose(found.conditional_entropies(), [0, 1], atol=1e-12)
    shares = found.explained_shares()
    assert shares[0] > 0.98
    assert abs(shares[1]) < 0.02


def test_the_share_told_is_the_mutual_information_over_the_entropy() -> None:
    generator = np.random.default_rng(0)
    keys = generator.integers(0, 2, size=200_000)
    bits = generator.random((200_000, 1)) < np.where(keys, 0.5, 0.1)[:, None]
    found = GroupStatistics.empty(1).update(pack(bits), keys).explained_shares()[0]
    whole, parts = binary_entropy(np.array(0.3)), binary_entropy(np.array([0.5, 0.1]))
    assert found == pytest.approx((whole - parts.mean()) / whole, abs=5e-3)


def test_groups_of_few_rows_do_not_seem_to_tell_what_they_do_not() -> None:
    packed, keys = pack(random_bits(4000, 20)), np.arange(4000) // 2
    shares = GroupStatistics.empty(20).update(packed, keys).explained_shares()
    assert (shares < 0.01).all()


def test_bits_told_are_those_that_coding_by_the_other_rows_saves() -> None:
    bits, keys = random_bits(30, 1)[:, 0], np.arange(30) % 3

    def cost(own: np.ndarray) -> float:
        total = 0.0
        for row, bit in enumerate(own):
            others = np.delete(own, row)
            p = (others.sum() + 0.5) / (len(others) + 1)
            total -= np.log2(p if bit else 1 - p)
        return float(total)

    expected = (cost(bits) - sum(cost(bits[keys == key]) for key in range(3))) / 30
    found = GroupStatistics.empty(1).update(pack(bits[:, None]), keys).told_bits()
    assert found[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.filterwarnings("error")
def test_the_share_of_a_bit_that_never_changes_is_not_a_number() -> None:
    bits = np.tile([[0, 1]], (20, 1)).astype(np.uint8)
    shares = GroupStatistics.empty(2).update(pack(bits), np.arange(20) % 2).explained_shares()
    assert np.isnan(shares).all()


def test_as_many_keys_as_rows_are_asked_for() -> None:
    with pytest.raises(ShapeError, match="keys must be 4, one a row, got 3"):
        GroupStatistics.empty(3).update(pack(random_bits(4, 3)), [1, 2, 3])


def test_groups_of_different_numbers_of_bits_do_not_merge() -> None:
    with pytest.raises(ShapeError, match="cannot merge counts of 4 bits into 3"):
        GroupStatistics.empty(3).merge(GroupStatistics.empty(4))


def test_no_rows_have_no_entropy_by_group() -> None:
    with pytest.raises(NotFittedError, match="no rows were counted yet: update"):
        GroupStatistics.empty(3).conditional_entropies()
    with pytest.raises(NotFittedError, match="no rows were counted yet: update"):
        GroupStatistics.empty(3).explained_shares()
