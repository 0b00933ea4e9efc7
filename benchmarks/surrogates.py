r"""Surrogate gradients compared: error at equal rate on real hidden states, and how true they are.

Rate: each surrogate trains a codec of 2d bits that is steered to the same bits a row
(`target_bits`), one linear pass, no search. Where held-out rows take more or fewer bits than were
wished for, it is fitted anew with another wish. Truth: on the 16 leading principal components of
the same states, with 64 bits, the gradient through the step is measured in the course of training:
its norm, the share of logits where it vanishes, and its cosine with the score-function estimate of
the loss's own gradient (see `bitcodec.gradients`), beside the cosine of two such estimates.

    python -m benchmarks.surrogates --fitted HARVEST --held-out HARVEST --plot
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results_file import RESULTS, merge_results
from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches
from bitcodec.config import CodecConfig
from bitcodec.files import read_json
from bitcodec.gradients import encoder_gradient, measure_step_gradient, score_function_gradient
from bitcodec.training import start_training

NAME = "surrogates"
KINDS: dict[str, dict[str, Any]] = {
    "sigmoid, T .5": {"temperature": 0.5},
    "sigmoid, T 1": {"temperature": 1.0},
    "sigmoid, T 1 to .25": {"temperature": 1.0, "final_temperature": 0.25},
    "sigmoid, T .5 to .25": {"temperature": 0.5, "final_temperature": 0.25},
    "clipped, T .5": {"surrogate": "clipped", "temperature": 0.5},
    "clipped, T 1": {"surrogate": "clipped", "temperature": 1.0},
    "gumbel, T .25": {"surrogate": "gumbel", "temperature": 0.25},
    "gumbel, T .5 to .1": {
        "surrogate": "gumbel",
        "temperature": 0.5,
        "final_temperature": 0.1,
    },
    "identity": {"surrogate": "identity"},
    "published": {"surrogate": "published"},
}
N_COMPONENTS, N_SMALL_BITS, SMALL_STEPS = 16, 64, 600
FITS, CLOSE = 4, 0.01
"""Fits of a surrogate at most, and the share of the wanted rate that one may be off."""
WIDTH, N_SAMPLES = 0.1, 3000
"""Of the score-function estimate: width in weights of unit logits, and pairs of samples."""


def main() -> int:
    """Merge what was asked for into benchmarks/results/surrogates.json, and draw it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--fitted", type=Path, help="harvested states to fit on")
    parser.add_argument("--held-out", type=Path, help="harvested states of other documents")
    parser.add_argument("--target-bits", type=float, default=200.0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=1, help="of the fits at equal rate")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--plot", action="store_true", help="draw the results' picture")
    arguments = parser.parse_args()
    if arguments.fitted and arguments.held_out:
        held_out = read_rows(arguments.held_out, n_rows=8192)
        small = components_of(read_rows(arguments.fitted, n_rows=8192))
        for name in arguments.kinds:
            parameters = KINDS[name]
            rates = [
                at_equal_rate({**parameters, "seed": seed}, arguments, held_out)
                for seed in range(arguments.seeds)
            ]
            figures: dict[str, dict[str, Any]] = {
                "rate": {**rates[0], "fvu_by_seed": [rate["fvu"] for rate in rates]},
                "truth": in_training(parameters, small),
            }
            merge_results(NAME, (name,), figures)
            print(f"{name:22}", figures["rate"], flush=True)
    if arguments.plot:
        draw(read_json(RESULTS / f"{NAME}.json")["results"])
    return 0


def read_rows(folder: Path, *, n_rows: int) -> np.ndarray:
    """Return some random rows of a harvest."""
    order = torch.Generator().manual_seed(0)
    batches = HiddenBatches(folder).shuffled(n_rows, order, keep_rest=True)
    return next(iter(batches)).numpy().copy()


def at_equal_rate(
    parameters: dict[str, Any], arguments: argparse.Namespace, held_out: np.ndarray
) -> dict[str, float]:
    """Fit codecs until held-out rows take the wanted bits, and return the closest's figures."""
    target, fits = arguments.target_bits, list[dict[str, float]]()
    for _ in range(FITS):
        fits.append(fit_and_measure(parameters, arguments, held_out, target_bits=target))
        ratio = arguments.target_bits / fits[-1]["code_bits"]
        if abs(ratio - 1) < CLOSE:
            break
        target *= ratio
    closest = min(fits, key=lambda fit: abs(fit["code_bits"] - arguments.target_bits))
    return {**closest, "fits": len(fits)}


