"""Time and memory of searching packed codes, beside bare FAISS over the same codes.

Rows are real hidden states; those of all shards but the last are enlarged to the wanted number by
noise, queries are the first rows of the last shard. All searches get the same threads, and are
timed in turn. Hamming searches get packed queries, asymmetric ones float queries, whose weights
they make; bare IndexPQ gets the weights. `overhead` is HammingIndex's ratio to FAISS; where ids do
not ascend it fetches more than k hits, to settle ties by id: `overhead_shuffled_ids`.

    python -m benchmarks.search_speed --hidden demo/hidden
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.results_file import save_results
from benchmarks.search_checks import NOISE, Coded, K, check, encode, read
from benchmarks.search_memory import (
    INDEXES,
    build,
    measure_memory,
    memory_bandwidth,
    padded_weights,
)
from bitcodec import BitCodec
from bitcodec.batches import find_files
from bitcodec_faiss import HammingIndex
from bitcodec_faiss.backend import limit_threads

N_QUERIES = 1000
CALLS = {1: 32, 32: 2, 1000: 1}
"""Calls of one timing by batch, each with the next queries."""
OVERHEAD_GOAL = 1.05
FAST_SCAN_GOAL = 1.0

RATIOS = {
    "overhead": ("HammingIndex", "faiss IndexBinaryFlat"),
    "overhead_shuffled_ids": ("HammingIndex, shuffled ids", "faiss IndexBinaryFlat"),
    "fast_scan_to_hamming": ("AsymmetricIndex FastScan", "faiss IndexBinaryFlat"),
    "fast_scan_to_flat": ("AsymmetricIndex FastScan", "AsymmetricIndex Flat"),
    "fast_scan_to_pq": ("AsymmetricIndex FastScan", "faiss IndexPQ 8 bits"),
    "flat_to_pq": ("AsymmetricIndex Flat", "faiss IndexPQ 8 bits"),
    "ivf_to_flat": ("AsymmetricIndex IVF1024", "AsymmetricIndex Flat"),
}
"""The search whose time is divided, and the one it is divided by."""

OWN = (
    "HammingIndex",
    "AsymmetricIndex FastScan",
    "AsymmetricIndex Flat",
    "AsymmetricIndex IVF1024",
)

Search = Callable[[slice], Any]
"""Searches for some of the queries."""


def main() -> int:
    """Write benchmarks/results/search_speed.json; return 1 if a goal is missed."""
    arguments = parse()
    n_torch = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    try:
        with limit_threads(arguments.threads):
            results = measure(arguments)
    finally:
        torch.set_num_threads(n_torch)
    show(results)
    print(save_results("search_speed", results))
    return 0 if goals_met(results) else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=Path, default=Path("demo/hidden"), help="a harvest")
    parser.add_argument("--n-codes", type=int, default=1_000_000)
    parser.add_argument("--n-bits", type=int, default=384)
    parser.add_argument("--threads", type=int, default=1, help="of every search, and of the fits")
    parser.add_argument("--n-steps", type=int, default=400, help="minibatches of each fit")
    parser.add_argument("--repeats", type=int, default=7, help="timings at batches 1 and 32")
    parser.add_argument("--long-repeats", type=int, default=3, help="timings at batch 1000")
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Encode, check, time and weigh."""
    *fitted, held_out = find_files(arguments.hidden)
    rows, queries = read(fitted), read(held_out)[:N_QUERIES]
    if len(queries) < N_QUERIES:
        raise SystemExit(f"{held_out} must hold {N_QUERIES} rows or more, got {len(queries)}")
    settings = {"n_bits": arguments.n_bits, "n_steps": arguments.n_steps, "device": "cpu"}
    n_codes = arguments.n_codes
    coded = {
        name: encode(BitCodec.preset(name, **settings, **extra), rows, queries, n_codes=n_codes)
        for name, extra in {"hamming": {}, "search": {"refine": "fast"}}.items()
    }
    print("encoded; measuring memory", file=sys.stderr)
    memory = weigh(coded, n_threads=arguments.threads)
    indexes = {name: build(name, coded[of].codec, coded[of].packed) for name, of in INDEXES.items()}
    print("checking", file=sys.stderr)
    checks = check(indexes, coded, queries)
    searches = make_searches(indexes, coded, queries)
    bandwidth = memory_bandwidth(arguments.threads)
    timings = {}
    for batch in CALLS:
        print(f"timing batches of {batch}", file=sys.stderr)
        repeats = arguments.repeats if batch < max(CALLS) else arguments.long_repeats
        seconds = time_in_turn(searches, batch=batch, n_repeats=repeats)
        timings[str(batch)] = summarise(seconds, coded, batch=batch, bandwidth=bandwidth)
    return {
        "n_codes": n_codes,
        "n_rows_fitted": len(rows),
        "n_dims": rows.shape[1],
        "n_bits": arguments.n_bits,
        "k": K,
        "threads": arguments.threads,
        "noise": NOISE,
        "read_bytes_per_second": round(bandwidth),
        "checks": checks,
        "bytes_per_vector": memory,
        "batches": timings,
    }


