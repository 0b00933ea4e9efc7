"""HammingIndex on codecs with side bytes, and candidates that are scored again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import pytest

from bitcodec.errors import ConfigError, FileError, FormatError, ShapeError, ValueRangeError
from bitcodec.similarity import METRICS, Metric
from bitcodec_faiss import MISSING_ID, HammingIndex
from tests.test_faiss_oracle import (
    ScoringStub,
    StubCodec,
    assert_truthful,
    highest_of,
    nearest,
    similarities,
    within,
)

KINDS = ["Flat", "IVF4", "HNSW8"]
N_BITS = 67
CODE_BYTES = 9
CODEC = ScoringStub(N_BITS, side_bytes=4)
HIDDEN = np.random.default_rng(1).normal(size=(300, 16)).astype(np.float32)
QUERIES = np.random.default_rng(9).normal(size=(6, 16)).astype(np.float32)


def make_index(
    factory: str = "Flat", *, codec: ScoringStub = CODEC
) -> tuple[HammingIndex, np.ndarray]:
    """Index 300 rows under shuffled ids below 400, in three parts; return the ids by row."""
    index = HammingIndex(codec, factory=factory)
    ids = np.random.default_rng(2).permutation(400)[:300]
    for rows in (slice(150), slice(150, 151), slice(151, 300)):
        index.add(HIDDEN[rows], ids=ids[rows])
    return index, ids


def by_id(ids: np.ndarray) -> np.ndarray:
    originals = np.zeros((400, 16), np.float32)
    originals[ids] = HIDDEN
    return originals


@pytest.mark.parametrize("factory", KINDS)
def test_distances_count_the_bits_alone(factory: str) -> None:
    index, ids = make_index(factory)
    packed, queries = CODEC.encode(HIDDEN), CODEC.encode(QUERIES)
    codes = packed[:, :CODE_BYTES]
    found = index.search_packed(queries, k=20)
    assert_truthful(found, queries[:, :CODE_BYTES], codes, ids)
    other_side = queries.copy()
    other_side[:, CODE_BYTES:] ^= 255
    np.testing.assert_array_equal(index.search_packed(other_side, k=20).ids, found.ids)
    near = index.range_search_packed(queries[:1], radius=25)
    if factory != "IVF4":
        expected = within(queries[:1, :CODE_BYTES], codes, ids, radius=25)[0]
        assert list(zip(near.scores, near.ids, strict=True)) == expected
    if factory == "Flat":
        expected_ids = nearest(queries[:, :CODE_BYTES], codes, ids, k=20)[1]
        np.testing.assert_array_equal(found.ids, expected_ids)


@pytest.mark.parametrize("side_bytes", [0, 2, 4])
@pytest.mark.parametrize("factory", KINDS)
def test_whole_rows_survive_adding_removing_saving_and_mapping(
    factory: str, side_bytes: int, tmp_path: Path
) -> None:
    codec = ScoringStub(N_BITS, side_bytes=side_bytes)
    index, ids = make_index(factory, codec=codec)
    packed = codec.encode(HIDDEN)
    if factory != "HNSW8":
        index.remove(ids[::4])
        index.add_packed(packed[::8], ids=ids[::8])
        kept = np.sort(np.concatenate([np.setdiff1d(np.arange(300), np.arange(0, 300, 4)),
                                       np.arange(0, 300, 8)]))  # fmt: skip
        ids, packed = ids[kept], packed[kept]
    order = np.random.default_rng(0).permutation(len(ids))
    index.save(tmp_path / "index")
    mapped = HammingIndex.load(tmp_path / "index", codec, mmap=True)
    loaded = HammingIndex.load(tmp_path / "index", codec)
    for each in (index, mapped, loaded):
        np.testing.assert_array_equal(each.reconstruct_packed(ids[order]), packed[order])
        np.testing.assert_allclose(each.reconstruct(ids[:5]), codec.decode(packed[:5]))
    names = {path.name for path in (tmp_path / "index").iterdir()}
    assert ("side.npy" in names) == (side_bytes > 0)
    added = loaded.add_packed(packed[:2])
    np.testing.assert_array_equal(loaded.reconstruct_packed(added), packed[:2])
    loaded.save(tmp_path / "index", overwrite=True)


def test_the_side_file_is_plain_and_is_counted(tmp_path: Path) -> None:
    index, ids = make_index()
    index.save(tmp_path / "index")
    side = np.load(tmp_path / "index" / "side.npy")
    np.testing.assert_array_equal(side, CODEC.encode(HIDDEN)[np.argsort(ids), CODE_BYTES:])
    content = json.loads((tmp_path / "index" / "index.json").read_text())
    assert content["side_file_bytes"] == (tmp_path / "index" / "side.npy").stat().st_size
    assert (content["format_version"], content["metric"]) == (3, "hamming")
    plain = HammingIndex(StubCodec(N_BITS))
    plain.add(HIDDEN)
    assert index.bytes_per_vector == plain.bytes_per_vector + 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "side.npy must have .* bytes, got"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "side.npy is damaged: its SHA-256"),
    ],
)
def test_a_damaged_side_file_is_refused(damage: Any, message: str, tmp_path: Path) -> None:
    make_index()[0].save(tmp_path / "index")
    path = tmp_path / "index" / "side.npy"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FormatError, match=message):
        HammingIndex.load(tmp_path / "index", CODEC)
    path.unlink()
    with pytest.raises(FileError, match=r"there is no file .*side\.npy"):
        HammingIndex.load(tmp_path / "index", CODEC)


def test_a_side_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    index, _ = make_index()
    index._rows.side.values.setflags(write=False)  # type: ignore[union-attr]
    index._rows.side._parts = [(np.arange(2), np.zeros((2, 4), np.uint8))]  # type: ignore[union-attr]
    index.save(tmp_path / "index")
    with pytest.raises(FormatError, match=r"must hold \(300, 4\) uint8 as index.json says"):
        HammingIndex.load(tmp_path / "index", CODEC)


def test_a_folder_of_format_version_1_still_loads(tmp_path: Path) -> None:
    codec = StubCodec(N_BITS)
    index = HammingIndex(codec)
    index.add(HIDDEN)
    index.save(tmp_path / "index")
    path = tmp_path / "index" / "index.json"
    content = json.loads(path.read_text()) | {"format_version": 1}
    for name in ("metric", "side_file_bytes", "side_sha256", "seal"):
        del content[name]
    path.write_text(json.dumps(content))
    loaded = HammingIndex.load(tmp_path / "index", codec)
    np.testing.assert_array_equal(loaded.search(QUERIES).ids, index.search(QUERIES).ids)


def rescored_by_hand(
    index: HammingIndex, vectors: np.ndarray, squares: np.ndarray, *, metric: str, k: int, m: int
) -> tuple[np.ndarray, np.ndarray]:
    """Take m Hamming candidates, score them in float64, keep k; vectors and |x|^2 are by id."""
    candidates = index.search(QUERIES, k=m).ids
    best, found = np.full((6, k), -np.inf), np.full((6, k), MISSING_ID)
    for row, own in enumerate(candidates):
        ids = own[own >= 0]
        scores = similarities(QUERIES[row : row + 1], vectors[ids], squares[ids], metric=metric)
        best[row], found[row] = (part[0] for part in highest_of(scores, ids, k=k))
    return (-best if metric == "l2" else best), found


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("by", ["asymmetric", "float"])
@pytest.mark.parametrize("factory", KINDS)
def test_rescored_candidates_equal_brute_force(
    factory: str, by: Literal["asymmetric", "float"], metric: Metric
) -> None:
    index, ids = make_index(factory)
    originals = by_id(ids)
    vectors, squares = originals, np.square(originals.astype(np.float64)).sum(axis=1)
    if by == "asymmetric":
        vectors, squares = np.zeros((400, 16)), np.ones(400)
        packed = CODEC.encode(HIDDEN)
        vectors[ids], squares[ids] = CODEC.decode(packed), CODEC.side(packed).squared_norm
    options: dict[str, Any] = {"originals": originals} if by == "float" else {}
    found = index.search(QUERIES, k=5, rescore=by, metric=metric, oversample=4, **options)
    scores, expected = rescored_by_hand(index, vectors, squares, metric=metric, k=5, m=20)
    assert (found.scored_by, found.metric) == (by, metric)
    np.testing.assert_array_equal(found.ids, expected)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4, atol=1e-5)


def test_rescoring_finds_more_true_neighbours() -> None:
    index, ids = make_index()
    truth = highest_of(QUERIES @ HIDDEN.T, ids, k=10)[1]
    recalls = []
    for options in ({}, {"rescore": "float", "originals": by_id(ids), "oversample": 30}):
        found = index.search(QUERIES, k=10, **options).ids  # type: ignore[arg-type]
        recalls.append(sum(len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True)))
    assert recalls[1] == 60 > recalls[0]


@pytest.mark.parametrize("kind", ["array", "memory map", "callable", "float16"])
def test_originals_may_be_an_array_a_mapped_file_or_a_callable(kind: str, tmp_path: Path) -> None:
    index, ids = make_index()
    originals = by_id(ids)
    np.save(tmp_path / "originals.npy", originals)
    given: Any = {
        "array": originals,
        "memory map": np.load(tmp_path / "originals.npy", mmap_mode="r"),
        "callable": lambda wanted: originals[wanted],
        "float16": originals.astype(np.float16),
    }[kind]
    found = index.search(QUERIES[0], k=4, rescore="float", originals=given)
    expected = index.search(QUERIES, k=4, rescore="float", originals=originals)
    assert found.ids.tolist() == expected.ids[0].tolist()


def test_rescoring_keeps_to_the_filter_and_pads() -> None:
    index, ids = make_index()
    found = index.search(QUERIES, k=5, filter=ids[:3], rescore="asymmetric", metric="l2")
    assert set(found.ids[:, :3].ravel()) == set(ids[:3])
    assert (found.ids[:, 3:] == MISSING_ID).all()
    assert np.isposinf(found.scores[:, 3:]).all()
    none = index.search(QUERIES, k=2, filter=[399_999], rescore="asymmetric")
    assert (none.ids == MISSING_ID).all()
    assert np.isneginf(none.scores).all()
    every = index.search(QUERIES, k=500, rescore="asymmetric")
    assert set(every.ids[0, :300]) == set(ids)


def test_equal_new_scores_come_in_the_order_of_ids() -> None:
    index = HammingIndex(CODEC)
    index.add(np.repeat(HIDDEN[:1], 30, axis=0), ids=np.random.default_rng(0).permutation(30))
    originals = np.repeat(HIDDEN[:1], 30, axis=0)
    for found in (
        index.search(QUERIES, k=3, rescore="asymmetric"),
        index.search(QUERIES, k=3, rescore="float", originals=originals),
    ):
        assert found.ids.tolist() == [[0, 1, 2]] * 6


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rescore": "exact"}, ConfigError, 'rescore must be None, "asymmetric" or "float"'),
        ({"metric": "l2"}, ConfigError, "metric must come with rescore="),
        ({"oversample": 3}, ConfigError, "oversample must come with rescore="),
        ({"rescore": "float"}, ConfigError, 'originals must come with rescore="float"'),
        ({"rescore": "asymmetric", "originals": HIDDEN}, ConfigError, "and with nothing else"),
        ({"rescore": "asymmetric", "metric": "l3"}, ConfigError, "metric must be one of"),
        ({"rescore": "asymmetric", "oversample": 0}, ConfigError, "oversample must be an integer"),
        ({"originals": HIDDEN[:9]}, ValueRangeError, "rows of ids 0 to 8, got a candidate of id"),
        ({"originals": HIDDEN[:, :9]}, ShapeError, r"\(n, 16\), one row an id, .* \(300, 9\)"),
        ({"originals": HIDDEN[0]}, ShapeError, r"an array of shape \(16,\)"),
        ({"originals": lambda ids: HIDDEN[:3]}, ShapeError, r"for \d+ ids, got \(3, 16\)"),
        ({"originals": np.full((400, 16), np.inf)}, ValueRangeError, "original of id 0 is not"),
        ({"queries": np.full((1, 16), np.nan), "rescore": "asymmetric"}, ValueRangeError, "NaN"),
    ],
)
def test_a_rescore_that_cannot_be_done_is_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {"queries": QUERIES} | options
    if list(options) == ["originals"]:
        arguments["rescore"] = "float"
    index = HammingIndex(CODEC)
    index.add(HIDDEN)
    before = faiss.omp_get_max_threads()
    with pytest.raises(error, match=message):
        index.search(arguments.pop("queries"), k=40, n_threads=2, **arguments)
    assert faiss.omp_get_max_threads() == before


def test_packed_queries_and_codecs_without_scores_cannot_be_rescored() -> None:
    index, _ = make_index()
    with pytest.raises(ConfigError, match="packed queries cannot be rescored"):
        index.search_packed(CODEC.encode(QUERIES), rescore="asymmetric")
    plain = HammingIndex(StubCodec(N_BITS))
    plain.add(HIDDEN)
    with pytest.raises(ConfigError, match="need a codec with n_dims_, query_weights and side"):
        plain.search(QUERIES, rescore="asymmetric")
    assert plain.search(QUERIES, rescore="float", originals=HIDDEN).scored_by == "float"
