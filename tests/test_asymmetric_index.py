"""AsymmetricIndex against decoding every row and sorting in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from bitcodec.errors import (
    ConfigError,
    FormatError,
    MismatchError,
    NotFittedError,
    ShapeError,
    ValueRangeError,
)
from bitcodec.similarity import METRICS, Metric
from bitcodec_faiss import MISSING_ID, AsymmetricIndex, HammingIndex, SearchResult
from bitcodec_faiss.fast_scan import FastScan
from tests.test_faiss_oracle import ScoringStub, StubCodec, highest_of, similarities

FACTORIES = ("Flat", "FastScan")
N_BITS = 67
CODEC = ScoringStub(N_BITS, side_bytes=2)
QUERIES = np.random.default_rng(9).normal(size=(6, 16)).astype(np.float32)


def make_index(
    factory: str = "Flat",
    metric: Metric = "inner_product",
    *,
    codec: ScoringStub = CODEC,
    n_rows: int = 300,
) -> AsymmetricIndex:
    """Index hidden states under shuffled ids that do not ascend."""
    index = AsymmetricIndex(codec, factory=factory, metric=metric)
    rng = np.random.default_rng(1)
    ids = rng.permutation(10 * n_rows)[:n_rows]
    index.add(rng.normal(size=(n_rows, 16)), ids=ids)
    return index


def oracle(
    index: AsymmetricIndex, *, k: int, ids: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Decode all rows, or those of some ids, and sort; distances get their sign back."""
    kept = index.ids if ids is None else ids
    packed = index.reconstruct_packed(kept)
    assert isinstance(index.codec, ScoringStub)
    squares = index.codec.side(packed).squared_norm.astype(np.float64)
    vectors = index.codec.decode(packed)
    scores = similarities(QUERIES, vectors, squares, metric=index.metric)
    best, found = highest_of(scores, kept, k=k)
    return (-best if index.metric == "l2" else best), found