def weigh(coded: dict[str, Coded], *, n_threads: int) -> dict[str, Any]:
    """Return the memory of every index, each built in a fresh process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for preset, made in coded.items():
            made.codec.save(folder / preset)
            np.save(folder / f"{preset}.npy", made.packed)
        return {
            index: measure_memory(
                index, codec=folder / of, packed=folder / f"{of}.npy", n_threads=n_threads
            )
            for index, of in INDEXES.items()
        }


def make_searches(
    indexes: dict[str, Any], coded: dict[str, Coded], queries: np.ndarray
) -> dict[str, Search]:
    """Return what is timed, by name."""
    dense, weights = coded["hamming"].queries, padded_weights(coded["search"].codec, queries)
    bare, products = indexes["faiss IndexBinaryFlat"], indexes["faiss IndexPQ 8 bits"]
    own, fast, flat, lists = (indexes[name] for name in OWN)
    shuffled = HammingIndex(coded["hamming"].codec)
    shuffled.add_packed(coded["hamming"].packed, ids=np.random.default_rng(0).permutation(len(own)))
    return {
        "faiss IndexBinaryFlat": lambda some: bare.search(dense[some], K),
        "HammingIndex": lambda some: own.search_packed(dense[some], k=K),
        "HammingIndex, shuffled ids": lambda some: shuffled.search_packed(dense[some], k=K),
        "AsymmetricIndex FastScan": lambda some: fast.search(queries[some], k=K, oversample=10),
        "AsymmetricIndex Flat": lambda some: flat.search(queries[some], k=K),
        "AsymmetricIndex IVF1024": lambda some: lists.search(queries[some], k=K),
        "faiss IndexPQ 8 bits": lambda some: products.search(weights[some], K),
    }


def time_in_turn(
    searches: dict[str, Search], *, batch: int, n_repeats: int
) -> dict[str, list[float]]:
    """Return seconds a query; every second repeat goes through the searches backwards."""
    parts = [slice(batch * i, batch * (i + 1)) for i in range(CALLS[batch])]
    seconds: dict[str, list[float]] = {name: [] for name in searches}
    for repeat in range(n_repeats + 1):
        for name in list(searches)[:: 1 if repeat % 2 else -1]:
            began = time.perf_counter()
            for part in parts if repeat else parts[:1]:
                searches[name](part)
            if repeat:  # the first warms up
                seconds[name].append((time.perf_counter() - began) / (batch * len(parts)))
    return seconds


def summarise(
    seconds: dict[str, list[float]], coded: dict[str, Coded], *, batch: int, bandwidth: float
) -> dict[str, Any]:
    """Return the figures of one batch."""
    n_codes = len(coded["hamming"].packed)
    methods = {}
    for name, times in seconds.items():
        rate = n_codes / statistics.median(times)
        n_bytes = scanned_bytes(name, coded)
        methods[name] = {
            "milliseconds_per_query": spread([1000 * value for value in times]),
            "codes_per_second": round(rate),
            "scanned_bytes_per_code": n_bytes,
            "share_of_read_bandwidth": round(rate * n_bytes / bandwidth, 3),
        }
    pairs = {
        label: [first / second for first, second in zip(seconds[one], seconds[other], strict=True)]
        for label, (one, other) in RATIOS.items()
    }
    ratios = {label: spread(values) for label, values in pairs.items()}
    return {"batch": batch, "ratios": ratios, "methods": methods}


def scanned_bytes(name: str, coded: dict[str, Coded]) -> int:
    """Return the bytes of one code that a scan reads; the exact one also reads a float factor."""
    exact = name == "AsymmetricIndex Flat"
    return coded["search"].codec.row_bytes_ + 4 if exact else coded["hamming"].codec.row_bytes_


def spread(values: list[float]) -> dict[str, float]:
    """Return median, least and greatest, and how many there are."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 4) for name, value in found.items()} | {"repeats": len(values)}


def goals_met(results: dict[str, Any]) -> bool:
    """Say whether every batch keeps to the goals, and print it."""
    goals = {"overhead": OVERHEAD_GOAL, "fast_scan_to_hamming": FAST_SCAN_GOAL}
    met = []
    for batch, timing in results["batches"].items():
        for label, most in goals.items():
            median = timing["ratios"][label]["median"]
            met.append(median <= most)
            verdict = "met" if met[-1] else "MISSED"
            print(f"{verdict:<7} {label} at batch {batch}: {median:.3f}, goal at most {most}")
    return all(met)


def show(results: dict[str, Any]) -> None:
    """Print what was found."""
    console = Console(width=120)
    speeds = Table("search", *(f"ms a query, batch {b}" for b in results["batches"]), "memory read")
    first = next(iter(results["batches"].values()))
    for name in first["methods"]:
        rows = [timing["methods"][name] for timing in results["batches"].values()]
        cells = [with_spread(row["milliseconds_per_query"]) for row in rows]
        speeds.add_row(name, *cells, f"{first['methods'][name]['share_of_read_bandwidth']:.2f}")
    ratios = Table("ratio", *(f"batch {batch}" for batch in results["batches"]))
    for label in RATIOS:
        cells = [with_spread(timing["ratios"][label]) for timing in results["batches"].values()]
        ratios.add_row(label, *cells)
    memory = Table("bytes a vector", "arrays", "resident", "parts of the arrays")
    for name, row in results["bytes_per_vector"].items():
        parts = ", ".join(f"{part} {size:.2f}" for part, size in row["parts"].items())
        memory.add_row(name, f"{row['arrays']:.2f}", f"{row['resident']:.2f}", parts)
    for table in (speeds, ratios, memory):
        console.print(table)
    gigabytes = results["read_bytes_per_second"] / 1e9
    console.print(
        f"memory read: share at batch 1 of numpy's {gigabytes:.1f} GB/s", results["checks"]
    )


def with_spread(figures: dict[str, float]) -> str:
    return f"{figures['median']:.3f} ({figures['min']:.3f}-{figures['max']:.3f})"


if __name__ == "__main__":
    sys.exit(main())