def fit_and_measure(
    parameters: dict[str, Any],
    arguments: argparse.Namespace,
    held_out: np.ndarray,
    *,
    target_bits: float,
) -> dict[str, float]:
    """Fit a codec steered to a rate, and measure it on held-out rows."""
    codec = BitCodec(
        expansion=2.0,
        n_steps=arguments.steps,
        target_bits=target_bits,
        refine="none",
        **parameters,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a missed rate shows in the figures
        codec.fit(arguments.fitted)
    result, activity = codec.evaluate(held_out), codec.statistics_.activity
    return {
        "code_bits": result.code_bits,
        "fvu": result.fvu,
        "cosine": result.cosine,
        "dead": float((activity < 1e-4).mean()),
        "dense": float(((activity > 0.4) & (activity < 0.6)).mean()),
    }


def components_of(rows: np.ndarray) -> np.ndarray:
    """Return the leading principal components of standardised rows, each of unit variance."""
    standardised = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    left = np.linalg.svd(standardised, full_matrices=False)[0][:, :N_COMPONENTS]
    return np.ascontiguousarray(left * len(rows) ** 0.5, dtype=np.float32)


def in_training(parameters: dict[str, Any], rows: np.ndarray) -> dict[str, list[float]]:
    """Train a small codec, and measure its gradient every tenth of the steps."""
    config = CodecConfig(
        n_bits=N_SMALL_BITS,
        n_steps=SMALL_STEPS,
        batch_size=512,
        covariance_weight=0.0,
        initial_activity=0.2,
        revive=False,
        **parameters,
    )
    batches = HiddenBatches(rows)
    trainer = start_training(batches, config, device=torch.device("cpu"))
    sample = trainer.model.standardise(torch.from_numpy(rows[:512]))
    found: dict[str, list[float]] = {}
    for record in trainer.run(batches):
        if record.step % (SMALL_STEPS // 10) in (1, 0):
            figures = gradient_figures(trainer.model, sample, config, step=record.step)
            for name, value in figures.items():
                found.setdefault(name, []).append(value)
    return found


def gradient_figures(
    model: Any, rows: torch.Tensor, config: CodecConfig, *, step: int
) -> dict[str, float]:
    """Return norms, share of vanished logits and cosines at one step."""
    progress = step / config.n_steps
    flow = measure_step_gradient(model, rows, config, progress=progress)
    halves = [
        score_function_gradient(
            model,
            rows,
            config,
            progress=progress,
            width=WIDTH,
            n_samples=N_SAMPLES // 2,
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (0, 1)
    ]
    surrogate = encoder_gradient(model, rows, config, progress=progress)
    similarity = torch.nn.functional.cosine_similarity
    return {
        "step": float(step),
        **dataclasses.asdict(flow),
        "cosine": float(similarity(surrogate, halves[0] + halves[1], dim=0)),
        "cosine_of_estimates": float(similarity(halves[0], halves[1], dim=0)),
    }


def draw(results: dict[str, Any]) -> None:
    """Draw error at equal rate, and the gradient's norm, reach and truth in training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8))
    bits = [run["rate"]["code_bits"] for run in results.values()]
    fvus = [run["rate"]["fvu"] for run in results.values()]
    axes[0, 0].scatter(bits, fvus)
    for name, x, y in zip(results, bits, fvus, strict=True):
        axes[0, 0].annotate(name, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=8)
    axes[0, 0].set(xlabel="bits a row, held-out", ylabel="FVU, held-out", title="Error and rate")
    shown = {"norm": "Norm behind the step", "vanishing": "Share of logits without gradient"}
    shown["cosine"] = "Cosine with the score-function gradient"
    for axis, (key, title) in zip(axes.flat[1:], shown.items(), strict=True):
        for name, run in results.items():
            axis.plot(run["truth"]["step"], run["truth"][key], label=name, linewidth=1.2)
        axis.set(title=title, xlabel=f"step of {SMALL_STEPS}")
    axes[0, 1].set_yscale("log")
    axes[1, 1].legend(fontsize=7, frameon=False, ncols=2)
    figure.tight_layout()
    figure.savefig(RESULTS / f"{NAME}.png", dpi=110)


if __name__ == "__main__":
    sys.exit(main())
