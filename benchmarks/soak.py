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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from benchmarks.process_memory import ProcessMemory, resident_bytes, trim
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


@dataclass(frozen=True)
class Round:
    """What is looked at after a round."""

    seconds: float
    """Since the beginning, when the round began."""
    memory: ProcessMemory


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
    rounds: list[Round] = []
    differences: list[dict[str, Any]] = []
    while (elapsed := time.monotonic() - begun) < 3600 * arguments.hours:
        number = arguments.first_seed + len(rounds)
        if (difference := run_round(Machine, number)) is not None:
            differences.append({"seed": number, "what": difference})
        gc.collect()
        rounds.append(Round(elapsed, ProcessMemory.now()))
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


def write(tally: Tally, rounds: list[Round], differences: list[dict[str, Any]]) -> None:
    """Put the figures so far into benchmarks/results/trust.json."""
    merge_results(
        "trust",
        ["soak"],
        {
            "hours": rounds[-1].seconds / 3600,
            "rounds": len(rounds),
            "examples": tally.n_examples,
            "steps": tally.n_steps,
            "answers_compared": tally.n_compared,
            "differences": differences,
            "memory": describe_memory(rounds),
        },
    )


def describe_memory(rounds: list[Round]) -> dict[str, Any]:
    """Describe how each kind of memory went; what is kept (a leak) shows in all of them.

    Free memory in pieces, on the other hand, makes only `resident_mib` grow. The last look is
    taken again after malloc was asked to give back what is free.
    """
    seconds = [round.seconds for round in rounds]
    memory = [round.memory for round in rounds]
    trim()
    figures: dict[str, Any] = {
        "resident_mib": growth(seconds, [each.resident_bytes / 2**20 for each in memory]),
        "resident_mib_once_trimmed": resident_bytes() / 2**20,
        "python_blocks": growth(seconds, [float(each.python_blocks) for each in memory]),
    }
    in_use = [each.malloc_bytes / 2**20 for each in memory if each.malloc_bytes is not None]
    if len(in_use) == len(memory):
        figures["malloc_in_use_mib"] = growth(seconds, in_use)
    return figures


def growth(seconds: list[float], values: list[float]) -> dict[str, float | None]:
    """Describe a series: where it was, and its slope by least squares from a quarter on."""
    warm = len(values) // 4
    slope = np.polyfit(seconds[warm:], values[warm:], 1)[0] if len(values) > 8 else None
    return {
        "after_first_round": values[0],
        "after_a_quarter": values[warm],
        "at_half_time": values[len(values) // 2],
        "at_the_end": values[-1],
        "largest": max(values),
        "growth_per_hour_after_a_quarter": None if slope is None else 3600 * float(slope),
    }


if __name__ == "__main__":
    main()
