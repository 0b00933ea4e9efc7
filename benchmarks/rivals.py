"""The quantisers that bitcodec is measured against, most of them FAISS's.

All but the rows `sign` see vectors less the mean of the training rows. Where scores are inner
products that adds the same to every document's score: it changes what is rounded, not the order
that is sought; where they are distances, queries are shifted as well. Before Hamming distance it is
a choice, so `sign` stands beside `centred sign`.
Rows "recentred" were learned the same way but keep documents less the documents' own mean.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import faiss
import numpy as np

from benchmarks.retrieval_methods import Build, Fit, Search, Searchable
from bitcodec.bits import pack, unpack
from bitcodec.similarity import Metric

METRICS = {"inner_product": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}
FLOAT_BYTES = 4
OPQ_ROWS = 16_384
"""Training rows that OPQ's rotation is learned from; its product quantiser takes all."""
OPQ_ROUNDS = 20
"""Alternations of OPQ, of which FAISS does 50: R@10 on SciFact was 0.713 with either."""
ITQ_ROWS_PER_DIMENSION = 32
"""Training rows that ITQ's rotation is learned from, by dimension."""
QUERY_BITS = 8
"""Precision of RaBitQ's queries; R@10 on SciFact was 0.689, as with floats, 0.684 with 4."""
OVERSAMPLE = 4
"""Hamming candidates for each wanted hit of rescored signs."""


