"""Wishes for a rate or an error: what codecs reach on rows of other documents.

The preset "archive" is steered to `target_bits` and to `target_fvu`. Steering sees rows kept from
training; held out here are rows of other files, and embeddings of other passages. Figures are
merged after each fit, so that an interrupted run keeps what it has.

    python -m benchmarks.targets --packages DEBS --cache CACHE --embeddings CACHE2

With `--validation`, steering sees half of those rows, and the other half is measured: what a fit
reaches whose `validation` is of the kind that is to be encoded.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hidden_states import add_arguments
from benchmarks.rate_distortion import load
from benchmarks.results_file import merge_results
from bitcodec import BitCodec
from bitcodec.errors import TrainingWarning
from bitcodec.metrics import DistortionMeter
from bitcodec.statistics import BitStatistics

NAME = "targets"
DATASETS = ("layer-15", "layer-25", "minilm")
WISHES: dict[str, dict[str, float]] = {
    "200 bits": {"target_bits": 200.0},
    "FVU .2": {"target_fvu": 0.2},
}
RUN_ROWS = 300
"""Neighbouring rows that count as one draw: about a document, whose rows are alike."""


@dataclass(frozen=True)
class Reached:
    """What held-out rows take and lose."""

    entropy_bits: float
    """Sum of the bits' entropies over these rows: what `target_bits` means."""
    code_bits: float
    """What they take with the activities of the fit."""
    code_bits_error: float
    """Standard error of that, by runs of rows."""
    fvu: float
    """Mean over the dimensions."""
    fvu_error: float
    """Standard error of that, by runs of rows."""


def main() -> int:
    """Fit and measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--embeddings", type=Path, help="folder that keeps embeddings")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--wishes", nargs="+", choices=list(WISHES), default=list(WISHES))
    parser.add_argument("--validation", action="store_true", help="steer by half the held-out rows")
    arguments = parser.parse_args()
    if "minilm" in arguments.datasets and arguments.embeddings is None:
        parser.error("minilm needs --embeddings, a folder that keeps them")
    for dataset in arguments.datasets:
        train, held_out = load(dataset, arguments)
        seen, unseen = np.split(held_out, [len(held_out) // 2])
        for wish in arguments.wishes:
            if arguments.validation:
                place = dataset, f"{wish}, validation given"
                figures = grant(WISHES[wish], train, unseen, validation=seen)
            else:
                place = dataset, wish
                figures = grant(WISHES[wish], train, held_out)
            merge_results(NAME, place, figures)
            print(*place, line_of(figures), flush=True)
    return 0


def grant(
    wish: dict[str, float],
    train: np.ndarray,
    held_out: np.ndarray,
    *,
    validation: np.ndarray | None = None,
) -> dict[str, Any]:
    """Fit a codec with a wish, and measure how far from it held-out rows are."""
    began = time.process_time()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", TrainingWarning)
        codec = BitCodec.preset("archive", **wish).fit(train, validation=validation)
    seconds = time.process_time() - began
    reached = measure(codec, held_out)
    return {
        "n_fitted": len(train),
        "n_held_out": len(held_out),
        **asdict(reached),
        "miss": miss(wish, reached),
        "dead": float((codec.statistics_.activity < 1e-4).mean()),
        "fit_cpu_seconds": seconds,
        "warnings": [str(warning.message) for warning in warned],
    }


def measure(codec: BitCodec, rows: np.ndarray) -> Reached:
    """Measure rate and error of rows, and how far chance in the choice of rows may move them."""
    packed = codec.encode(rows)
    statistics = BitStatistics.empty(codec.n_bits_).update(packed)
    meter = DistortionMeter(rows.mean(axis=0))
    decoded = codec.decode(packed)
    meter.update(rows, decoded)
    varies = ~np.isnan(meter.fvu_per_dimension())
    losses = (np.square(rows - decoded)[:, varies] / rows.var(axis=0)[varies]).mean(axis=1)
    runs = [slice(at, at + RUN_ROWS) for at in range(0, len(rows), RUN_ROWS)]
    rates = [
        BitStatistics.empty(codec.n_bits_).update(packed[run]).code_bits(codec.statistics_)
        for run in runs
    ]
    return Reached(
        entropy_bits=statistics.entropy_bits,
        code_bits=statistics.code_bits(codec.statistics_),
        code_bits_error=standard_error(rates),
        fvu=meter.fvu,
        fvu_error=standard_error([float(losses[run].mean()) for run in runs]),
    )


def standard_error(values: Sequence[float]) -> float:
    """Return that of the mean of independent values.

    >>> round(standard_error([1.0, 2.0, 3.0]), 4)
    0.5774
    """
    return float(np.std(values, ddof=1) / len(values) ** 0.5)


def miss(wish: dict[str, float], reached: Reached) -> float:
    """Return how far from a wish the held-out rows are, as a share of it.

    >>> round(miss({"target_bits": 200.0}, Reached(190.0, 192.0, 3.0, 0.3, 0.01)), 3)
    -0.05
    """
    if "target_bits" in wish:
        return reached.entropy_bits / wish["target_bits"] - 1
    return reached.fvu / wish["target_fvu"] - 1


def line_of(figures: dict[str, Any]) -> str:
    """Return figures in a line."""
    return (
        f"{figures['entropy_bits']:.1f} bits, FVU {figures['fvu']:.4f}: {figures['miss']:+.1%} "
        f"from the wish, {figures['dead']:.1%} dead, {figures['fit_cpu_seconds']:.0f} s of CPU"
    )


if __name__ == "__main__":
    sys.exit(main())
