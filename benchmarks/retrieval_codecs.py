"""bitcodec's own rows of the retrieval benchmark."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.retrieval_methods import Build, Fit, Searchable
from bitcodec import BitCodec
from bitcodec.similarity import Metric
from bitcodec_faiss import AsymmetricIndex, HammingIndex

SIDE_BYTES = {"inner_product": 2, "l2": 4}
"""Bytes of a row beside its bits: the factor, and for distances the length too."""
OVERSAMPLE = 10
"""Hamming candidates for each wanted hit that is rescored."""


def byte_budgets(n_dims: int) -> tuple[int, int, int]:
    """Return the bytes a vector may take at about 32, 16 and 8 times less than float32.

    >>> byte_budgets(384)
    (52, 100, 196)
    """
    return n_dims // 8 + 4, n_dims // 4 + 4, n_dims // 2 + 4


def make_codecs(n_dims: int, *, metric: Metric = "inner_product") -> dict[str, Fit]:
    """Return the codecs to be measured, by name, those for float queries scored by a metric."""
    search = {
        f"bitcodec search {size} B": fit_search(size, metric) for size in byte_budgets(n_dims)
    }
    return {"bitcodec hamming": fit_hamming, **search}


def fit_hamming(train: np.ndarray, seed: int) -> dict[str, Build]:
    """Fit codes that are compared by Hamming distance, a bit a dimension."""
    codec = BitCodec.preset("hamming", n_bits=train.shape[1], seed=seed).fit(train)
    return {"bitcodec hamming": lambda documents: by_hamming(codec, documents)}


def fit_search(n_bytes: int, metric: Metric) -> Fit:
    """Return the fit of the search preset at a size of its rows."""
    name, side_bytes = f"bitcodec search {n_bytes} B", SIDE_BYTES[metric]

    def fit(train: np.ndarray, seed: int) -> dict[str, Build]:
        n_bits = 8 * (n_bytes - side_bytes)
        settings = {"n_bits": n_bits, "side_bytes": side_bytes, "seed": seed}
        codec = BitCodec.preset("search", **settings).fit(train)
        return {
            name: lambda documents: by_score(codec, documents, metric),
            f"{name}, recentred": lambda rows: by_score(codec.recenter(rows), rows, metric),
            f"{name}, Hamming candidates": lambda documents: rescored(codec, documents, metric),
        }

    return fit


def by_hamming(codec: BitCodec, documents: np.ndarray) -> Searchable:
    """Keep codes that are searched by Hamming distance."""
    index = HammingIndex(codec)
    index.add(documents)

    def search(queries: np.ndarray, k: int) -> np.ndarray:
        ids: np.ndarray = index.search(queries, k=k).ids
        return ids

    return Searchable(search, float(codec.row_bytes_), shared_bytes(codec))


def by_score(codec: BitCodec, documents: np.ndarray, metric: Metric) -> Searchable:
    """Keep codes that are scored against float queries, all of them."""
    index = AsymmetricIndex(codec, metric=metric)
    index.add(documents)

    def search(queries: np.ndarray, k: int) -> np.ndarray:
        ids: np.ndarray = index.search(queries, k=k).ids
        return ids

    return Searchable(search, float(codec.row_bytes_), shared_bytes(codec))


def rescored(codec: BitCodec, documents: np.ndarray, metric: Metric) -> Searchable:
    """Keep codes of which Hamming distance picks those that are scored against float queries."""
    index = HammingIndex(codec)
    index.add(documents)

    def search(queries: np.ndarray, k: int) -> np.ndarray:
        ids: np.ndarray = index.search(
            queries, k=k, rescore="asymmetric", metric=metric, oversample=OVERSAMPLE
        ).ids
        return ids

    every = by_score(codec, documents, metric)
    return Searchable(search, every.bytes_per_vector, every.shared_bytes, every.search)


def shared_bytes(codec: BitCodec) -> int:
    """Return the size of a saved codec."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "codec"
        codec.save(folder)
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