def assert_equals_oracle(found: SearchResult, expected: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_array_equal(found.ids, expected[1])
    finite = np.isfinite(expected[0])
    largest = np.abs(expected[0][finite]).max()
    np.testing.assert_allclose(
        found.scores[finite], expected[0][finite], rtol=1e-4, atol=1e-6 * largest
    )
    np.testing.assert_array_equal(found.scores[~finite], expected[0][~finite])


@pytest.mark.parametrize("side_bytes", [0, 2, 4])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("factory", FACTORIES)
def test_a_search_equals_brute_force_through_every_change(
    factory: str, metric: Metric, side_bytes: int, tmp_path: Path
) -> None:
    index = make_index(factory, metric, codec=ScoringStub(N_BITS, side_bytes=side_bytes))
    effort: dict[str, int] = {"oversample": 29} if factory == "FastScan" else {}
    some, mask = index.ids[::3], np.arange(300) % 2 == 0
    found = index.search(QUERIES, k=10, **effort)
    assert (found.scored_by, found.metric) == ("asymmetric", metric)
    assert found.scores.dtype == np.float32
    assert_equals_oracle(found, oracle(index, k=10))
    assert_equals_oracle(index.search(QUERIES, k=10, filter=some), oracle(index, k=10, ids=some))
    of_mask = oracle(index, k=200, ids=index.ids[mask])
    assert_equals_oracle(index.search(QUERIES, k=200, filter=mask), of_mask)
    index.remove(some)
    index.add(np.random.default_rng(2).normal(size=(30, 16)))
    assert_equals_oracle(index.search(QUERIES, k=7, **effort), oracle(index, k=7))
    index.save(tmp_path / "index")
    for mmap in (False, True):
        loaded = AsymmetricIndex.load(tmp_path / "index", index.codec, mmap=mmap)
        assert (loaded.factory, loaded.metric, len(loaded)) == (factory, metric, 230)
        assert_equals_oracle(loaded.search(QUERIES, k=7, **effort), oracle(index, k=7))


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("k", [1, 299, 300, 301, 2000])
def test_hits_beyond_the_rows_are_missing(factory: str, k: int) -> None:
    for metric in METRICS:
        index = make_index(factory, metric)
        found = index.search(QUERIES, k=k)
        assert found.ids.shape == (6, k)
        if k > 29:  # with fewer candidates FastScan may miss some
            assert_equals_oracle(found, oracle(index, k=k))


@pytest.mark.parametrize("factory", FACTORIES)
def test_equal_scores_come_in_the_order_of_ids(factory: str) -> None:
    index = AsymmetricIndex(CODEC, factory=factory)
    row = CODEC.encode(QUERIES[:1])
    ids = np.random.default_rng(0).permutation(50)
    index.add_packed(np.repeat(row, 50, axis=0), ids=ids)
    assert (
        index.search(QUERIES, k=7, filter=ids[ids > 3]).ids.tolist() == [[4, 5, 6, 7, 8, 9, 10]] * 6
    )
    assert index.search(QUERIES, k=5).ids.tolist() == [[0, 1, 2, 3, 4]] * 6


def test_fast_scan_finds_most_neighbours_among_its_candidates() -> None:
    flat, fast = make_index(n_rows=5000), make_index("FastScan", n_rows=5000)
    exact = flat.search(QUERIES, k=10).ids
    recalls = [
        np.mean([len(np.intersect1d(a, b)) for a, b in zip(exact, found, strict=True)]) / 10
        for found in (fast.search(QUERIES, k=10, oversample=m).ids for m in (1, 20))
    ]
    assert recalls[1] > 0.8
    assert recalls[0] <= recalls[1]


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("metric", METRICS)
def test_a_query_of_zeros_finds_as_many_rows_as_any(factory: str, metric: Metric) -> None:
    index = make_index(factory, metric)
    queries = np.stack([QUERIES[0], np.zeros(16, np.float32), QUERIES[1]])
    found = index.search(queries, k=3)
    assert (found.ids >= 0).all()
    assert found.ids[0].tolist() == index.search(QUERIES, k=3).ids[0].tolist()
    if metric != "l2":
        assert found.ids[1].tolist() == np.sort(index.ids)[:3].tolist()
        assert found.scores[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("n_bits", [1, 4, 5, 8, 12, 63, 64])
def test_fast_scan_ranks_rows_of_any_width_by_their_weights(n_bits: int) -> None:
    rng = np.random.default_rng(0)
    bits = rng.random((400, n_bits)) < 0.5
    packed = np.packbits(bits, axis=1, bitorder="little")
    weights = rng.normal(size=(5, n_bits)).astype(np.float32)
    scan = FastScan(np.pad(packed, ((0, 0), (0, 2)), constant_values=255), n_bits=n_bits)
    rows = scan.candidates(weights, n_candidates=20)
    scores = weights @ bits.T
    threshold = np.sort(scores, axis=1)[:, -60][:, None]
    assert (np.take_along_axis(scores, rows, axis=1) >= threshold - 1e-6).all()


@pytest.mark.parametrize("metric", METRICS)
def test_a_range_search_finds_all_rows_that_reach_the_bound(metric: Metric) -> None:
    index = make_index(metric=metric)
    scores, ids = index.search(QUERIES, k=300).scores, index.search(QUERIES, k=300).ids
    radius = float(scores[2, 40])
    for kept in (None, index.ids[::2]):
        found = index.range_search(QUERIES, radius=radius, filter=kept)
        assert found.limits.shape == (7,)
        assert (found.scored_by, found.metric) == ("asymmetric", metric)
        for query in range(6):
            inside = scores[query] <= radius if metric == "l2" else scores[query] >= radius
            inside &= np.isin(ids[query], index.ids if kept is None else kept)
            hits = slice(found.limits[query], found.limits[query + 1])
            assert found.ids[hits].tolist() == ids[query][inside].tolist()
            assert found.scores[hits].tolist() == scores[query][inside].tolist()
    nothing = index.range_search(QUERIES, radius=-1e9 if metric == "l2" else 1e9)
    assert (nothing.limits.tolist(), len(nothing.ids)) == ([0] * 7, 0)


def test_leading_axes_of_queries_are_those_of_the_hits() -> None:
    index = make_index()
    assert index.search(QUERIES[0], k=3).ids.shape == (3,)
    assert index.search(QUERIES.reshape(2, 3, 16), k=4).scores.shape == (2, 3, 4)
    np.testing.assert_array_equal(
        index.search(QUERIES.reshape(2, 3, 16), k=4).ids.reshape(6, 4),
        index.search(QUERIES, k=4).ids,
    )


def test_whole_rows_come_back_and_the_file_counts_them(tmp_path: Path) -> None:
    index = make_index()
    hidden = np.random.default_rng(5).normal(size=(4, 16))
    ids = index.add(hidden)
    np.testing.assert_array_equal(index.reconstruct_packed(ids[::-1]), CODEC.encode(hidden)[::-1])
    index.save(tmp_path / "index")
    names = {path.name for path in (tmp_path / "index").iterdir()}
    assert names == {"index.faiss", "index.json"}
    size = (tmp_path / "index" / "index.faiss").stat().st_size
    assert index.bytes_per_vector == size / 304


@pytest.mark.parametrize("factory", FACTORIES)
def test_an_empty_index_refuses_to_search(factory: str) -> None:
    index = AsymmetricIndex(CODEC, factory=factory)
    with pytest.raises(ValueRangeError, match="the index is empty: add rows first"):
        index.search(QUERIES)
    with pytest.raises(ValueRangeError, match="the index is empty: add rows first"):
        index.range_search(QUERIES, radius=1)
    index = make_index(factory, n_rows=3)
    index.remove(index.ids)
    with pytest.raises(ValueRangeError, match="the index is empty"):
        index.search(QUERIES)


def test_a_filter_that_matches_nothing_gives_missing_hits() -> None:
    found = make_index(metric="l2").search(QUERIES, k=2, filter=[10**9])
    assert (found.ids == MISSING_ID).all()
    assert np.isposinf(found.scores).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ConfigError, "k must be an integer of at least 1, got 0"),
        ({"k": 2.0}, ConfigError, "k must be an integer of at least 1, got 2.0"),
        ({"oversample": 5}, ConfigError, "oversample is a parameter of FastScan"),
        ({"nprobe": 5}, ConfigError, "nprobe is a parameter of IVF, this index is Flat: leave it"),
        ({"n_threads": 0}, ConfigError, "n_threads must be an integer of at least 1, got 0"),
        ({"filter": np.ones(7, bool)}, ShapeError, "a filter mask must have one value a row"),
        ({"queries": QUERIES[:, :15]}, ShapeError, r"queries must be \(n, 16\), got \(6, 15\)"),
        ({"queries": np.float32(1)}, ShapeError, r"queries must be \(n, 16\), got \(\)"),
        ({"queries": np.ones((2, 16), int)}, ValueRangeError, "float"),
        ({"queries": np.full((3, 16), np.nan)}, ValueRangeError, "row 0 holds NaN"),
    ],
)
def test_bad_arguments_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {"queries": QUERIES} | options
    with pytest.raises(error, match=message):
        make_index().search(arguments.pop("queries"), **arguments)


