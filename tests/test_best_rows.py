"""Rows chosen for each feature as a stream, against sorting them all."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcodec.best_rows import BestRows, random_keys
from bitcodec.errors import ShapeError


def brute_force(scores: np.ndarray, wanted: np.ndarray, k: int) -> list[list[int]]:
    rows = [np.flatnonzero(column) for column in wanted.T]
    return [
        own[np.lexsort((own, scores[own, feature]))][:k].tolist()
        for feature, own in enumerate(rows)
    ]


def chosen(best: BestRows) -> list[list[int]]:
    return [[row for row, _ in best.of(feature)] for feature in range(len(best.rows))]


@settings(max_examples=60)
@given(
    n_rows=st.integers(0, 40),
    k=st.integers(1, 5),
    cuts=st.lists(st.integers(0, 40), max_size=3),
    seed=st.integers(0, 20),
)
def test_the_rows_of_least_score_are_kept_however_the_stream_is_cut(
    n_rows: int, k: int, cuts: list[int], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 6, size=(n_rows, 4)).astype(np.float32)  # with many ties
    wanted = generator.random((n_rows, 4)) < [0.0, 0.1, 0.5, 1.0]
    borders = [0, *sorted(min(cut, n_rows) for cut in cuts), n_rows]
    streamed, merged = BestRows(4, k), BestRows(4, k)
    for start, stop in pairwise(borders):
        part, rows = BestRows(4, k), slice(start, stop)
        for best in (streamed, part):
            best.offer(scores[rows], wanted[rows], values=-scores[rows], first_row=start)
        merged = part.merge(merged)  # the later part first
    expected = brute_force(scores, wanted, k)
    assert chosen(streamed) == chosen(merged) == expected
    for feature, rows_kept in enumerate(expected):
        assert [v for _, v in merged.of(feature)] == (-scores[rows_kept, feature]).tolist()


def test_no_rows_are_kept_where_none_are_asked_for() -> None:
    best = BestRows(2, 0)
    ones = np.ones((3, 2))
    best.offer(ones, ones > 0, values=ones, first_row=0)
    assert chosen(best) == [[], []]


def test_rows_kept_for_other_features_do_not_merge() -> None:
    with pytest.raises(ShapeError, match=r"cannot merge rows of \(3, 2\) into \(2, 2\)"):
        BestRows(2, 2).merge(BestRows(3, 2))


def test_a_random_key_depends_on_row_and_seed_alone() -> None:
    whole = random_keys(np.arange(1000), seed=3)
    np.testing.assert_array_equal(random_keys(np.arange(400, 700), seed=3), whole[400:700])
    assert not np.isin(random_keys(np.arange(1000), seed=4), whole).any()


@pytest.mark.parametrize("seed", [0, 1, -1, 2**70])
def test_random_keys_are_uniform(seed: int) -> None:
    keys = random_keys(np.arange(100_000), seed=seed)
    counts = np.histogram(keys, bins=50, range=(0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 100  # chi-squared of 49 degrees, p < 1e-4
    neighbours = np.corrcoef(keys[:-1], keys[1:])[0, 1]
    assert abs(neighbours) < 0.015


def test_every_row_is_sampled_alike_wherever_it_lies() -> None:
    times = np.zeros(60)
    for seed in range(3000):
        keys = random_keys(np.arange(60), seed=seed)[:, None]
        best = BestRows(1, 6)
        best.offer(keys, np.ones((60, 1), bool), values=keys, first_row=0)
        times[best.rows[0]] += 1
    assert ((times - 300) ** 2 / 270).sum() < 110  # 59 degrees of freedom, p < 1e-4
