"""HammingIndex over a fitted BitCodec and the hidden states of a real model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitcodec import BitCodec
from bitcodec.errors import MismatchError, NotFittedError, ShapeError, ValueRangeError
from bitcodec_faiss import HammingIndex
from tests.test_faiss_oracle import assert_truthful, distances, nearest

KINDS = ["Flat", "IVF8", "HNSW16"]


@pytest.fixture(scope="module")
def states(hidden: np.ndarray) -> np.ndarray:
    return np.asarray(hidden[:1500], dtype=np.float32)


@pytest.fixture(scope="module")
def codec(states: np.ndarray) -> BitCodec:
    return BitCodec(n_bits=60, seed=0, n_steps=50, batch_size=64).fit(states)


@pytest.mark.parametrize("factory", KINDS)
def test_searching_hidden_states_equals_brute_force_on_their_codes(
    factory: str, codec: BitCodec, states: np.ndarray
) -> None:
    index = HammingIndex(codec, factory=factory)
    index.add(states[:-50])
    packed, queries = codec.encode(states[:-50]), codec.encode(states[-50:])
    ids = np.arange(len(packed))
    found = index.search(states[-50:], k=10)
    assert_truthful(found, queries, packed, ids)
    scores, wanted = nearest(queries, packed, ids, k=10)
    if factory == "Flat":
        np.testing.assert_array_equal(found.ids, wanted)
    else:
        assert (found.scores <= scores[:, -1:]).mean() > 0.8


def test_hamming_neighbours_are_nearer_than_chance(codec: BitCodec, states: np.ndarray) -> None:
    index = HammingIndex(codec)
    index.add(states[:-50])
    found = index.search(states[-50:], k=10).ids
    square = np.square(states[-50:, None] - states[found]).sum(axis=-1)
    random = np.square(states[-50:, None] - states[None, :500]).sum(axis=-1)
    assert np.median(square) < 0.8 * np.median(random)


def test_a_file_of_hidden_states_is_indexed_as_a_stream(
    codec: BitCodec, states: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "hidden.npy", states)
    from_file, from_array = HammingIndex(codec), HammingIndex(codec)
    from_file.add(tmp_path / "hidden.npy")
    from_array.add(states)
    ids = from_array.ids
    assert from_file.ids.tolist() == ids.tolist()
    np.testing.assert_array_equal(
        from_file.reconstruct_packed(ids), from_array.reconstruct_packed(ids)
    )


def test_reconstruction_is_the_codecs_own(codec: BitCodec, states: np.ndarray) -> None:
    index = HammingIndex(codec)
    ids = index.add(states[:20])
    expected = codec.decode(codec.encode(states[:20]))
    np.testing.assert_allclose(index.reconstruct(ids[::-1]), expected[::-1], rtol=1e-5, atol=1e-5)


def test_one_hidden_state_gives_one_row_of_hits(codec: BitCodec, states: np.ndarray) -> None:
    index = HammingIndex(codec)
    index.add(states)
    found = index.search(states[7], k=3)
    assert found.ids.shape == (3,)
    packed = codec.encode(states)
    assert found.scores.tolist() == sorted(distances(packed[7:8], packed)[0])[:3]


def test_an_index_survives_saving_and_refuses_another_codec(
    codec: BitCodec, states: np.ndarray, tmp_path: Path
) -> None:
    index = HammingIndex(codec, factory="IVF8")
    index.add(states)
    index.save(tmp_path / "index")
    codec.save(tmp_path / "codec")
    loaded = HammingIndex.load(tmp_path / "index", BitCodec.load(tmp_path / "codec"), mmap=True)
    np.testing.assert_array_equal(
        loaded.search(states[:9], k=4).ids, index.search(states[:9], k=4).ids
    )
    other = BitCodec(n_bits=60, seed=1, n_steps=5, batch_size=64).fit(states)
    with pytest.raises(MismatchError, match="was made with codec"):
        HammingIndex.load(tmp_path / "index", other)


def test_an_unfitted_codec_is_refused() -> None:
    with pytest.raises(NotFittedError, match="fit"):
        HammingIndex(BitCodec(n_bits=60))


def test_bad_hidden_states_are_refused_and_nothing_is_added(
    codec: BitCodec, states: np.ndarray
) -> None:
    index = HammingIndex(codec)
    index.add(states[:5])
    with pytest.raises(ShapeError, match="576"):
        index.add(states[:, :500])
    with pytest.raises(ShapeError, match="576"):
        index.search(states[:3, :500])
    broken = states[:300].copy()
    broken[299, 3] = np.nan
    with pytest.raises(ValueRangeError, match="299"):
        index.add(broken)
    assert len(index) == 5
