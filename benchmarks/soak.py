"""Hours of mixed use against a brute-force model: differences, and memory.

Rounds of `benchmarks.soak_machine.IndexMachine`, each with a seed of its own, until the time is
up. A difference ends a round and is kept with its seed; memory is looked at after every round.

    python -m benchmarks.soak --hidden HARVEST --hours 2
"""

from __future__ import annotations

import argparse
import gc
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from benchmarks.results_file import merge_results
from benchmarks.soak_machine import IndexMachine, Material, Tally
from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches

N_ROWS = 3000
N_QUERIED = 500
"""Rows that the machine adds and asks for."""
SETTINGS = settings(
    max_examples=20,
    stateful_step_count=60,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=False,
)
WRITE_EVERY_SECONDS = 300


def main() -> None:
    """Run until the time is up; figures go to benchmarks/results/trust.json as it goes on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=Path, required=True, help="hidden states")
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_args()

    class Machine(IndexMachine):
        material = make_material(arguments.hidden)
        tally = Tally()

    begun = written = time.monotonic()
    rounds: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    while (elapsed := time.monotonic() - begun) < 3600 * arguments.hours:
        number = arguments.first_seed + len(rounds)
        if (difference := run_round(Machine, number)) is not None:
            differences.append({"seed": number, "what": difference})
        gc.collect()
        rounds.append({"seconds": elapsed, "resident_bytes": resident_bytes()})
        if time.monotonic() - written > WRITE_EVERY_SECONDS:
            written = time.monotonic()
            write(Machine.tally, rounds, differences)
    write(Machine.tally, rounds, differences)


def make_material(folder: Path) -> Material:
    """Fit small codecs of every kind of row on real hidden states."""
    batches = HiddenBatches(folder).batches(N_ROWS)
    rows = next(iter(batches)).numpy()
    codecs = (
        BitCodec(n_bits=67, n_steps=60, batch_size=256, refine="none"),
        BitCodec(n_bits=67, n_steps=60, batch_size=256, refine="fast"),
        BitCodec.preset("search", n_bits=64, n_steps=60, batch_size=256),
        BitCodec.preset("search", n_bits=100, n_steps=60, batch_size=256, side_bytes=4),
    )
    return Material(rows[:N_QUERIED], tuple(codec.fit(rows) for codec in codecs))


def run_round(machine: type[IndexMachine], number: int) -> str | None:
    """Run one round; return what differed, if anything did."""
    try:
        run_state_machine_as_test(seed(number)(machine), settings=SETTINGS)
    except Exception:
        return traceback.format_exc(limit=-4)
    return None


def resident_bytes() -> int:
    """Return the memory that this process has, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise OSError("the system does not tell memory")


def write(tally: Tally, rounds: list[dict[str, Any]], differences: list[dict[str, Any]]) -> None:
    """Put the figures so far into benchmarks/results/trust.json."""
    memory = np.array([entry["resident_bytes"] for entry in rounds]) / 2**20
    seconds = np.array([entry["seconds"] for entry in rounds])
    warm = len(rounds) // 4
    slope = np.polyfit(seconds[warm:], memory[warm:], 1)[0] if len(rounds) > 8 else None
    merge_results(
        "trust",
        ["soak"],
        {
            "hours": rounds[-1]["seconds"] / 3600,
            "rounds": len(rounds),
            "examples": tally.n_examples,
            "steps": tally.n_steps,
            "answers_compared": tally.n_compared,
            "differences": differences,
            "resident_mib": {
                "after_first_round": float(memory[0]),
                "after_a_quarter": float(memory[warm]),
                "at_the_end": float(memory[-1]),
                "largest": float(memory.max()),
                "growth_per_hour_after_a_quarter": None if slope is None else 3600 * float(slope),
            },
        },
    )


if __name__ == "__main__":
    main()
