"""An asymmetric IVF against decoding every row, on stubs and on real hidden states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitcodec import BitCodec
from bitcodec.errors import ConfigError, FormatError, ValueRangeError
from bitcodec.files import read_json
from bitcodec.sealed_json import write_sealed
from bitcodec.similarity import METRICS, Metric
from bitcodec_faiss import MISSING_ID, AsymmetricIndex, HammingIndex, load_index
from bitcodec_faiss.ivf import IvfStore
from tests.test_asymmetric_index import (
    CODEC,
    N_BITS,
    QUERIES,
    assert_equals_oracle,
    make_index,
    oracle,
)
from tests.test_faiss_oracle import ScoringStub

N_LISTS = 6
FACTORY = f"IVF{N_LISTS}"


@pytest.fixture(scope="module")
def dense(hidden: np.ndarray) -> BitCodec:
    """A codec for search with 2 side bytes, of real states."""
    codec = BitCodec.preset("search", n_bits=192, n_steps=40, batch_size=256, refine="fast")
    return codec.fit(hidden[:3000])


@pytest.mark.parametrize("side_bytes", [0, 2, 4])
@pytest.mark.parametrize("metric", METRICS)
def test_searching_all_lists_equals_brute_force_through_every_change(
    metric: Metric, side_bytes: int, tmp_path: Path
) -> None:
    index = make_index(FACTORY, metric, codec=ScoringStub(N_BITS, side_bytes=side_bytes))
    some = index.ids[::3]
    assert_equals_oracle(index.search(QUERIES, k=10, nprobe=N_LISTS), oracle(index, k=10))
    found = index.search(QUERIES, k=10, filter=some, nprobe=N_LISTS)
    assert_equals_oracle(found, oracle(index, k=10, ids=some))
    index.remove(some)
    index.add(np.random.default_rng(2).normal(size=(30, 16)))
    assert_equals_oracle(index.search(QUERIES, k=7, nprobe=N_LISTS), oracle(index, k=7))
    index.save(tmp_path / "index")
    for mmap in (False, True):
        loaded = load_index(tmp_path / "index", index.codec, mmap=mmap)
        assert isinstance(loaded, AsymmetricIndex)
        assert (loaded.factory, loaded.metric, len(loaded)) == (FACTORY, metric, 230)
        assert_equals_oracle(loaded.search(QUERIES, k=7, nprobe=N_LISTS), oracle(index, k=7))


def test_fewer_lists_give_rows_of_these_lists_with_their_exact_scores() -> None:
    index = make_index(FACTORY, "l2", n_rows=600)
    store = index._rows.store
    list_of = {
        int(row): number
        for number in range(N_LISTS)
        for row in store.list_ids(number)  # type: ignore[attr-defined]
    }
    everything = oracle(index, k=600)
    for n_probe in (1, 2, 4):
        found = index.search(QUERIES, k=5, nprobe=n_probe)
        for ids, scores, all_ids, all_scores in zip(
            found.ids, found.scores, everything[1], everything[0], strict=True
        ):
            assert len({list_of[int(row)] for row in ids}) <= n_probe
            exact = dict(zip(all_ids.tolist(), all_scores.tolist(), strict=True))
            np.testing.assert_allclose(scores, [exact[int(row)] for row in ids], rtol=1e-4)


@pytest.mark.parametrize("metric", METRICS)
def test_the_list_searched_first_points_most_in_the_direction_of_the_query(metric: Metric) -> None:
    codec = ScoringStub(N_BITS)
    codec.mean *= 8
    index = make_index(FACTORY, metric, codec=codec, n_rows=600)
    store = index._rows.store
    assert isinstance(store, IvfStore)
    queries = 3 * np.random.default_rng(4).normal(size=(80, 16))
    centroids = codec.decode(store.centroids) - codec.mean
    asked = queries - codec.mean if metric == "l2" else queries
    cosines = asked @ (centroids / np.linalg.norm(centroids, axis=1, keepdims=True)).T
    found = index.search(queries.astype(np.float32), k=3, nprobe=1).ids
    for ids, row in zip(found, cosines, strict=True):
        assert set(ids.tolist()) <= set(store.list_ids(int(row.argmax())).tolist())


def test_lists_without_rows_take_no_place_among_those_searched() -> None:
    index = make_index(FACTORY, "inner_product", codec=ScoringStub(N_BITS), n_rows=600)
    for number in (1, 3):
        index.remove(index._rows.store.list_ids(number))  # type: ignore[attr-defined]
    store, codec = index._rows.store, index.codec
    assert isinstance(store, IvfStore)
    assert isinstance(codec, ScoringStub)
    centroids = codec.decode(store.centroids) - codec.mean
    queries = np.random.default_rng(4).normal(size=(80, 16)).astype(np.float32)
    cosines = queries @ (centroids / np.linalg.norm(centroids, axis=1, keepdims=True)).T
    cosines[:, [1, 3]] = -np.inf
    found = index.search(queries, k=5, nprobe=2)
    for query, ids, row in zip(queries, found.ids, cosines, strict=True):
        near = np.concatenate([store.list_ids(int(n)) for n in np.argsort(-row)[:2]])
        scores = codec.decode(index.reconstruct_packed(near)) @ query
        assert ids.tolist() == near[np.argsort(-scores)[:5]].tolist()


def test_more_lists_find_more_of_the_nearest(dense: BitCodec, hidden: np.ndarray) -> None:
    for metric in METRICS:
        index = AsymmetricIndex(dense, factory="IVF32", metric=metric)
        flat = AsymmetricIndex(dense, metric=metric)
        packed = dense.encode(hidden[:3000])
        index.add_packed(packed)
        flat.add_packed(packed)
        queries = hidden[3000:3200]
        exact = flat.search(queries, k=10).ids
        recalls = [
            np.mean(
                [
                    len(np.intersect1d(*pair)) / 10
                    for pair in zip(index.search(queries, k=10, nprobe=n).ids, exact, strict=True)
                ]
            )
            for n in (1, 4, 12, 32)
        ]
        assert recalls == sorted(recalls)
        assert recalls[-1] == 1
        assert recalls[1] > 0.6, (metric, recalls)


def test_lists_are_searched_that_a_hamming_index_would_make(
    dense: BitCodec, hidden: np.ndarray
) -> None:
    packed = dense.encode(hidden[:1000])
    index, hamming = AsymmetricIndex(dense, factory="IVF8"), HammingIndex(dense, factory="IVF8")
    for each in (index, hamming):
        each.add_packed(packed)
    np.testing.assert_array_equal(index._rows.store.ids, hamming._rows.store.ids)
    np.testing.assert_array_equal(index.reconstruct_packed([5, 3]), packed[[5, 3]])


def test_a_query_finds_k_rows_even_where_its_lists_hold_fewer() -> None:
    index = make_index(FACTORY, n_rows=60)
    assert_equals_oracle(index.search(QUERIES, k=50, nprobe=1), oracle(index, k=50))
    few = index.ids[:2]
    assert_equals_oracle(
        index.search(QUERIES, k=3, filter=few, nprobe=1), oracle(index, k=3, ids=few)
    )
    found = index.search(QUERIES, k=3, filter=few, nprobe=1)
    assert (found.ids[:, 2] == MISSING_ID).all()


def test_a_range_search_looks_at_all_lists() -> None:
    index = make_index(FACTORY, "l2")
    scores, ids = oracle(index, k=40)
    found = index.range_search(QUERIES, radius=float(scores[0, 20]) + 1e-4)
    np.testing.assert_array_equal(np.sort(found.ids[: found.limits[1]]), np.sort(ids[0, :21]))


def test_a_query_alone_finds_what_it_finds_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    index = make_index(FACTORY, "l2", n_rows=500)  # six queries go list by list, one by itself
    monkeypatch.setattr("bitcodec_faiss.scans.CHUNK_ROWS", 100)  # and some lists at a time
    for nprobe in (2, 4, N_LISTS):
        together = index.search(QUERIES, k=9, nprobe=nprobe)
        for place, query in enumerate(QUERIES):
            alone = index.search(query, k=9, nprobe=nprobe)
            np.testing.assert_array_equal(alone.ids, together.ids[place])
            np.testing.assert_array_equal(alone.scores, together.scores[place])


def test_threads_change_nothing() -> None:
    index = make_index(FACTORY, n_rows=500)
    one, four = (index.search(QUERIES, k=9, nprobe=3, n_threads=n) for n in (1, 4))
    np.testing.assert_array_equal(one.ids, four.ids)
    np.testing.assert_array_equal(one.scores, four.scores)


def test_bad_lists_are_refused() -> None:
    index = make_index(FACTORY)
    with pytest.raises(ConfigError, match="nprobe must be at most the 6 lists, got 7"):
        index.search(QUERIES, nprobe=7)
    with pytest.raises(
        ConfigError, match="oversample is a parameter of FastScan, this index is IVF"
    ):
        index.search(QUERIES, oversample=2)
    with pytest.raises(ValueRangeError, match="must be trained on at least as many rows, got 2"):
        AsymmetricIndex(CODEC, factory=FACTORY).add(QUERIES[:2])
    with pytest.raises(ConfigError, match='for example "IVF1024"'):
        AsymmetricIndex(CODEC, factory="IVF0")


def test_a_file_whose_kind_was_changed_is_refused(tmp_path: Path) -> None:
    index = make_index(FACTORY)
    index.save(tmp_path / "index")
    path = tmp_path / "index" / "index.json"
    content = read_json(path) | {"factory": "Flat"}
    del content["seal"]
    write_sealed(path, content, overwrite=True)
    with pytest.raises(FormatError, match=r"it says .*IBwF.* where .*IBMp.* was expected"):
        AsymmetricIndex.load(tmp_path / "index", CODEC)
