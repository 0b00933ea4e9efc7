"""What engines cost beside one bare process, and whether memory grows with the rows.

Rows are real ones, repeated as a stream. Every engine writes the same archive, byte for byte, which
is checked before anything is counted. Processor seconds of all processes are counted, which other
work on the machine hardly changes; seconds by the clock are given too.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.results_file import merge_results
from benchmarks.scale_engines import ENGINES, run_engine
from benchmarks.scale_usage import Usage
from bitcodec.storage import read_codec_header

NAME = "scale"
FEW_ROWS = 16_384
"""Rows of a job that is mostly its engine's start."""


def main() -> None:
    """Measure, and write benchmarks/results/scale.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", required=True, help="a layer of a harvest")
    parser.add_argument("--codec", required=True, help="folder of a codec fitted on such rows")
    parser.add_argument("--object-store", type=int, default=200_000_000, help="bytes Ray may share")
    parser.add_argument("--rows", type=int, default=131_072, help="rows of a job")
    parser.add_argument("--repeats", type=int, default=3, help="runs of every engine")
    parser.add_argument("--memory", type=int, nargs="*", help="rows of runs that watch memory")
    parser.add_argument("--engines", nargs="*", choices=ENGINES, help="only these")
    parser.add_argument("--one", nargs=2, metavar=("ENGINE", "ROWS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.memory:
        _start_ray(arguments.object_store)
    if arguments.one:
        engine, n_rows = arguments.one
        print(json.dumps(_one(engine, int(n_rows), arguments)))
    elif arguments.memory:
        _memory(arguments)
    else:
        _engines(arguments)


def _start_ray(object_store: int) -> None:
    import ray

    # Ray's workers are nicer than other processes by 15, and so starve beside any other work.
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=object_store,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False


def _engines(arguments: argparse.Namespace) -> None:
    """Write what every engine used, after each run, so that a stop loses one."""
    header = read_codec_header(arguments.codec)
    told = {"n_rows": arguments.rows, "n_dims": header.n_dims, "n_bits": header.n_bits}
    runs: dict[str, list[tuple[Usage, Usage]]] = {}
    digests = set()
    for name in [*(arguments.engines or ENGINES)] * arguments.repeats:
        few, many = (
            run_engine(name, arguments.hidden, arguments.codec, n_rows)
            for n_rows in (FEW_ROWS, arguments.rows)
        )
        digests.add(many.digest)
        assert len(digests) == 1, f"{name} has other codes than one process"
        runs.setdefault(name, []).append((few.usage, many.usage))
        print(name, few.usage, many.usage, file=sys.stderr)
        first = [usage for _, usage in runs["one process"]]
        of = {known: _summary(pairs, first, arguments.rows) for known, pairs in runs.items()}
        merge_results(NAME, ["engines"], told | {"of": of})


def _summary(pairs: list[tuple[Usage, Usage]], bare: list[Usage], n_rows: int) -> dict[str, Any]:
    """Rates of whole jobs, and of the rows beyond the few of a job that is mostly a start."""
    whole = [usage.cpu_seconds for _, usage in pairs]
    added = [usage.cpu_seconds - few.cpu_seconds for few, usage in pairs]
    ratios = [
        usage.cpu_seconds / other.cpu_seconds
        for (_, usage), other in zip(pairs, bare, strict=False)
    ]
    return {
        "cpu_seconds": _spread(whole),
        "seconds": _spread([usage.seconds for _, usage in pairs]),
        "start_cpu_seconds": _spread([few.cpu_seconds for few, _ in pairs]),
        "rows_per_cpu_second": _spread([(n_rows - FEW_ROWS) / seconds for seconds in added]),
        "cpu_over_one_process": _spread(ratios),
    }


def _memory(arguments: argparse.Namespace) -> None:
    """Write the peak memory of each number of rows, every run in processes of its own."""
    for engine in arguments.engines or ("Ray, encode_rows, 2 workers", "one process"):
        for n_rows in arguments.memory:
            same = ["--hidden", arguments.hidden, "--codec", arguments.codec]
            command = [sys.executable, "-m", "benchmarks.scale", *same]
            done = subprocess.run(
                [*command, "--one", engine, str(n_rows)], capture_output=True, text=True, check=True
            )
            usage = json.loads(done.stdout.splitlines()[-1])
            merge_results(NAME, ["memory", engine, str(n_rows)], usage)
            print(engine, n_rows, usage, file=sys.stderr)


def _one(engine: str, n_rows: int, arguments: argparse.Namespace) -> dict[str, float]:
    run = run_engine(engine, arguments.hidden, arguments.codec, n_rows, memory=True)
    return {
        "peak_mebibytes": round(run.usage.peak_bytes / 2**20, 1),
        "seconds": round(run.usage.seconds, 1),
        "cpu_seconds": round(run.usage.cpu_seconds, 1),
        "bytes_stored": run.bytes_stored,
    }


def _spread(values: list[float]) -> dict[str, float]:
    rounded = [round(value, 3) for value in sorted(values)]
    return {"median": round(statistics.median(values), 3), "min": rounded[0], "max": rounded[-1]}


if __name__ == "__main__":
    main()
