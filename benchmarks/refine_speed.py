"""Time of search-based encoding as a ratio of the linear pass, on one codec and its hidden states.

    python -m benchmarks.refine_speed CODEC HIDDEN [--rows 2048] [--repeats 7] [--entropy-weight B]

CODEC is a codec folder, HIDDEN what `HiddenBatches` reads; the last rows are taken. Every ratio is
(linear pass + search) / linear pass, each pair timed one after the other in one process, in
processor time of one thread, so that other work on the machine counts little. Before timing, the
codes are checked: no row costs more than its start, and no single flip improves the first 64 rows
by more than rounding.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results_file import save_results
from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches
from bitcodec.bits import pack, unpack
from bitcodec.refine import Effort, Refiner, rate_prices

EFFORTS: list[Effort] = ["fast", 1, 2, "best"]


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    codec = BitCodec.load(options.codec, device="cpu")
    hidden = last_rows(options.hidden, options.rows)
    weight = options.entropy_weight
    weight = codec.get_params()["entropy_weight"] if weight is None else weight
    report = measure(codec, hidden, entropy_weight=weight, n_repeats=options.repeats)
    print(json.dumps(report, indent=2))
    save_results("refine_speed", report)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("codec", type=Path)
    parser.add_argument("hidden", type=Path)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--entropy-weight", type=float, help="default: the codec's own")
    return parser.parse_args()


def last_rows(source: Path, n_rows: int) -> torch.Tensor:
    last = torch.empty(0)
    for batch in HiddenBatches(source).batches(n_rows):
        last = torch.cat([last, batch])[-n_rows:]
    return last


def measure(
    codec: BitCodec, hidden: torch.Tensor, *, entropy_weight: float, n_repeats: int
) -> dict[str, Any]:
    model, counts = codec._model, codec.statistics_.counts
    prices = rate_prices(counts, codec.statistics_.n_rows, entropy_weight=entropy_weight)
    refiner = Refiner(model.decoder_weight, model.decoder_bias, price=prices)
    with torch.no_grad():
        rows = model.standardise(hidden).numpy()
    linear = unpack(codec._coder().encode(hidden), n_bits=codec.n_bits_)
    modes = {}
    for effort in EFFORTS:
        n_rows = len(rows) if effort == "fast" else min(512, len(rows))
        part, starts, states = rows[:n_rows], linear[:n_rows], hidden[:n_rows]
        refined = refiner.refine(part, starts, effort=effort, n_threads=1)
        check(refiner, part, starts, refined)
        ratios = time_ratios(codec, refiner, part, states, effort=effort, n_repeats=n_repeats)
        modes[str(effort)] = ratios | quality(refiner, part, starts, refined)
    return {
        "what": "(linear pass + search) / linear pass, one thread, processor time",
        "n_rows": len(rows),
        "n_dims": codec.n_dims_,
        "n_bits": codec.n_bits_,
        "entropy_weight": entropy_weight,
        "linear_on_bits_per_row": float(linear.sum(axis=1).mean()),
        "codec": codec.fingerprint_,
        "modes": modes,
    }


def check(refiner: Refiner, rows: np.ndarray, starts: np.ndarray, refined: np.ndarray) -> None:
    before, after = refiner.objective(rows, starts), refiner.objective(rows, refined)
    assert (after <= before * (1 + 1e-12)).all(), "a searched code costs more than its start"
    few, codes = rows[:64], refined[:64]
    for j in range(0, codes.shape[1], 16):
        flipped = codes.copy()
        flipped[:, j] ^= 1
        change = refiner.objective(few, flipped) - after[:64]
        assert (change > -1e-4 * after[:64]).all(), f"flipping bit {j} would improve a code"


def time_ratios(
    codec: BitCodec,
    refiner: Refiner,
    rows: np.ndarray,
    hidden: torch.Tensor,
    *,
    effort: Effort,
    n_repeats: int,
) -> dict[str, float]:
    coder = codec._coder()

    def search() -> None:
        starts = unpack(coder.encode(hidden), n_bits=codec.n_bits_)
        pack(refiner.refine(rows, starts, effort=effort, n_threads=1))

    pairs = [(seconds(lambda: coder.encode(hidden)), seconds(search)) for _ in range(n_repeats)]
    ratios = sorted(searched / linear for linear, searched in pairs)
    return {
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_lowest": round(ratios[0], 3),
        "ratio_highest": round(ratios[-1], 3),
        "linear_rows_per_second": round(
            len(rows) / statistics.median([linear for linear, _ in pairs])
        ),
    }


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def quality(
    refiner: Refiner, rows: np.ndarray, starts: np.ndarray, refined: np.ndarray
) -> dict[str, float]:
    flips = (starts != refined).sum(axis=1).mean()
    return {
        "objective_before": round(float(refiner.objective(rows, starts).mean()), 3),
        "objective_after": round(float(refiner.objective(rows, refined).mean()), 3),
        "bits_changed_per_row": round(float(flips), 2),
    }


if __name__ == "__main__":
    main()
