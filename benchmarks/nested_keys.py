"""The first bits of a transform code as a short Hamming key, beside lists of near rows.

A transform code is nested: its bits come in the order in which they take error away, so its first
bits are a code themselves. Keys pick candidates among MiniLM embeddings of passages and documents,
and what counts is how many of the ten rows that score best by the whole codes are among them.

    python -m benchmarks.nested_keys --data FOLDER --packages FOLDER --cache FOLDER
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from benchmarks.passages import read_passages
from benchmarks.results_file import save_results
from benchmarks.retrieval_data import EmbeddingCache, load_sets, make_minilm
from bitcodec import BitCodec
from bitcodec.bits import pack, unpack

N_BITS, K, SEED = 1552, 10, 0
N_QUERIES = 100
"""Of each set, at most."""
N_FITTED = 30_000
CANDIDATES = (100, 400, 1000, 4000)
LENGTHS = (64, 128, 256, 512)
LISTS, PROBES = 256, (4, 16, 32)


def main() -> int:
    """Write benchmarks/results/nested_keys.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "packages", "cache"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="as of the retrieval")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    rows, queries = load(arguments)
    train = rows[np.random.default_rng(SEED).permutation(len(rows))[:N_FITTED]]
    codec = BitCodec.preset("search", n_bits=N_BITS, seed=SEED).fit(train)
    packed, asked = codec.encode(rows, refine="none"), codec.encode(queries, refine="none")
    exact = np.argsort(-(queries @ codec.decode(packed).T), axis=1)[:, :K]
    bits, asked_bits = (unpack(some[:, : N_BITS // 8], n_bits=N_BITS) for some in (packed, asked))
    results: dict[str, Any] = {"n_rows": len(rows), "n_queries": len(queries), "n_bits": N_BITS}
    results["keys"] = {
        name: {
            "bytes_scanned": len(chosen) / 8,
            "recall": among(exact, ranked(bits[:, chosen], asked_bits[:, chosen])),
        }
        for name, chosen in keys(codec).items()
    }
    signs, asked_signs = rows >= train.mean(axis=0), queries >= train.mean(axis=0)
    results["keys"]["centred signs of the floats"] = {
        "bytes_scanned": rows.shape[1] / 8,
        "recall": among(exact, ranked(signs, asked_signs)),
    }
    results["lists of floats"] = probe(rows, train, queries, exact)
    print(save_results("nested_keys", results), results)
    return 0


def load(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Return passages and all sets' documents, (n, 384), and queries of the sets."""
    cache = EmbeddingCache(arguments.cache, "minilm", make_minilm)
    sets = load_sets(arguments.data, cache)
    passages = read_passages(arguments.packages, n_passages=12_000)
    parts = [cache.embed(f"passages.{name}", texts) for name, texts in passages.items()]
    rows = np.concatenate([*parts, *(judged.documents for judged in sets)])
    return rows, np.concatenate([judged.queries[:N_QUERIES] for judged in sets])


def keys(codec: BitCodec) -> dict[str, np.ndarray]:
    """Return the bits of every key: the first ones, and the largest digits of components."""
    first_digits = np.flatnonzero(codec._model.stages.numpy() == 0)
    whole = len(first_digits) // 8 * 8
    prefixes = {f"first {n} bits": np.arange(n) for n in (*LENGTHS, N_BITS)}
    digits = {f"largest digits of {n} components": first_digits[:n] for n in (64, 128, 256, whole)}
    return prefixes | digits


def ranked(codes: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return the rows nearest by Hamming distance, (q, most candidates)."""
    index = faiss.IndexBinaryFlat(codes.shape[1])
    index.add(pack(codes))
    found: np.ndarray = index.search(pack(asked), max(CANDIDATES))[1]
    return found


def among(exact: np.ndarray, candidates: np.ndarray) -> dict[str, float]:
    """Return the share of the exact rows among the first candidates, by their number."""
    return {
        str(n): float(
            np.mean([np.isin(e, c[:n]).mean() for e, c in zip(exact, candidates, strict=True)])
        )
        for n in CANDIDATES
    }


def probe(
    rows: np.ndarray, train: np.ndarray, queries: np.ndarray, exact: np.ndarray
) -> dict[str, dict[str, float]]:
    """Return the share of rows in the lists nearest to a query, and of the exact rows in them."""
    clusters = faiss.Kmeans(rows.shape[1], LISTS, niter=5, seed=SEED, spherical=True)
    clusters.train(train)
    owners = clusters.index.search(rows, 1)[1][:, 0]
    centroids: Any = clusters.centroids
    order = np.argsort(-(queries @ centroids.T), axis=1)

    def shares(n_lists: int) -> Iterator[tuple[float, float]]:
        for wanted, lists in zip(exact, order, strict=True):
            probed = np.isin(owners, lists[:n_lists])
            yield float(probed.mean()), float(probed[wanted].mean())

    figures = {n: np.mean(list(shares(n)), axis=0) for n in PROBES}
    return {
        f"{n} of {LISTS}": {"rows_scanned": float(scanned), "recall": float(held)}
        for n, (scanned, held) in figures.items()
    }


if __name__ == "__main__":
    sys.exit(main())
