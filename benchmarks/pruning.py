"""What dropping bits saves on real hidden states: one training, finished with and without pruning.

Bits are the sum of the bits' entropies of held-out rows. A codec that searches its codes is
measured at several prices, so that its rate is known at the error that pruning leaves.

    python -m benchmarks.pruning --fitted CACHE/fitted/layer-15 --held-out CACHE/held_out/layer-15
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rate_distortion import bits_at
from benchmarks.results_file import merge_results
from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches
from bitcodec.config import CodecConfig
from bitcodec.errors import ValueRangeError
from bitcodec.finishing import Finisher
from bitcodec.model import BinaryAutoencoder
from bitcodec.refine import Refiner, rate_prices
from bitcodec.statistics import BitStatistics, binary_entropy
from bitcodec.steering import Steering
from bitcodec.training import Trainer, start_training

NAME = "pruning"
PRESETS = ("archive", "features")
FACTORS = (1.0, 0.5, 0.7, 1.4, 2.0)
"""Of the price that codes are searched at; the first is the codec's own."""
Point = tuple[float, float]
"""Bits and FVU."""


def main() -> int:
    """Train and finish the presets that were asked for, and merge their figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fitted", type=Path, required=True, help="hidden states to fit on")
    parser.add_argument("--held-out", type=Path, required=True, help="those of other documents")
    parser.add_argument("--held-out-rows", type=int, default=8192, help="rows to measure on")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--steps", type=int, help="minibatches, instead of the preset's")
    arguments = parser.parse_args()
    held_out = draw(arguments.held_out, arguments.held_out_rows)
    for preset in arguments.presets:
        parameters = BitCodec.preset(preset).get_params()
        if arguments.steps:
            parameters["n_steps"] = arguments.steps
        figures = compare(CodecConfig.from_dict(parameters), arguments.fitted, held_out)
        merge_results(NAME, (preset,), figures)
        print(preset, figures, flush=True)
    return 0


def draw(folder: Path, n_rows: int) -> torch.Tensor:
    """Return some random rows."""
    order = torch.Generator().manual_seed(0)
    return next(iter(HiddenBatches(folder).shuffled(n_rows, order, keep_rest=True))).clone()


def compare(config: CodecConfig, fitted: Path, held_out: torch.Tensor) -> dict[str, Any]:
    """Return the figures of codecs with and without pruning, and what it saves at equal error."""
    batches = HiddenBatches(fitted)
    trainer = start_training(batches, config, device=torch.device("cpu"))
    for _ in trainer.run(batches):
        pass
    whole = finish(trainer, batches, held_out, prune=False)
    pruned = finish(trainer, batches, held_out, prune=True)
    bits, fvu = pruned["curve"][0]
    try:
        equal = bits_at([tuple(point) for point in whole["curve"]], fvu)
    except (ValueRangeError, IndexError):
        equal = None  # codes that are not searched have one rate
    return {
        "n_fitted": batches.n_rows,
        "n_held_out": len(held_out),
        "n_steps": config.n_steps,
        "whole": whole,
        "pruned": pruned,
        "bits_of_whole_at_equal_fvu": equal,
        "saved": None if equal is None else 1 - bits / equal,
    }


def finish(
    trainer: Trainer, batches: HiddenBatches, held_out: torch.Tensor, *, prune: bool
) -> dict[str, Any]:
    """Finish a copy of a trained model, and measure it."""
    began = time.process_time()
    config = dataclasses.replace(trainer.config, prune=prune)
    finisher = Finisher(
        copy.deepcopy(trainer.model), config, steering=Steering(config), validation=None
    )
    statistics = finisher.finish(batches)
    seconds = time.process_time() - began
    points = curve(finisher.model, statistics, config, held_out)
    dead = float((statistics.activity < 1e-4).mean())
    return {
        "n_bits": finisher.model.n_bits,
        "dead": dead,
        "curve": points,
        "finish_cpu_seconds": seconds,
    }


@torch.no_grad()
def curve(
    model: BinaryAutoencoder, statistics: BitStatistics, config: CodecConfig, held_out: torch.Tensor
) -> list[Point]:
    """Return bits and FVU of held-out rows, at every price where codes are searched."""
    rows = model.standardise(held_out)
    linear = model.encode(rows)
    if config.refine == "none":
        return [measure(model, rows, linear)]
    starts, points = linear.to(torch.uint8).numpy(), []
    for factor in FACTORS:
        weight = factor * config.entropy_weight
        price = rate_prices(statistics.counts, statistics.n_rows, entropy_weight=weight)
        refiner = Refiner(model.decoder_weight, model.decoder_bias, price=price)
        bits = refiner.refine(rows.numpy(), starts, effort=config.refine)
        points.append(measure(model, rows, torch.from_numpy(bits).to(rows)))
    return points


def measure(model: BinaryAutoencoder, rows: torch.Tensor, bits: torch.Tensor) -> Point:
    """Return the sum of the bits' entropies, and the mean FVU of the dimensions that vary."""
    errors = (rows - model.reconstruct(bits)).double().square().mean(dim=0)
    variances = rows.double().var(dim=0, correction=0)
    varies = variances > 0
    activity = bits.double().mean(dim=0).numpy()
    return float(np.sum(binary_entropy(activity))), float((errors / variances)[varies].mean())


if __name__ == "__main__":
    sys.exit(main())
