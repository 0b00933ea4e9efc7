r"""How time and memory of encoding and decoding grow with rows n, width d and bits h.

Costs do not depend on what the weights are, so the autoencoders are random and the rows are
SmolLM2's, repeated (columns too) as a stream to the size that is asked for. Every size runs in a
process of its own on one thread; its peak memory is what the process grew by.

    python -m benchmarks.speed_growth           # two decades of each, results and picture
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results_file import RESULTS, save_results
from benchmarks.speed import prepare
from bitcodec.coder import PackedCoder
from bitcodec.model import BinaryAutoencoder

NAME = "speed_growth"
BASE = {"n": 20_000, "d": 576, "h": 2304}
SIZES = {
    "n": (2_000, 6_000, 20_000, 60_000, 200_000),
    "d": (32, 100, 320, 1000, 3200),
    "h": (100, 320, 1000, 3200, 10_000),
}
BATCH_ROWS = 2048


def main() -> None:
    """Measure every size, write the results, and draw them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("demo"), help="folder of the harvest")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(np.load(arguments.work / "rows.npy"), **arguments.one)))
        return
    _, rows = prepare(arguments.work)
    np.save(arguments.work / "rows.npy", rows[:BATCH_ROWS])
    results: dict[str, Any] = {"base": BASE}
    for what, sizes in SIZES.items():
        results[what] = [in_process(BASE | {what: size}, arguments.work) for size in sizes]
        results[f"slope of seconds in {what}"] = slope(results[what], what)
        print(json.dumps(results[what], indent=2), flush=True)
    save_results(NAME, results)
    draw(results, RESULTS / f"{NAME}.png")


def in_process(size: dict[str, int], work: Path) -> dict[str, Any]:
    """Measure one size in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.speed_growth", "--work", str(work)]
    done = subprocess.run(
        [*command, "--one", json.dumps(size)], check=True, capture_output=True, text=True
    )
    figures: dict[str, Any] = json.loads(done.stdout)
    return size | figures


def measure(rows: np.ndarray, *, n: int, d: int, h: int) -> dict[str, float]:
    """Encode and decode n rows as a stream; return processor seconds and peak MiB."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    model = BinaryAutoencoder(n_dims=d, n_bits=h)
    with torch.no_grad():
        for weight in (model.encoder_weight, model.decoder_weight):
            weight.copy_(torch.randn(weight.shape, generator=generator))
    coder = PackedCoder(model)
    coder.decode(coder.encode(next(stream(rows, BATCH_ROWS, d))))
    before = peak_mebibytes()
    seconds = {"encode_seconds": 0.0, "decode_seconds": 0.0}
    for batch in stream(rows, n, d):
        began = time.process_time()
        packed = coder.encode(batch)
        middle = time.process_time()
        coder.decode(packed)
        seconds["encode_seconds"] += middle - began
        seconds["decode_seconds"] += time.process_time() - middle
    figures = seconds | {"growth_mebibytes": peak_mebibytes() - before, "mebibytes": before}
    return {name: round(value, 3) for name, value in figures.items()}


def stream(rows: np.ndarray, n: int, d: int) -> Iterator[torch.Tensor]:
    """Yield n rows of d columns, those given again and again."""
    wide = np.tile(rows, (1, -(-d // rows.shape[1])))[:, :d].copy()
    for start in range(0, n, len(wide)):
        yield torch.from_numpy(wide[: n - start])


def peak_mebibytes() -> float:
    """Return the most memory that this program had; getrusage would count its parent's too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def slope(runs: list[dict[str, Any]], what: str) -> float:
    """Return the exponent of growth over the last decade: 1 is linear."""
    last, tenth = runs[-1], runs[-3]
    times = [run["encode_seconds"] + run["decode_seconds"] for run in (last, tenth)]
    return round(math.log(times[0] / times[1]) / math.log(last[what] / tenth[what]), 3)


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw seconds and memory against n, d and h."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(11, 6), sharey="row", constrained_layout=True)
    titles = {"n": "rows n", "d": "width d", "h": "bits h"}
    for column, (what, title) in enumerate(titles.items()):
        sizes = [run[what] for run in results[what]]
        for name in ("encode", "decode"):
            times = [run[f"{name}_seconds"] for run in results[what]]
            axes[0, column].loglog(sizes, times, marker="o", label=name)
        memory = [run["mebibytes"] + run["growth_mebibytes"] for run in results[what]]
        axes[1, column].semilogx(sizes, memory, marker="o", color="tab:gray")
        axes[1, column].set_xlabel(title)
    axes[0, 0].set_ylabel("seconds, one thread")
    axes[0, 0].legend()
    axes[1, 0].set_ylabel("peak memory, MiB")
    axes[1, 0].set_ylim(bottom=0)
    base = ", ".join(f"{name} = {size:,}" for name, size in results["base"].items())
    figure.suptitle(f"Encoding and decoding, elsewhere {base}")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
