r"""Bits against distortion: bitcodec and other quantisers, fitted and measured on the same rows.

Hidden states of SmolLM2 at three layers, held-out rows from other files, and MiniLM embeddings of
passages. Figures are merged into benchmarks/results/rate_distortion.json after every method: an
interrupted run keeps what it has, and a rerun of one method replaces only that one.

    python -m benchmarks.rate_distortion --packages DEBS --cache CACHE --embeddings CACHE2 \
        --codecs CODECS
"""

from __future__ import annotations

import argparse
import functools
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.hidden_states import Split, add_arguments, harvest_split
from benchmarks.passages import read_passages
from benchmarks.quantisers import (
    Encoded,
    Fit,
    Fitted,
    Standardisation,
    quantisers,
    timed,
)
from benchmarks.rate_distortion_codecs import codecs
from benchmarks.results_file import merge_results
from benchmarks.retrieval_data import EmbeddingCache, make_minilm
from benchmarks.transform_coding import transforms
from bitcodec.errors import ValueRangeError
from bitcodec.metrics import DistortionMeter, recall

logger = logging.getLogger(__name__)

NAME = "rate_distortion"
LAYERS = {"layer-15": 15, "layer-25": 25, "layer-8": 8}
"""Layers of the data sets that are hidden states, in the order of the work."""
DATASETS = (*LAYERS, "minilm")
N_PASSAGES, N_HELD_OUT_PASSAGES = 12_000, 5_000
"""Passages of each package, and those of all that are held out."""
N_QUERIES, K = 1_000, 10
"""Queries, taken from the held-out rows, and the neighbours each looks for in the others."""
SEED = 0
"""Of the draws of passages and queries."""
CHECKED_ROWS = 256
"""Held-out rows that a method is checked on before it is timed."""
REPEATS, LONG = 3, 5.0
"""Encodings that are timed, the fastest counts; one that takes longer, in seconds, is enough."""
BOUND_BITS = np.geomspace(32, 16_384, 40)
"""Rates at which the Gaussian bound is drawn."""


@dataclass(frozen=True)
class Rows:
    """A data set."""

    train: np.ndarray
    """(m, d) float32, what methods are fitted on."""
    queries: np.ndarray
    """(q, d) float32, held out."""
    base: np.ndarray
    """(n, d) float32, the other rows that are held out."""
    exact: np.ndarray
    """(q, K) rows of the base nearest to each query by L2 in standardised coordinates."""
    standard: Standardisation
    """Of the rows to fit on."""
    eigenvalues: np.ndarray
    """(d,) float64, of the covariance of the standardised rows to fit on."""

    @classmethod
    def of(cls, train: np.ndarray, held_out: np.ndarray, *, n_queries: int = N_QUERIES) -> Rows:
        """Draw the queries and find their neighbours; the base keeps the order of its rows."""
        is_query = np.zeros(len(held_out), dtype=bool)
        is_query[np.random.default_rng(SEED).choice(len(held_out), n_queries, replace=False)] = True
        queries, base = held_out[is_query], held_out[~is_query]
        standard = Standardisation.of(train)
        exact = nearest(standard.apply(base), standard.apply(queries))
        return cls(train, queries, base, exact, standard, spectrum(standard.apply(train)))


def main() -> int:
    """Measure the methods that were asked for on the data sets that were asked for."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    faiss.omp_set_num_threads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    with threadpool_limits(arguments.threads):
        for dataset in arguments.datasets:
            rows = Rows.of(*load(dataset, arguments))
            merge_results(NAME, (dataset, "rows"), describe(rows))
            merge_results(NAME, (dataset, "gaussian_bound"), bound_line(rows.eigenvalues))
            for name, fit in choose_methods(arguments, rows, dataset).items():
                figures = measure(name, fit, rows)
                path = merge_results(NAME, (dataset, "methods", name), figures)
                logger.info("%s %s", dataset, line_of(name, figures))
            logger.info("%s is in %s", dataset, path)
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--embeddings", type=Path, help="folder that keeps embeddings")
    parser.add_argument("--codecs", type=Path, required=True, help="folder that keeps codecs")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--methods", nargs="+", default=[""], help="parts of methods' names")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if "minilm" in arguments.datasets and arguments.embeddings is None:
        parser.error("minilm needs --embeddings, a folder that keeps them")
    return arguments


def choose_methods(arguments: argparse.Namespace, rows: Rows, dataset: str) -> dict[str, Fit]:
    """Return the methods whose names contain one of the parts asked for."""
    n_dims, parts = rows.train.shape[1], arguments.methods
    methods = quantisers(n_dims, dataset) | transforms() | codecs(dataset, arguments.codecs)
    chosen = {name: fit for name, fit in methods.items() if any(part in name for part in parts)}
    if not chosen:
        raise ValueRangeError(f"no method's name holds {parts}: there are {', '.join(methods)}")
    return chosen


def load(dataset: str, arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a data set to fit on and those held out, (n, d) float32."""
    if dataset in LAYERS:
        sizes = arguments.rows, arguments.held_out_rows
        return _split(arguments.packages, arguments.cache, *sizes).read(LAYERS[dataset])
    cache = EmbeddingCache(arguments.embeddings, "minilm", make_minilm)
    passages = read_passages(arguments.packages, n_passages=N_PASSAGES)
    parts = [cache.embed(f"passages.{name}", texts) for name, texts in passages.items()]
    vectors = np.random.default_rng(SEED).permutation(np.concatenate(parts))
    return vectors[N_HELD_OUT_PASSAGES:], vectors[:N_HELD_OUT_PASSAGES]


