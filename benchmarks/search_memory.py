"""Memory of search indexes, counted and as the process grows by it, and the machine's bandwidth.

Each index is built in a fresh process from codes mapped from a file, whose pages do not count. What
is resident grows by the index alone: a small one was built and searched before, so code is compiled
and libraries are loaded. Reads Linux's /proc.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from bitcodec import BitCodec
from bitcodec_faiss import AsymmetricIndex, HammingIndex
from bitcodec_faiss.backend import limit_threads

WARM_ROWS = 2048
BANDWIDTH_BYTES = 1 << 30
BANDWIDTH_REPEATS = 10


def bit_centroids(index: Any) -> None:
    """Make every sub-quantiser of a FAISS IndexPQ of 8 dimensions a byte hold bits as they are."""
    bits = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(np.float32)
    faiss.copy_array_to_vector(np.tile(bits.ravel(), index.pq.M), index.pq.centroids)
    index.is_trained = True


def build(name: str, codec: BitCodec, packed: np.ndarray) -> Any:
    """Build one of `INDEXES` over (n, row_bytes) uint8."""
    if name == "HammingIndex":
        own: Any = HammingIndex(codec)
    elif name.startswith("AsymmetricIndex"):
        own = AsymmetricIndex(codec, factory=name.split()[1])
    else:
        return build_bare(name, np.ascontiguousarray(packed[:, : -(-codec.n_bits_ // 8)]))
    own.add_packed(packed)
    return own


def build_bare(name: str, codes: np.ndarray) -> Any:
    """Build FAISS's own index over (n, code_bytes) uint8."""
    n_bytes = codes.shape[1]
    if name == "faiss IndexBinaryFlat":
        flat = faiss.IndexBinaryFlat(8 * n_bytes)
        flat.add(codes)
        return flat
    index = faiss.IndexPQ(8 * n_bytes, n_bytes, 8, faiss.METRIC_INNER_PRODUCT)
    bit_centroids(index)
    index.add_sa_codes(codes)
    return index


INDEXES = {
    "faiss IndexBinaryFlat": "hamming",
    "faiss IndexPQ 8 bits": "search",
    "HammingIndex": "hamming",
    "AsymmetricIndex Flat": "search",
    "AsymmetricIndex FastScan": "search",
    "AsymmetricIndex IVF1024": "search",
}
"""The indexes and the preset whose codes each holds."""


def search_once(name: str, index: Any, codec: BitCodec, packed: np.ndarray) -> None:
    """Search for one row, which makes whatever an index makes at its first search."""
    if name.startswith("AsymmetricIndex"):
        index.search(codec.decode(packed[:1]), k=10)
    elif name == "HammingIndex":
        index.search_packed(packed[:1], k=10)
    elif name == "faiss IndexBinaryFlat":
        index.search(np.ascontiguousarray(packed[:1, : index.code_size]), 10)
    else:
        index.search(padded_weights(codec, codec.decode(packed[:1])), 10)


def padded_weights(codec: BitCodec, queries: np.ndarray) -> np.ndarray:
    """Return the (q, 8 code_bytes) float32 weights of queries; those of spare bits are 0."""
    weights = codec.query_weights(queries).weights
    return np.pad(weights, ((0, 0), (0, -weights.shape[1] % 8)))


def array_bytes(name: str, index: Any) -> dict[str, int]:
    """Return the sizes of the arrays that grow with the rows, and of FAISS's centroids."""
    if name == "faiss IndexBinaryFlat":
        return {"codes": index.xb.size()}
    if name == "faiss IndexPQ 8 bits":
        return {"codes": index.codes.size(), "centroids": 4 * index.pq.centroids.size()}
    rows = index._rows
    stored = rows.stored_bytes * len(index)
    parts = {"codes": stored, "ids": rows.store.ids.nbytes}
    if rows.side is not None:
        parts["side"] = sum(ids.nbytes + values.nbytes for ids, values in rows.side._parts)
    if name.startswith("AsymmetricIndex"):
        parts["row_terms"] = sum(values.nbytes for values in index._scan.terms.values())
    if name.endswith("FastScan"):
        copy = index._scan._fast_scan._index
        parts["fast_scan"] = copy.codes.nbytes()
        parts["centroids"] = 4 * copy.pq.centroids.size()
    return parts


def measure_memory(name: str, *, codec: Path, packed: Path, n_threads: int) -> dict[str, Any]:
    """Return bytes per vector of an index, measured in a fresh process.

    Args:
        name: of `INDEXES`.
        codec: folder of the codec.
        packed: .npy of its codes, (n, row_bytes) uint8.
        n_threads: FAISS's threads in that process.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure_here, name, codec, packed, n_threads).result()


def _measure_here(name: str, folder: Path, file: Path, n_threads: int) -> dict[str, Any]:
    codec, packed = BitCodec.load(folder, device="cpu"), np.load(file, mmap_mode="r")
    with limit_threads(n_threads):
        search_once(name, build(name, codec, packed[:WARM_ROWS]), codec, packed)
        before = _resident_bytes()
        index = build(name, codec, packed)
        search_once(name, index, codec, packed)
        grown = _resident_bytes() - before
    parts = array_bytes(name, index)
    n_rows = len(packed)
    figures: dict[str, Any] = {
        "arrays": round(sum(parts.values()) / n_rows, 3),
        "resident": round(grown / n_rows, 3),
        "parts": {part: round(size / n_rows, 3) for part, size in parts.items()},
    }
    if hasattr(index, "bytes_per_vector"):
        figures["saved"] = round(index.bytes_per_vector, 3)
    return figures


def _resident_bytes() -> int:
    """Return this process's anonymous resident memory, after what is free was given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def memory_bandwidth(n_threads: int) -> float:
    """Return bytes a second that numpy sums from memory, the best of several."""
    values = np.ones(BANDWIDTH_BYTES // 8, dtype=np.uint64)
    parts = np.array_split(values, n_threads)
    best = 0.0
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in range(BANDWIDTH_REPEATS):
            began = time.perf_counter()
            list(pool.map(np.sum, parts))
            best = max(best, values.nbytes / (time.perf_counter() - began))
    return best
