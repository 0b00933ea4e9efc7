"""Codecs and indexes go to workers by what they save, under every way of starting a process."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import pickletools
from typing import Any

import numpy as np
import pytest

from bitcodec import BitCodec
from bitcodec.errors import ConfigError, FormatError
from bitcodec_faiss import AsymmetricIndex, HammingIndex


def work(task: tuple[BitCodec, HammingIndex, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Encode and search in a worker."""
    codec, index, rows = task
    return codec.encode(rows), index.search(rows, k=3).ids


def test_a_spawned_worker_encodes_and_searches_as_its_parent_does(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    index = HammingIndex(codec)
    index.add(hidden[:500])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        packed, ids = pool.apply(work, ((codec, index, hidden[:20]),))
    np.testing.assert_array_equal(packed, codec.encode(hidden[:20]))
    np.testing.assert_array_equal(ids, index.search(hidden[:20], k=3).ids)


def test_a_forked_worker_encodes_and_searches_as_its_parent_does(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    index = HammingIndex(codec)
    index.add(hidden[:500])
    # OpenMP's threads do not survive a fork: a forked worker must compute with one.
    with multiprocessing.get_context("fork").Pool(1, initializer=one_thread) as pool:
        packed, ids = pool.apply_async(work, ((codec, index, hidden[:20]),)).get(timeout=120)
    np.testing.assert_array_equal(packed, codec.encode(hidden[:20]))
    np.testing.assert_array_equal(ids, index.search(hidden[:20], k=3).ids)


def one_thread() -> None:
    import faiss
    import torch

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


def test_a_pickled_codec_is_the_codec(codec: BitCodec, hidden: np.ndarray) -> None:
    taken = pickle.loads(pickle.dumps(codec))
    assert taken.fingerprint_ == codec.fingerprint_
    assert taken.get_params() == codec.get_params()
    assert taken.history_ == codec.history_
    np.testing.assert_array_equal(taken.encode(hidden), codec.encode(hidden))
    assert copy.deepcopy(codec).fingerprint_ == codec.fingerprint_


def test_a_codec_that_was_not_fitted_keeps_its_parameters() -> None:
    taken = pickle.loads(pickle.dumps(BitCodec(n_bits=5, seed=3)))
    assert taken.get_params() == BitCodec(n_bits=5, seed=3).get_params()


def test_a_pickled_codec_names_no_class_but_its_own(codec: BitCodec) -> None:
    opcodes = pickletools.genops(pickle.dumps(codec, protocol=2))
    named = {str(argument) for code, argument, _ in opcodes if code.name == "GLOBAL"}
    # Protocol 2 writes bytes as text, which `_codecs encode` turns back.
    assert {name for name in named if not name.startswith("_codecs ")} == {
        "bitcodec.codec BitCodec"
    }


@pytest.mark.parametrize("factory", ["Flat", "IVF4", "HNSW8"])
def test_a_pickled_index_is_the_index(codec: BitCodec, hidden: np.ndarray, factory: str) -> None:
    index = HammingIndex(codec, factory=factory)
    index.add(hidden[:500], ids=np.arange(500)[::-1])
    taken = pickle.loads(pickle.dumps(index))
    np.testing.assert_array_equal(taken.ids, index.ids)
    np.testing.assert_array_equal(
        taken.search(hidden[:50], k=5).ids, index.search(hidden[:50], k=5).ids
    )
    taken.add(hidden[500:510])
    assert (len(taken), len(index)) == (510, 500)


def test_a_pickled_asymmetric_index_keeps_its_metric(codec: BitCodec, hidden: np.ndarray) -> None:
    index = AsymmetricIndex(codec, factory="FastScan", metric="l2")
    index.add(hidden[:500])
    taken = pickle.loads(pickle.dumps(index))
    assert (taken.metric, taken.factory) == ("l2", "FastScan")
    np.testing.assert_allclose(
        taken.search(hidden[:9], k=5).scores, index.search(hidden[:9], k=5).scores
    )


def test_an_index_that_was_mapped_stays_unchangeable(
    codec: BitCodec, hidden: np.ndarray, tmp_path: Any
) -> None:
    index = HammingIndex(codec)
    index.add(hidden[:50])
    index.save(tmp_path / "index")
    taken = pickle.loads(pickle.dumps(HammingIndex.load(tmp_path / "index", codec, mmap=True)))
    with pytest.raises(ConfigError, match="an index loaded with mmap=True cannot be changed"):
        taken.add(hidden[50:60])


def test_a_damaged_state_is_refused(codec: BitCodec) -> None:
    state = codec.__getstate__()
    state["files"]["model.safetensors"] = state["files"]["model.safetensors"][:-1] + b"\xff"
    with pytest.raises(FormatError, match="is damaged"):
        BitCodec().__setstate__(state)