def make_rivals(
    n_dims: int, *, slow: bool = False, metric: Metric = "inner_product"
) -> dict[str, Fit]:
    """Return the rivals, by name.

    Args:
        n_dims: width of the embeddings, divisible by 8.
        slow: whether OPQ with a byte for 4 dimensions is one; it learns for minutes a set.
        metric: what FAISS's indexes score by. Rows of length 1 have the same neighbours by both,
            until they are rounded.
    """
    kind = METRICS[metric]
    scalar = {
        name: faiss_fit(name, partial(factory, n_dims, key, kind), recentred=name in RECENTRED)
        for name, key in SCALAR_QUANTISERS.items()
    }
    products = {
        f"OPQ{m},PQ{m}x8": faiss_fit(
            f"OPQ{m},PQ{m}x8", partial(make_opq, n_dims, m, kind), recentred=m == n_dims // 8
        )
        for m in ((n_dims // 8, n_dims // 4) if slow else (n_dims // 8,))
    }
    return {"float": fit_floats, "sign": fit_signs, "binary": fit_rotations, **scalar, **products}


SCALAR_QUANTISERS = {
    "RaBitQ1": "RR,RaBitQ",
    "RaBitQ2": "RR,RaBitQ2",
    "RaBitQ4": "RR,RaBitQ4",
    "EDEN1": "RR,EDEN1",
    "EDEN2": "RR,EDEN2",
    "EDEN4": "RR,EDEN4",
    "TurboQuant2": "RR,SQtq2",
    "TurboQuant4": "RR,SQtq4",
    "SQ4": "SQ4",
    "SQ8": "SQ8",
}
"""By name, FAISS's description; RR is the random rotation that the methods' papers ask for."""
RECENTRED = ("RaBitQ1", "EDEN1")
"""Those of them that have a recentred row."""


def factory(n_dims: int, description: str, metric: int = faiss.METRIC_INNER_PRODUCT) -> Any:
    """Return an untrained FAISS index, its queries good to 8 bits."""
    index: Any = faiss.index_factory(n_dims, description, metric)
    if "RaBitQ" in description:
        inner: Any = faiss.downcast_index(index.index)
        inner.qb = QUERY_BITS
    return index


def make_opq(n_dims: int, n_parts: int, metric: int = faiss.METRIC_INNER_PRODUCT) -> Any:
    """Return an untrained product quantiser of 8 bits a part behind a learned rotation."""
    rotation = faiss.OPQMatrix(n_dims, n_parts)
    rotation.max_train_points, rotation.niter = OPQ_ROWS, OPQ_ROUNDS
    return faiss.IndexPreTransform(rotation, faiss.IndexPQ(n_dims, n_parts, 8, metric))


def faiss_fit(name: str, make_index: Callable[[], Any], *, recentred: bool) -> Fit:
    """Return the fit of a FAISS index.

    Args:
        name: of the method.
        make_index: gives the untrained index.
        recentred: whether documents less their own mean are a second method.
    """

    def fit(train: np.ndarray, seed: int) -> dict[str, Build]:
        del seed
        mean, index = train.mean(axis=0), make_index()
        index.train(train - mean)
        trained = faiss.serialize_index(index)
        builds: dict[str, Build] = {name: lambda rows: _fill(trained, rows, mean)}
        if recentred:
            builds[f"{name}, recentred"] = lambda rows: _fill(trained, rows, rows.mean(axis=0))
        return builds

    return fit


def _fill(trained: np.ndarray, documents: np.ndarray, mean: np.ndarray) -> Searchable:
    index = faiss.deserialize_index(trained)
    index.add(documents - mean)
    shared = len(trained) + FLOAT_BYTES * len(mean)
    # Distances want queries less the mean as well; of inner products it changes no order.
    shift = mean if index.metric_type == faiss.METRIC_L2 else np.zeros_like(mean)
    return Searchable(_found_by(index, shift), float(index.sa_code_size()), shared)


def _found_by(index: Any, shift: np.ndarray | float = 0) -> Search:
    def search(queries: np.ndarray, k: int) -> np.ndarray:
        found: np.ndarray = index.search(queries - shift, k)[1]
        return found

    return search


def fit_floats(train: np.ndarray, seed: int) -> dict[str, Build]:
    """Return the floats themselves."""
    del train, seed

    def build(documents: np.ndarray) -> Searchable:
        index = faiss.IndexFlatIP(documents.shape[1])
        index.add(documents)
        return Searchable(_found_by(index), float(FLOAT_BYTES * documents.shape[1]))

    return {"float": build}


def fit_signs(train: np.ndarray, seed: int) -> dict[str, Build]:
    """Return signs as they are and less the training rows' mean.

    `sign, rescored` is the binary quantisation of sentence-transformers: Hamming candidates,
    rescored by the float query's inner product with the signs.
    """
    del seed
    mean = train.mean(axis=0)

    def centre(rows: np.ndarray) -> np.ndarray:
        centred: np.ndarray = rows - mean
        return centred

    shared = FLOAT_BYTES * len(mean)
    return {
        "sign": lambda rows: keep_signs(rows, np.asarray),
        "sign, rescored": keep_rescored,
        "centred sign": lambda rows: keep_signs(rows, centre, shared),
        "centred sign, float query": lambda rows: keep_scored(rows, centre, shared),
    }


def fit_rotations(train: np.ndarray, seed: int) -> dict[str, Build]:
    """Return signs after a rotation: random hyperplanes (LSH) and ITQ, both centred."""
    n_dims, mean = train.shape[1], train.mean(axis=0)
    planes, learned = faiss.RandomRotationMatrix(n_dims, n_dims), faiss.ITQTransform(n_dims, n_dims)
    planes.init(seed)
    learned.max_train_per_dim = ITQ_ROWS_PER_DIMENSION
    learned.train(train)  # it centres by itself
    shared = FLOAT_BYTES * n_dims * (n_dims + 1)
    return {
        "LSH": lambda rows: keep_signs(rows, lambda x: planes.apply(x - mean), shared),
        "ITQ": lambda rows: keep_signs(rows, learned.apply, shared),
    }


Transform = Callable[[np.ndarray], np.ndarray]


def keep_signs(documents: np.ndarray, transform: Transform, shared: int = 0) -> Searchable:
    """Keep the signs of transformed documents, searched by Hamming distance."""
    codes = pack(transform(documents) >= 0)
    hamming = _hamming_index(codes)

    def search(queries: np.ndarray, k: int) -> np.ndarray:
        return hamming(pack(transform(queries) >= 0), k)

    return Searchable(search, float(codes.shape[1]), shared)


def keep_scored(documents: np.ndarray, transform: Transform, shared: int = 0) -> Searchable:
    """Keep the signs of transformed documents, searched by inner product with float queries."""
    codes = pack(transform(documents) >= 0)
    return Searchable(_found_by(sign_index(codes)), float(codes.shape[1]), shared)


def keep_rescored(documents: np.ndarray) -> Searchable:
    """Keep signs, searched by Hamming distance and rescored with float queries."""
    codes = pack(documents >= 0)
    hamming, n_dims = _hamming_index(codes), documents.shape[1]

    def search(queries: np.ndarray, k: int) -> np.ndarray:
        candidates = hamming(pack(queries >= 0), min(OVERSAMPLE * k, len(codes)))
        rows = []
        for query, places in zip(queries, candidates, strict=True):
            bits = unpack(
                codes[places], n_bits=n_dims
            )  # a bit stands for a sign: the order is the same
            rows.append(places[np.argsort(-(bits @ query), kind="stable")[:k]])
        return np.stack(rows)

    exhaustive = _found_by(sign_index(codes))
    return Searchable(search, float(codes.shape[1]), exhaustive=exhaustive)


def _hamming_index(codes: np.ndarray) -> Search:
    index = faiss.IndexBinaryFlat(8 * codes.shape[1])
    index.add(codes)
    return _found_by(index)


def sign_index(codes: np.ndarray) -> Any:
    """Return a FAISS index that scores signs by inner product with float queries.

    A product quantiser whose 256 centroids of a byte are the byte's signs.

    Args:
        codes: (n, d / 8) uint8, packed signs.
    """
    n_bytes = codes.shape[1]
    index = faiss.IndexPQ(8 * n_bytes, n_bytes, 8, faiss.METRIC_INNER_PRODUCT)
    signs = 2 * unpack(np.arange(256, dtype=np.uint8)[:, None], n_bits=8).astype(np.float32) - 1
    faiss.copy_array_to_vector(np.tile(signs.ravel(), n_bytes), index.pq.centroids)
    index.is_trained = True
    index.add_sa_codes(codes)
    return index
