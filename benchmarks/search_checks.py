"""What is searched for `benchmarks.search_speed`, and whether the hits are right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.search_memory import build
from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches
from bitcodec.bits import hamming
from bitcodec.metrics import recall
from bitcodec_faiss.scan import reach_of

K = 10
N_CHECKED = 200
"""Queries whose hits are checked before anything is timed."""
ORACLE_ROWS = 20_000
TOLERANCE = 1e-4
"""Relative, of asymmetric scores."""
NOISE = 0.2
"""Standard deviations of each dimension that are added to repeated rows."""
CHUNK_ROWS = 4096


@dataclass(frozen=True)
class Coded:
    """A fitted codec and what it made of the rows and queries."""

    codec: BitCodec
    packed: np.ndarray
    """(n, row_bytes) uint8."""
    queries: np.ndarray
    """(q, row_bytes) uint8."""


def read(source: Any) -> np.ndarray:
    """Return all rows of a source, float32."""
    return np.concatenate([batch.numpy() for batch in HiddenBatches(source).batches(CHUNK_ROWS)])


def enlarge(rows: np.ndarray, *, n_codes: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield rows over and over, each time with other noise, as (b, d) float32."""
    rng = np.random.default_rng(seed)
    scale = NOISE * rows.std(axis=0)
    for start in range(0, n_codes, CHUNK_ROWS):
        part = rows[np.arange(start, min(start + CHUNK_ROWS, n_codes)) % len(rows)]
        yield part + scale * rng.standard_normal(part.shape, dtype=np.float32)


def encode(codec: BitCodec, rows: np.ndarray, queries: np.ndarray, *, n_codes: int) -> Coded:
    codec.fit(rows)
    packed = np.empty((n_codes, codec.row_bytes_), dtype=np.uint8)
    start = 0
    for part in codec.encode_batches(enlarge(rows, n_codes=n_codes)):
        packed[start : start + len(part)] = part
        start += len(part)
    return Coded(codec, packed, codec.encode(queries))


def check(
    indexes: dict[str, Any], coded: dict[str, Coded], queries: np.ndarray
) -> dict[str, float]:
    """Compare hits with FAISS's and with decoded rows; fail where they are wrong."""
    dense, few = coded["hamming"], queries[:N_CHECKED]
    packed = dense.queries[:N_CHECKED]
    found = indexes["HammingIndex"].search_packed(packed, k=K)
    reach = reach_of(K, n_rows=len(dense.packed))
    distances = indexes["faiss IndexBinaryFlat"].search(packed, reach)[0]
    assert np.array_equal(found.scores, distances[:, :K]), "HammingIndex differs from FAISS"
    own = hamming(packed[:, None], dense.packed[found.ids])
    assert np.array_equal(found.scores, own), "HammingIndex's ids have other distances"
    flat = indexes["AsymmetricIndex Flat"].search(few, k=K)
    fast = indexes["AsymmetricIndex FastScan"].search(few, k=K)
    lists = indexes["AsymmetricIndex IVF1024"].search(few, k=K)
    for name, some in {"FastScan": fast, "IVF1024": lists}.items():
        assert (some.scores <= flat.scores).all(), f"{name} scores above an exact search"
    error = oracle_error(coded["search"], few)
    assert error <= 1e-4, f"asymmetric scores differ from decoded rows' by {error:.1e}"
    return {
        "queries": len(few),
        "fast_scan_recall": recall(fast.ids, flat.ids),
        "ivf_recall": recall(lists.ids, flat.ids),
        "asymmetric_relative_error": error,
        "queries_settled_in_a_second_pass_where_ids_do_not_ascend": float(
            (distances[:, -1] == distances[:, K - 1]).mean()
        ),
    }


def oracle_error(made: Coded, queries: np.ndarray) -> float:
    """Return the largest relative error of top scores on the first rows.

    Decoding shrinks the rows of a codec with side bytes towards the mean, by one factor for all, to
    be nearest on average; scores are unbiased instead. So the oracle undoes it.
    """
    packed, model = made.packed[:ORACLE_ROWS], made.codec._model
    mean = model.mean.numpy().astype(np.float64)
    decoded = mean + (made.codec.decode(packed) - mean) / float(model.shrinkage)
    best = -np.sort(-(queries.astype(np.float64) @ decoded.T), axis=1)[:, :K]
    found = build("AsymmetricIndex Flat", made.codec, packed).search(queries, k=K).scores
    return float((np.abs(found - best) / np.abs(best)).max())