@functools.cache
def _split(packages: Path, cache: Path, n_fitted: int, n_held_out: int) -> Split:
    return harvest_split(packages, cache, n_fitted=n_fitted, n_held_out=n_held_out)


def describe(rows: Rows) -> dict[str, Any]:
    """Return what is measured on."""
    return {
        "n_dims": rows.train.shape[1],
        "n_fitted": len(rows.train),
        "n_held_out": len(rows.base) + len(rows.queries),
        "n_queries": len(rows.queries),
    }


def measure(name: str, fit: Fit, rows: Rows) -> dict[str, Any]:
    """Fit a method, check it and return its figures; those of decoded rows may be None.

    The file format is this dictionary: `fvu` is the mean over the dimensions, `fvu_total` one
    ratio of sums, `gaussian_fvu` the bound at the method's rate; of the times, `cpu` are seconds
    of all threads, which other work on the machine does not lengthen.
    """
    fitted, seconds = timed(lambda: fit(rows.train))
    seconds = fitted.fit_seconds or seconds
    check(name, fitted, rows)
    base, encoding = encode_timed(fitted, rows.base)
    size = bytes_of_all(fitted, base, rows)
    found = search(fitted, base, rows)
    return {
        "bits_per_vector": 8 * size,
        "bytes_per_vector": size,
        "shared_bytes": fitted.shared_bytes,
        **distortion(fitted, base, rows),
        "gaussian_fvu": gaussian_bound(rows.eigenvalues, 8 * size),
        "recall_at_10": recall(found, rows.exact),
        "fit_seconds": seconds[0],
        "fit_cpu_seconds": seconds[1],
        "encode_rows_per_second": len(rows.base) / encoding[0],
        "encode_rows_per_cpu_second": len(rows.base) / encoding[1],
    } | ({"limits": fitted.limits} if fitted.limits else {})


def check(name: str, fitted: Fitted, rows: Rows) -> None:
    """Assert that decoded rows are rows, and that FAISS's scan of product codes is exact."""
    sample = rows.base[:CHECKED_ROWS]
    encoded = fitted.encode(sample)
    if fitted.decode is None:
        return
    decoded = fitted.decode(encoded)
    assert decoded.shape == sample.shape, f"{name}: {decoded.shape}"
    assert np.isfinite(decoded).all(), f"{name}: decoded rows must be finite"
    if "PQ" in name and fitted.search is not None:
        queries = rows.standard.apply(rows.queries[:CHECKED_ROWS])
        found = nearest(rows.standard.apply(decoded), queries)
        scanned = fitted.search(rows.queries[:CHECKED_ROWS], encoded, K)
        assert recall(scanned, found) > 0.99, f"{name}: the scan must find what is nearest"


def encode_timed(fitted: Fitted, base: np.ndarray) -> tuple[Encoded, tuple[float, float]]:
    """Encode rows; return them and the seconds of the fastest of a few times."""
    encoded, best = timed(lambda: fitted.encode(base))
    for _ in range(REPEATS - 1):
        if best[0] < LONG:
            best = min(best, timed(lambda: fitted.encode(base))[1])
    return encoded, best


def bytes_of_all(fitted: Fitted, base: Encoded, rows: Rows) -> float:
    """Return the bytes per vector of base and queries together."""
    asked = fitted.encode(rows.queries).bytes_per_vector * len(rows.queries)
    total = asked + base.bytes_per_vector * len(rows.base)
    return total / (len(rows.base) + len(rows.queries))


