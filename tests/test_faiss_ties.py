"""Rows at one distance come in order of their ids, whatever the order of the rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitcodec_faiss import HammingIndex, scan
from tests.test_faiss_oracle import StubCodec, nearest


def test_a_tie_wider_than_the_over_fetch_keeps_the_smallest_ids() -> None:
    index = HammingIndex(StubCodec(8))
    ids = np.random.default_rng(0).permutation(5000)
    index.add_packed(np.full((5000, 1), 3, dtype=np.uint8), ids=ids)
    found = index.search_packed(np.array([[3], [1]], dtype=np.uint8), k=5)
    assert found.ids.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert found.scores.tolist() == [[0] * 5, [1] * 5]


def test_queries_that_tie_at_different_distances_are_each_settled() -> None:
    packed = np.repeat(np.array([[0], [7]], dtype=np.uint8), 200, axis=0)
    ids = np.arange(400)[::-1].copy()
    index = HammingIndex(StubCodec(8))
    index.add_packed(packed, ids=ids)
    queries = np.array([[0], [7], [1], [3]], dtype=np.uint8)
    found = index.search_packed(queries, k=3)
    np.testing.assert_array_equal(found.ids, nearest(queries, packed, ids, k=3)[1])


@pytest.mark.parametrize("code_bytes", [1, 4, 5, 8, 16, 20, 32, 48, 64, 72])
def test_rows_in_order_of_their_ids_are_fetched_no_more_than_asked_for(
    code_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = np.zeros((70_000, code_bytes), dtype=np.uint8)  # more rows than FAISS takes at a time
    codes[:, -1] = np.random.default_rng(0).integers(0, 4, len(codes))
    index = HammingIndex(StubCodec(8 * code_bytes))
    index.add_packed(codes)
    monkeypatch.setattr(scan, "reach_of", None)
    wanted = nearest(codes[:3], codes, np.arange(len(codes)), k=20)[1]
    np.testing.assert_array_equal(index.search_packed(codes[:3], k=20).ids, wanted)


@pytest.mark.parametrize("second", [[3, 4], [8, 7]])
def test_ids_that_cease_to_ascend_still_break_ties(second: list[int]) -> None:
    index, row = HammingIndex(StubCodec(8)), np.full((2, 1), 5, dtype=np.uint8)
    index.add_packed(row, ids=[5, 6])
    assert index.search_packed(row[:1], k=1).ids.tolist() == [[5]]
    index.add_packed(row, ids=second)
    assert index.search_packed(row[:1], k=4).ids.tolist() == [sorted([5, 6, *second])]
    assert index.search_packed(row[:1], k=1).ids.tolist() == [[min(5, *second)]]


@pytest.mark.parametrize("ids", [[1, 2, 3], [3, 1, 2]])
def test_a_loaded_index_breaks_ties_by_id(ids: list[int], tmp_path: Path) -> None:
    codec, row = StubCodec(8), np.full((3, 1), 5, dtype=np.uint8)
    index = HammingIndex(codec)
    index.add_packed(row, ids=ids)
    index.save(tmp_path / "index")
    loaded = HammingIndex.load(tmp_path / "index", codec)
    assert loaded.search_packed(row[:1], k=2).ids.tolist() == [[1, 2]]


def test_ties_are_broken_by_id_where_faiss_leaves_them_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scan, "breaks_ties_by_row", lambda code_bytes: False)
    index = HammingIndex(StubCodec(8))
    index.add_packed(np.full((50, 1), 3, dtype=np.uint8))
    assert index.search_packed(np.array([[1]], dtype=np.uint8), k=2).ids.tolist() == [[0, 1]]