@pytest.mark.parametrize("radius", [float("nan"), float("inf"), "1", True, None])
def test_a_radius_that_is_no_number_is_refused(radius: Any) -> None:
    with pytest.raises(ConfigError, match="radius must be a finite number"):
        make_index().range_search(QUERIES, radius=radius)


def test_bad_kinds_and_codecs_are_refused() -> None:
    with pytest.raises(ConfigError, match='factory must be "Flat", "FastScan" or "IVF<lists>"'):
        AsymmetricIndex(CODEC, factory="HNSW4")
    with pytest.raises(ConfigError, match="metric must be one of"):
        AsymmetricIndex(CODEC, metric="hamming")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="need a codec with n_dims_, query_weights and side"):
        AsymmetricIndex(StubCodec(8))  # type: ignore[arg-type]
    unfitted = ScoringStub(8)
    unfitted.n_bits_ = None  # type: ignore[assignment]
    with pytest.raises(NotFittedError, match="call fit first"):
        AsymmetricIndex(unfitted)


def test_a_pad_bit_before_the_side_bytes_is_refused() -> None:
    row = CODEC.encode(QUERIES[:1])
    row[0, 8] |= 0b1000
    with pytest.raises(ValueRangeError, match="the 5 high bits of their last byte 0"):
        make_index().add_packed(row)
    full_side = CODEC.encode(QUERIES[:1])
    full_side[0, 9:] = 0x3B
    assert len(make_index().add_packed(full_side)) == 1


def test_another_codec_or_kind_of_index_is_refused(tmp_path: Path) -> None:
    index = make_index()
    index.save(tmp_path / "asymmetric")
    with pytest.raises(MismatchError, match="was made with codec"):
        AsymmetricIndex.load(tmp_path / "asymmetric", ScoringStub(N_BITS, side_bytes=2, seed=3))
    with pytest.raises(MismatchError, match="in rows of 11 bytes, got a codec with 67 in 9"):
        AsymmetricIndex.load(tmp_path / "asymmetric", ScoringStub(N_BITS))
    with pytest.raises(FormatError, match=r"load it with AsymmetricIndex\.load"):
        HammingIndex.load(tmp_path / "asymmetric", CODEC)
    HammingIndex(CODEC).save(tmp_path / "hamming")
    with pytest.raises(FormatError, match=r"load it with HammingIndex\.load"):
        AsymmetricIndex.load(tmp_path / "hamming", CODEC)


@pytest.mark.parametrize("factory", FACTORIES)
def test_threads_are_restored_and_change_nothing(factory: str) -> None:
    before = faiss.omp_get_max_threads()
    index = make_index(factory)
    hits = [index.search(QUERIES, k=5, n_threads=n).ids.tolist() for n in (1, 2, 3)]
    assert hits[0] == hits[1] == hits[2]
    with pytest.raises(ValueRangeError, match="NaN"):
        index.search(np.full((1, 16), np.nan), n_threads=3)
    assert faiss.omp_get_max_threads() == before


def test_a_changed_codec_is_noticed() -> None:
    codec = ScoringStub(N_BITS)
    index = make_index(codec=codec)
    codec.fingerprint_ = "0" * 64
    with pytest.raises(MismatchError, match="has since become 000000000000"):
        index.search(QUERIES)


@pytest.mark.parametrize("factory", ["Flat", "FastScan"])
def test_no_queries_give_no_hits(factory: str) -> None:
    index = make_index(factory=factory)
    none = np.empty((0, index.codec.n_dims_), np.float32)  # type: ignore[attr-defined]
    assert index.search(none, k=3).ids.shape == (0, 3)
    found = index.range_search(none, radius=1.0)
    assert (found.limits.tolist(), len(found.ids)) == ([0], 0)
