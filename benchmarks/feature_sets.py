"""Questions about features over many rows: sets of rows beside numpy on packed rows.

Real codes are repeated, in their order, to as many rows as are asked for, and their first features
are kept, so that the rows fit a disk. A question is asked of pairs of features drawn at random; all
ways are held to give the same rows before they are timed.

- sets: `FeatureSets` mapped from a file, in the system's cache as the packed rows are.
- columns: the two bytes columns of the packed rows that hold the features, shifted and masked. The
  best that numpy does with rows as they lie.
- unpack: whole rows unpacked, a block at a time, and two columns taken.

    python -m benchmarks.feature_sets --packed codes.npy --folder SCRATCH
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results_file import save_results
from bitcodec import FeatureSets
from bitcodec.bits import row_bytes, unpack
from bitcodec.storage import open_packed

BLOCK_ROWS = 2**16
Question = Callable[[int, int], Any]


def main() -> None:
    """Run the benchmark and write benchmarks/results/feature_sets.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packed", type=Path, default=Path("demo/archive/codes.npy"))
    parser.add_argument("--folder", type=Path, required=True, help="scratch, about 1 GB")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--features", type=int, default=304, help="a multiple of 8")
    parser.add_argument("--pairs", type=int, default=20, help="pairs asked about")
    arguments = parser.parse_args()
    real = np.asarray(open_packed(arguments.packed)[1])[:, : arguments.features // 8]
    packed = repeated(real, arguments.rows)
    started = time.perf_counter()
    path = arguments.folder / "features.bits"
    FeatureSets.write(path, packed, n_bits=arguments.features, overwrite=True)
    seconds = time.perf_counter() - started
    sets = FeatureSets.open(path)
    sets.check()
    pairs = np.random.default_rng(0).permutation(arguments.features)[: 2 * arguments.pairs]
    results = {
        "n_rows": arguments.rows,
        "n_real_rows": len(real),
        "n_features": arguments.features,
        "mean_activity": float(sets.counts.mean() / sets.n_rows),
        "build_rows_per_second": arguments.rows / seconds,
        "file_bytes": path.stat().st_size,
        "questions": ask_all(sets, packed, pairs.reshape(-1, 2)),
    }
    show(results)
    print(save_results("feature_sets", results))


def repeated(real: np.ndarray, n_rows: int) -> np.ndarray:
    """Return real rows, again and again, (n_rows, w) uint8."""
    packed = np.empty((n_rows, real.shape[1]), dtype=np.uint8)
    for start in range(0, n_rows, len(real)):
        packed[start : start + len(real)] = real[: n_rows - start]
    return packed


def ask_all(sets: FeatureSets, packed: np.ndarray, pairs: np.ndarray) -> dict[str, Any]:
    """Check and time every question, "this feature and not that one", asked in every way."""
    mask, both = with_columns(packed), with_unpacking(packed, sets.n_bits)
    ways: dict[str, dict[str, Question]] = {
        "count": {
            "sets": lambda a, b: len(sets[a] & ~sets[b]),
            "columns": lambda a, b: int(mask(a, b).sum()),
            "unpack": lambda a, b: int(both(a, b).sum()),
        },
        "first 10": {
            "sets": lambda a, b: (sets[a] & ~sets[b]).first(10),
            "columns": lambda a, b: np.flatnonzero(mask(a, b))[:10],
        },
        "all rows": {
            "sets": lambda a, b: (sets[a] & ~sets[b]).rows(),
            "columns": lambda a, b: np.flatnonzero(mask(a, b)),
        },
        "count of one": {
            "sets": lambda a, b: len(sets[a]),
            "columns": lambda a, b: int(mask(a, None).sum()),
        },
    }
    return {question: ask(by, pairs) for question, by in ways.items()}


def ask(ways: dict[str, Question], pairs: np.ndarray) -> dict[str, Any]:
    """Return the milliseconds of each way, and how often faster sets are than each."""
    first = pairs[0].tolist()
    answers = {name: question(*first) for name, question in ways.items()}
    if not all(np.array_equal(answer, answers["sets"]) for answer in answers.values()):
        raise SystemExit("the ways do not agree: nothing is timed")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for name, question in ways.items():
        for pair in pairs[: 3 if name == "unpack" else len(pairs)].tolist():
            started = time.perf_counter()
            question(*pair)
            times[name].append(1000 * (time.perf_counter() - started))
    medians = {name: statistics.median(each) for name, each in times.items()}
    return {
        name: {
            "median_ms": medians[name],
            "least_ms": min(each),
            "most_ms": max(each),
            "times_slower_than_sets": medians[name] / medians["sets"],
        }
        for name, each in times.items()
    }


def with_columns(packed: np.ndarray) -> Callable[[int, int | None], np.ndarray]:
    """Return the way that takes two columns of packed rows."""

    def column(feature: int) -> np.ndarray:
        on: np.ndarray = (packed[:, feature // 8] & np.uint8(1 << feature % 8)) != 0
        return on

    def mask(a: int, b: int | None) -> np.ndarray:
        rows: np.ndarray = column(a) if b is None else column(a) & ~column(b)
        return rows

    return mask


def with_unpacking(packed: np.ndarray, n_bits: int) -> Callable[[int, int], np.ndarray]:
    """Return the way that unpacks whole rows."""
    assert packed.shape[1] == row_bytes(n_bits)

    def mask(a: int, b: int) -> np.ndarray:
        found = np.empty(len(packed), dtype=bool)
        for start in range(0, len(packed), BLOCK_ROWS):
            bits = unpack(packed[start : start + BLOCK_ROWS], n_bits=n_bits).astype(bool)
            found[start : start + BLOCK_ROWS] = bits[:, a] & ~bits[:, b]
        return found

    return mask


def show(results: dict[str, Any]) -> None:
    """Print the medians."""
    print(f"{results['n_rows']:,} rows, {results['n_features']} features")
    print(f"built at {results['build_rows_per_second']:,.0f} rows/s")
    for question, ways in results["questions"].items():
        cells = (f"{name} {figures['median_ms']:.2f} ms" for name, figures in ways.items())
        print(f"{question:<14}", ", ".join(cells))


if __name__ == "__main__":
    main()
