"""HammingIndex: nearest neighbours and ranges against brute force."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcodec.errors import ConfigError, NotFittedError, ShapeError, ValueRangeError
from bitcodec_faiss import HammingIndex, RangeResult
from tests.test_faiss_oracle import (
    StubCodec,
    assert_truthful,
    nearest,
    random_packed,
    within,
)

KINDS = ["Flat", "IVF4", "HNSW8"]
WIDE: dict[str, dict[str, int]] = {"Flat": {}, "IVF4": {"nprobe": 4}, "HNSW8": {"ef_search": 500}}


def make_index(
    factory: str, n_rows: int = 300, n_bits: int = 20
) -> tuple[HammingIndex, np.ndarray, np.ndarray]:
    """Index random rows under shuffled ids that do not ascend."""
    index = HammingIndex(StubCodec(n_bits), factory=factory)
    packed = random_packed(n_rows, n_bits, seed=1)
    ids = np.random.default_rng(2).permutation(10 * n_rows)[:n_rows]
    index.add_packed(packed, ids=ids)
    return index, packed, ids


def as_pairs(found: RangeResult) -> list[list[tuple[int, int]]]:
    pairs = list(zip(found.scores.tolist(), found.ids.tolist(), strict=True))
    return [pairs[a:b] for a, b in zip(found.limits[:-1], found.limits[1:], strict=True)]


@settings(deadline=None, max_examples=60)
@given(
    n_bits=st.integers(1, 33),
    n_rows=st.sampled_from([1, 7, 8, 9, 70]),
    k=st.integers(1, 12),
    activity=st.sampled_from([0.02, 0.5]),
    ascending=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_flat_search_equals_brute_force_with_every_tie_broken_by_id(
    n_bits: int, n_rows: int, k: int, activity: float, ascending: bool, seed: int
) -> None:
    packed = random_packed(n_rows, n_bits, seed=seed, activity=activity)
    ids = np.random.default_rng(seed).permutation(3 * n_rows)[:n_rows]
    if ascending:
        ids.sort()
    queries = random_packed(8, n_bits, seed=seed + 1, activity=activity)
    index = HammingIndex(StubCodec(n_bits))
    index.add_packed(packed, ids=ids)
    found = index.search_packed(queries, k=k)
    scores, wanted = nearest(queries, packed, ids, k=k)
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(found.ids, wanted)


@pytest.mark.parametrize("k", [1, 10, 299, 300, 301])
@pytest.mark.parametrize("factory", KINDS)
def test_every_kind_returns_as_many_true_distances_as_exist(factory: str, k: int) -> None:
    index, packed, ids = make_index(factory)
    queries = random_packed(12, 20, seed=3)
    assert_truthful(index.search_packed(queries, k=k), queries, packed, ids)


@pytest.mark.parametrize("factory", KINDS)
def test_every_kind_at_full_effort_finds_the_nearest_distances(factory: str) -> None:
    index, packed, ids = make_index(factory)
    queries = random_packed(40, 20, seed=3)
    found = index.search_packed(queries, k=10, **WIDE[factory])
    wanted = nearest(queries, packed, ids, k=10)[0]
    assert (found.scores == wanted).mean() > (0.97 if factory == "HNSW8" else 0.9999)


def test_a_larger_nprobe_finds_more() -> None:
    index, packed, ids = make_index("IVF4", n_bits=60)
    queries = random_packed(50, 60, seed=3)
    wanted = nearest(queries, packed, ids, k=5)[0]
    recalls = [
        (index.search_packed(queries, k=5, nprobe=n).scores == wanted).mean() for n in (1, 4)
    ]
    assert recalls[0] < 0.9 < recalls[1] == 1.0


def test_a_graph_that_reaches_too_few_allowed_rows_is_helped_by_a_scan() -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        index, packed = (
            HammingIndex(StubCodec(60), factory="HNSW8"),
            random_packed(92, 60, seed=seed, activity=0.05),
        )
        index.add_packed(packed)
        allowed = np.flatnonzero(rng.random(92) < 0.6)
        found = index.search_packed(packed[:5], k=len(allowed) - 1, filter=allowed)
        assert np.isin(found.ids, allowed).all()
        assert (found.scores >= 0).all()


def test_a_larger_ef_search_finds_more() -> None:
    index, packed, ids = make_index("HNSW2", n_rows=1000, n_bits=60)
    queries = random_packed(50, 60, seed=3)
    wanted = nearest(queries, packed, ids, k=5)[0]
    recalls = [
        (index.search_packed(queries, k=5, ef_search=n).scores == wanted).mean() for n in (1, 500)
    ]
    assert recalls[0] < recalls[1]


@pytest.mark.parametrize("radius", [0, 5, 8, 20, 10**12])
@pytest.mark.parametrize("factory", KINDS)
def test_a_range_includes_its_radius_and_equals_brute_force(factory: str, radius: int) -> None:
    index, packed, ids = make_index(factory)
    queries = np.concatenate([packed[:3], random_packed(4, 20, seed=3)])
    probe = {"nprobe": 4} if factory == "IVF4" else {}
    found = index.range_search_packed(queries, radius=radius, **probe)
    assert as_pairs(found) == within(queries, packed, ids, radius=radius)
    types = [found.limits.dtype.name, found.scores.dtype.name, found.ids.dtype.name]
    assert types == ["int64", "int32", "int64"]
    assert found.scored_by == "hamming"


def test_a_range_over_few_lists_is_a_part_of_the_whole() -> None:
    index, packed, ids = make_index("IVF4")
    queries = random_packed(5, 20, seed=3)
    some = as_pairs(index.range_search_packed(queries, radius=8, nprobe=1))
    whole = within(queries, packed, ids, radius=8)
    assert all(set(a) <= set(b) for a, b in zip(some, whole, strict=True))
    assert sum(map(len, some)) < sum(map(len, whole))


def test_hidden_states_are_encoded_before_they_are_added_and_searched() -> None:
    codec = StubCodec(64)
    hidden = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
    index = HammingIndex(codec)
    index.add(hidden[:20])
    index.add(hidden[i : i + 7] for i in range(20, 50, 7))
    assert index.search(hidden, k=1).ids[:, 0].tolist() == list(range(50))
    assert as_pairs(index.range_search(hidden[3:4], radius=0)) == [[(0, 3)]]


def test_results_keep_the_leading_axes_of_the_queries() -> None:
    index = HammingIndex(StubCodec(64))
    hidden = np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)
    index.add(hidden)
    assert index.search(hidden[2], k=3).ids.shape == (3,)
    nearest_ids = index.search(hidden.reshape(2, 3, 16), k=1).ids
    assert nearest_ids.tolist() == [[[0], [1], [2]], [[3], [4], [5]]]
    assert index.range_search(hidden[2], radius=0).ids.tolist() == [2]


def test_results_carry_the_promised_types_and_cannot_be_changed() -> None:
    found = make_index("Flat")[0].search_packed(random_packed(2, 20, seed=3), k=3)
    assert [found.scores.dtype.name, found.ids.dtype.name] == ["int32", "int64"]
    assert found.scored_by == "hamming"
    with pytest.raises(AttributeError, match="cannot assign"):
        found.scores = found.ids  # type: ignore[misc]


@pytest.mark.parametrize("factory", KINDS)
def test_no_queries_give_no_results(factory: str) -> None:
    index = make_index(factory)[0]
    none = np.empty((0, 3), dtype=np.uint8)
    assert index.search_packed(none, k=4).ids.shape == (0, 4)
    assert index.range_search_packed(none, radius=4).limits.tolist() == [0]


@pytest.mark.parametrize("k", [0, -1, 2.5, True, "3", None])
def test_k_must_be_a_positive_integer(k: Any) -> None:
    with pytest.raises(ConfigError, match="k must be an integer of at least 1"):
        make_index("Flat")[0].search_packed(random_packed(2, 20, seed=3), k=k)


@pytest.mark.parametrize("radius", [-1, 1.5, None])
def test_the_radius_must_be_a_whole_number_of_bits(radius: Any) -> None:
    with pytest.raises(ConfigError, match="radius must be an integer of at least 0"):
        make_index("Flat")[0].range_search_packed(random_packed(2, 20, seed=3), radius=radius)


@pytest.mark.parametrize("factory", KINDS)
def test_an_empty_index_refuses_to_search(factory: str) -> None:
    index = HammingIndex(StubCodec(20), factory=factory)
    with pytest.raises(ValueRangeError, match="the index is empty: add rows first"):
        index.search(np.zeros((1, 16)))
    with pytest.raises(ValueRangeError, match="the index is empty: add rows first"):
        index.range_search_packed(random_packed(1, 20, seed=0), radius=3)


def test_rows_of_another_width_type_or_rank_are_refused() -> None:
    index = make_index("Flat")[0]
    for wrong in (np.zeros((2, 4), np.uint8), np.zeros((2, 3), np.int64), np.uint8(3)):
        with pytest.raises(ShapeError, match=r"must be \(n, 3\) uint8, got .* codes of 20 bits"):
            index.search_packed(wrong)
    with pytest.raises(ShapeError, match="must be two-dimensional"):
        index.add_packed(np.zeros(3, np.uint8))


def test_a_set_pad_bit_is_refused_and_nothing_is_added() -> None:
    index = make_index("Flat")[0]
    rows = np.zeros((5, 3), np.uint8)
    rows[4, 2] = 0b0001_0000
    with pytest.raises(ValueRangeError, match="the 4 high bits of their last byte 0"):
        index.add_packed(rows)
    assert len(index) == 300


@pytest.mark.parametrize("factory", ["", "flat", "IVF", "IVF0", "HNSW1", "HNSW32_SQ8", "LSH", None])
def test_an_unknown_factory_is_refused(factory: Any) -> None:
    with pytest.raises(ConfigError, match="HNSW32"):
        HammingIndex(StubCodec(8), factory=factory)


def test_a_parameter_of_another_kind_names_its_kind() -> None:
    queries = random_packed(1, 20, seed=3)
    with pytest.raises(ConfigError, match="nprobe is a parameter of IVF, this index is Flat"):
        make_index("Flat")[0].search_packed(queries, nprobe=2)
    with pytest.raises(ConfigError, match="ef_search is a parameter of HNSW, this index is IVF"):
        make_index("IVF4")[0].search_packed(queries, ef_search=2)


def test_search_parameters_out_of_range_are_refused() -> None:
    queries = random_packed(1, 20, seed=3)
    with pytest.raises(ConfigError, match="nprobe must be at most the 4 lists, got 5"):
        make_index("IVF4")[0].search_packed(queries, nprobe=5)
    with pytest.raises(ConfigError, match="nprobe must be an integer of at least 1, got 0"):
        make_index("IVF4")[0].range_search_packed(queries, radius=3, nprobe=0)
    with pytest.raises(ConfigError, match="ef_search must be an integer of at least 1, got 0"):
        make_index("HNSW8")[0].search_packed(queries, ef_search=0)


def test_an_unfitted_codec_is_refused() -> None:
    codec = StubCodec(8)
    codec.n_bits_ = None  # type: ignore[assignment]
    with pytest.raises(NotFittedError, match="call fit first"):
        HammingIndex(codec)


def test_a_codec_whose_rows_are_too_short_for_its_bits_is_refused() -> None:
    codec = StubCodec(9)
    codec.row_bytes_ = 1
    with pytest.raises(ConfigError, match="rows of 9 bits must have at least 2 bytes"):
        HammingIndex(codec)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    yield
    faiss.omp_set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_the_thread_count_is_used_and_restored_even_after_an_error() -> None:
    index = make_index("Flat")[0]
    queries = random_packed(2, 20, seed=3)
    seen: list[int] = []
    original = index._rows.store.nearest

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append(faiss.omp_get_max_threads())
        return original(*args, **kwargs)

    index._rows.store.nearest = spy  # type: ignore[method-assign]
    index.search_packed(queries, n_threads=1)
    assert (seen, faiss.omp_get_max_threads()) == ([1], 2)
    with pytest.raises(ShapeError, match="filter"):
        index.search_packed(queries, n_threads=1, filter=np.array([True]))
    assert faiss.omp_get_max_threads() == 2
    with pytest.raises(ConfigError, match="n_threads must be an integer of at least 1, got 0"):
        index.search_packed(queries, n_threads=0)


def test_the_bytes_of_a_vector_count_codes_and_ids() -> None:
    index, packed, _ = make_index("Flat", n_rows=2000, n_bits=128)
    assert packed.shape[1] + 8 <= index.bytes_per_vector < packed.shape[1] + 8 + 0.1
    with pytest.raises(ValueRangeError, match="empty"):
        _ = HammingIndex(StubCodec(8)).bytes_per_vector


def test_importing_the_package_does_not_import_faiss() -> None:
    code = "import sys, bitcodec_faiss; sys.exit('faiss' in sys.modules)"
    path = [p for p in sys.path if p]
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {code}"], check=True
    )


def test_a_missing_faiss_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'bitcodec\[faiss\]'"):
        HammingIndex(StubCodec(8))


def test_an_old_faiss_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "__version__", "1.13.2")
    with pytest.raises(ImportError, match=r"faiss must be 1\.14\.2 or newer, got 1\.13\.2"):
        HammingIndex(StubCodec(8))
