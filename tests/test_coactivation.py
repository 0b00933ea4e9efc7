"""Which features are on together, against counts and entropies that are known."""

from __future__ import annotations

import numpy as np
import pytest

from bitcodec import BitCodec, coactivation
from bitcodec import pairs as pairs_module
from bitcodec.bits import pack, unpack
from bitcodec.coactivation import (
    CoactivationCounts,
    PairStatistics,
    mutual_information,
    phi_coefficient,
)
from bitcodec.entropy_tree import entropy_tree
from bitcodec.errors import ConfigError, ShapeError, ValueRangeError
from bitcodec.pairs import StrongestPairs, strongest_pairs
from bitcodec.statistics import BitStatistics, binary_entropy
from tests.test_statistics import random_bits


def joint_entropy(bits: np.ndarray) -> float:
    _, counts = np.unique(bits, axis=0, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def markov_bits(n_rows: int, n_bits: int, *, stay: float, seed: int = 0) -> np.ndarray:
    """A stationary chain of fair bits, each equal to the one before with probability `stay`."""
    generator = np.random.default_rng(seed)
    turns = generator.random((n_rows, n_bits)) >= stay
    turns[:, 0] = generator.random(n_rows) < 0.5
    return (np.cumsum(turns, axis=1) % 2).astype(np.uint8)


@pytest.mark.parametrize("sparse_share", [0.0, 1.1], ids=["product", "loop"])
def test_counts_of_both_ways_equal_a_product_of_matrices(
    sparse_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coactivation, "SPARSE_SHARE", sparse_share)
    bits = random_bits(5000, 19)
    expected = bits.T.astype(np.int64) @ bits.astype(np.int64)
    found = CoactivationCounts.empty(19).update(pack(bits))
    np.testing.assert_array_equal(found.both, expected, strict=True)
    some = CoactivationCounts.empty(19, range(5, 12)).update(pack(bits))
    np.testing.assert_array_equal(some.both, expected[5:12], strict=True)


@pytest.mark.parametrize("n_rows", [0, 1, 4097])
def test_counting_in_parts_and_merging_is_counting_at_once(n_rows: int) -> None:
    packed, pairs = pack(random_bits(n_rows, 11)), np.array([[0, 1], [10, 3]])
    parts = np.split(packed, [n_rows // 3, n_rows // 2])
    once = CoactivationCounts.empty(11).update(packed)
    merged = CoactivationCounts.empty(11)
    chosen, of_parts = (
        PairStatistics.empty(11, pairs).update(packed),
        PairStatistics.empty(11, pairs),
    )
    for part in parts:
        merged.merge(CoactivationCounts.empty(11).update(part))
        of_parts.merge(PairStatistics.empty(11, pairs).update(part))
    assert merged.n_rows == once.n_rows == n_rows
    np.testing.assert_array_equal(merged.both, once.both)
    np.testing.assert_array_equal(of_parts.both, chosen.both)
    np.testing.assert_array_equal(of_parts.statistics.counts, chosen.statistics.counts)


def test_phi_is_the_correlation_of_the_bits() -> None:
    bits = random_bits(600, 5)
    bits[:, 4] = bits[:, 0] ^ (bits[:, 1] & bits[:, 2])
    pairs = np.array([[0, 4], [1, 2], [3, 4]])
    found = PairStatistics.empty(5, pairs).update(pack(bits)).phi
    expected = [np.corrcoef(bits[:, a], bits[:, b])[0, 1] for a, b in pairs]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_information_is_the_sum_of_entropies_less_the_joint_one() -> None:
    bits = random_bits(600, 4)
    bits[:, 3] = bits[:, 0] | bits[:, 1]
    pairs = np.array([[0, 3], [1, 2]])
    found = PairStatistics.empty(4, pairs).update(pack(bits)).information_bits
    for bits_told, pair in zip(found, pairs, strict=True):
        both = bits[:, pair]
        single = binary_entropy(both.mean(axis=0)).sum()
        assert bits_told == pytest.approx(single - joint_entropy(both), abs=1e-12)


@pytest.mark.filterwarnings("error")
def test_bits_that_never_change_correlate_with_nothing_and_tell_nothing() -> None:
    left, right, both = np.array([0, 5, 0]), np.array([3, 3, 5]), np.array([0, 3, 0])
    assert phi_coefficient(5, left, right, both).tolist() == [0, 0, 0]
    assert mutual_information(5, left, right, both).tolist() == [0, 0, 0]


def test_a_copy_tells_a_bit_whole_and_its_opposite_does_too() -> None:
    counts = np.array([30, 70]), np.array([30, 30]), np.array([30, 0])
    np.testing.assert_allclose(phi_coefficient(100, *counts), [1, -1], rtol=1e-12)
    expected = float(binary_entropy(np.array(0.3)))
    np.testing.assert_allclose(mutual_information(100, *counts), [expected] * 2, rtol=1e-12)


@pytest.mark.parametrize("block", [4, 1024], ids=["blocks", "at-once"])
def test_the_strongest_partners_are_those_of_all_pairs(
    block: int, monkeypatch: pytest.MonkeyPatch, codec: BitCodec, hidden: np.ndarray
) -> None:
    monkeypatch.setattr(pairs_module, "BLOCK_FEATURES", block)
    packed = codec.encode(hidden)
    bits = unpack(packed, n_bits=67)
    counts, both = bits.sum(axis=0, dtype=np.int64), bits.T.astype(np.int64) @ bits
    phi = phi_coefficient(len(bits), counts[:, None], counts, both)
    told = mutual_information(len(bits), counts[:, None], counts, both)
    phi[(both < 25) | (phi <= 0)] = -np.inf
    for scores in (phi, told):
        np.fill_diagonal(scores, -np.inf)
    found = strongest_pairs(packed, n_bits=67, k=3, min_count=25)
    np.testing.assert_array_equal(found.information_bits, -np.sort(-told, axis=1)[:, :3])
    best = -np.sort(-phi, axis=1)[:, :3]
    np.testing.assert_array_equal(np.nan_to_num(found.phi, nan=-np.inf), best)
    real = found.by_phi >= 0
    np.testing.assert_array_equal(real, np.isfinite(best))
    feature, place = np.nonzero(real)
    np.testing.assert_array_equal(
        found.n_both[feature, place], both[feature, found.by_phi[feature, place]]
    )


def test_counts_of_several_workers_give_the_pairs_of_all_rows() -> None:
    packed = pack(random_bits(3000, 20))
    workers = np.array_split(packed, 3)
    statistics, blocks = BitStatistics.empty(20), []
    for part in workers:
        statistics.merge(BitStatistics.empty(20).update(part))
    for features in (range(12), range(12, 20)):
        whole = CoactivationCounts.empty(20, features)
        for part in workers:
            whole.merge(CoactivationCounts.empty(20, features).update(part))
        blocks.append(whole)
    merged = StrongestPairs.from_counts(statistics, blocks, k=4)
    once = strongest_pairs(packed, n_bits=20, k=4)
    for name in ("by_phi", "phi", "n_both", "by_information", "information_bits"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(once, name))


def test_counts_that_are_not_of_all_features_or_rows_are_refused() -> None:
    packed = pack(random_bits(50, 20))
    statistics = BitStatistics.empty(20).update(packed)
    some = CoactivationCounts.empty(20, range(12)).update(packed)
    with pytest.raises(ShapeError, match="expected counts of 20 features, got 12"):
        StrongestPairs.from_counts(statistics, [some])
    with pytest.raises(ShapeError, match=r"features from 12 on against 20, got range\(0, 12\)"):
        StrongestPairs.from_counts(statistics, [some, some])
    with pytest.raises(ShapeError, match="expected counts of 50 rows, got 100"):
        StrongestPairs.from_counts(statistics, [some.update(packed)])


def test_pairs_of_few_rows_are_no_partners_by_phi() -> None:
    bits = np.zeros((100, 3), np.uint8)
    bits[:4, :2] = 1  # a perfect correlation, of four rows
    bits[50:, 2] = 1
    assert strongest_pairs(pack(bits), n_bits=3, k=2, min_count=5).by_phi.max() == -1
    assert strongest_pairs(pack(bits), n_bits=3, k=2, min_count=4).by_phi[0].tolist() == [1, -1]


def test_only_positive_correlations_make_partners_by_phi() -> None:
    bits = np.zeros((100, 3), np.uint8)
    bits[:60, 0], bits[40:, 1], bits[:, 2] = 1, 1, 1  # apart, and always on
    found = strongest_pairs(pack(bits), n_bits=3, k=2, min_count=1)
    assert found.by_phi.max() == -1
    assert found.by_information[:2, 0].tolist() == [1, 0]


def test_every_pair_is_an_edge_once_with_its_counts() -> None:
    bits = markov_bits(2000, 6, stay=0.9)
    edges, told, both = strongest_pairs(pack(bits), n_bits=6, k=5).edges()
    assert len(np.unique(edges, axis=0)) == len(edges) == 15
    assert (edges[:, 0] < edges[:, 1]).all()
    assert (np.diff(told) <= 0).all()
    expected = [int((bits[:, a] & bits[:, b]).sum()) for a, b in edges]
    assert both.tolist() == expected


def test_the_tree_of_independent_bits_takes_next_to_nothing_off() -> None:
    found = strongest_pairs(packed := pack(random_bits(20_000, 12)), n_bits=12)
    tree = entropy_tree(found)
    assert len(packed) == 20_000
    assert 0 <= found.statistics.entropy_bits - tree.entropy_bits < 12 * 5 / 20_000


def test_the_tree_counts_copies_of_a_bit_once() -> None:
    bit = random_bits(1000, 1, seed=3)
    tree = entropy_tree(strongest_pairs(pack(np.repeat(bit, 9, axis=1)), n_bits=9))
    assert tree.entropy_bits == pytest.approx(float(binary_entropy(bit.mean())), rel=1e-9)
    assert len(tree.edges) == 8


def test_the_tree_of_a_markov_chain_is_the_chain_and_its_entropy_the_chains() -> None:
    bits = markov_bits(200_000, 10, stay=0.9)
    tree = entropy_tree(strongest_pairs(pack(bits), n_bits=10))
    assert sorted(map(tuple, tree.edges.tolist())) == [(j, j + 1) for j in range(9)]
    known = 1 + 9 * float(binary_entropy(np.array(0.9)))
    assert tree.entropy_bits == pytest.approx(known, rel=2e-3)


def test_the_tree_lies_between_the_joint_entropy_and_the_sum(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    packed = codec.encode(hidden)[:, :1]  # eight features, whose joint entropy can be counted
    found = strongest_pairs(packed, n_bits=8)
    tree = entropy_tree(found)
    joint = joint_entropy(unpack(packed, n_bits=8))
    assert joint < tree.entropy_bits < found.statistics.entropy_bits


def test_the_tree_closes_no_circle() -> None:
    bits = np.repeat(random_bits(500, 3), 4, axis=1)
    edges = entropy_tree(strongest_pairs(pack(bits), n_bits=12)).edges
    groups = [{node} for node in range(12)]
    for left, right in edges.tolist():
        one, other = (next(g for g in groups if node in g) for node in (left, right))
        assert one is not other
        one |= other
        groups.remove(other)


def test_codes_that_are_all_off_have_no_partners_and_an_empty_tree() -> None:
    found = strongest_pairs(np.zeros((50, 2), np.uint8), n_bits=16)
    assert found.by_phi.max() == found.by_information.max() == -1
    tree = entropy_tree(found)
    assert (len(tree.edges), tree.entropy_bits) == (0, 0.0)


def test_a_single_feature_has_no_partners() -> None:
    found = strongest_pairs(np.ones((5, 1), np.uint8), n_bits=1, k=4)
    assert found.by_phi.tolist() == [[-1] * 4]


@pytest.mark.parametrize(("k", "least"), [(0, 1), (1, 0)])
def test_numbers_below_one_are_refused(k: int, least: int) -> None:
    with pytest.raises(ConfigError, match="k and min_count must be at least 1, got"):
        strongest_pairs(np.zeros((5, 1), np.uint8), n_bits=8, k=k, min_count=least)


def test_no_rows_are_refused() -> None:
    with pytest.raises(ShapeError, match="packed has no rows: pass at least one"):
        strongest_pairs(np.zeros((0, 1), np.uint8), n_bits=8)


def test_pairs_of_no_feature_are_refused() -> None:
    with pytest.raises(ValueRangeError, match="features must be between 0 and 7, got 8"):
        PairStatistics.empty(8, np.array([[0, 8]]))
    with pytest.raises(ShapeError, match=r"pairs must be \(m, 2\), got \(2,\)"):
        PairStatistics.empty(8, np.array([0, 1]))


def test_counts_of_other_pairs_or_features_do_not_merge() -> None:
    left, right = (PairStatistics.empty(8, np.array([pair])) for pair in ([0, 1], [0, 2]))
    with pytest.raises(ShapeError, match="cannot merge counts of other pairs"):
        left.merge(right)
    with pytest.raises(ShapeError, match=r"cannot merge counts of range\(0, 4\) into those of"):
        CoactivationCounts.empty(8).merge(CoactivationCounts.empty(8, range(4)))