def search(fitted: Fitted, base: Encoded, rows: Rows) -> np.ndarray:
    """Return the rows of the base that the method finds for each query, (q, K)."""
    if fitted.search is not None:
        return fitted.search(rows.queries, base, K)
    assert fitted.decode is not None
    standard = rows.standard
    return nearest(standard.apply(fitted.decode(base)), standard.apply(rows.queries))


def distortion(fitted: Fitted, base: Encoded, rows: Rows) -> dict[str, float | None]:
    """Return FVU and cosine of all held-out rows; None where a method cannot decode."""
    if fitted.decode is None:
        return {"fvu": None, "fvu_total": None, "cosine": None}
    meter = DistortionMeter(rows.standard.mean)
    meter.update(rows.base, fitted.decode(base))
    meter.update(rows.queries, fitted.decode(fitted.encode(rows.queries)))
    return {"fvu": meter.fvu, "fvu_total": meter.fvu_total, "cosine": meter.cosine}


def nearest(base: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the rows of `base` nearest to each query by L2, (q, K)."""
    index = faiss.IndexFlatL2(base.shape[1])
    index.add(base)
    found: np.ndarray = index.search(queries, K)[1]
    return found


def spectrum(standard: np.ndarray) -> np.ndarray:
    """Return the eigenvalues of the covariance of standardised rows, (d,) float64."""
    blocks = (standard[at : at + 2**14].astype(np.float64) for at in range(0, len(standard), 2**14))
    covariance = sum(block.T @ block for block in blocks) / len(standard)
    eigenvalues: np.ndarray = np.maximum(np.linalg.eigvalsh(covariance), 0)
    return eigenvalues


def gaussian_bound(eigenvalues: np.ndarray, bits: float) -> float:
    """Return the least FVU at which a Gaussian source of this covariance can be coded.

    Reverse water-filling: components above the water level keep it as their distortion, the others
    their variance (Cover and Thomas, Elements of Information Theory, theorem 10.3.3).

    Args:
        eigenvalues: (d,) of the covariance, none negative.
        bits: of a vector.

    >>> gaussian_bound(np.ones(4), 4)
    0.25
    """
    variances = np.sort(eigenvalues[eigenvalues > 0].astype(np.float64))[::-1]
    n_active = np.arange(1, len(variances) + 1)
    levels = 2 ** ((np.cumsum(np.log2(variances)) - 2 * bits) / n_active)
    level = levels[np.flatnonzero(levels <= variances)[-1]]
    return float(np.minimum(variances, level).sum() / variances.sum())


def bound_line(eigenvalues: np.ndarray) -> dict[str, list[float]]:
    """Return the bound at many rates, to draw it."""
    bits = [float(rate) for rate in BOUND_BITS]
    return {"bits": bits, "fvu": [gaussian_bound(eigenvalues, rate) for rate in bits]}


def bits_at(curve: Sequence[tuple[float, float]], fvu: float) -> float:
    """Return the bits at which a method has an FVU, log-linear in FVU between its rates.

    Args:
        curve: bits and FVU of the method's rates, in any order; FVU falls as bits rise.
        fvu: what is asked for.

    Raises:
        ValueRangeError: FVU does not fall, or the curve does not reach what is asked for.

    >>> bits_at([(100, 0.4), (200, 0.1)], 0.2)
    150.0
    """
    bits, errors = np.array(sorted(curve), dtype=np.float64).T
    if not (np.diff(errors) < 0).all():
        raise ValueRangeError(f"FVU must fall as bits rise, got {sorted(curve)}")
    if not errors[-1] <= fvu <= errors[0]:
        raise ValueRangeError(f"fvu must be in [{errors[-1]}, {errors[0]}] of the curve, got {fvu}")
    return float(np.interp(-np.log(fvu), -np.log(errors), bits))


def line_of(name: str, figures: dict[str, Any]) -> str:
    """Return a method's figures in a line."""
    fvu = "-" if figures["fvu"] is None else f"{figures['fvu']:.4f}"
    return (
        f"{name:<16} {figures['bits_per_vector']:7.1f} bits  FVU {fvu}  "
        f"R@10 {figures['recall_at_10']:.3f}  fit {figures['fit_cpu_seconds']:.1f} s  "
        f"{figures['encode_rows_per_cpu_second']:.0f} rows/s"
    )


if __name__ == "__main__":
    sys.exit(main())
