"""Burstiness put to the test: whether the most bursty feature of a row is the most important.

A row's features are switched off one after the other, the most bursty first (of those that are on,
the rarest), the one with the longest decoder row first, the one whose removal alone raises the
squared error most first, in random order, and the least bursty first. How do the reconstruction
and the model's next-token loss fall with the number removed?

Then single features are held on or off at the layer while the model reads, and the tokens whose
probability changes most are put beside those that the decoder row promotes through the unembedding.

    python -m benchmarks.burstiness_test --hidden CACHE/held_out/layer-15 --codec CODEC

About seven minutes on a core of its own, four of them for the losses.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.burstiness_orders import ORDERS, Removal, RowOrders, error_curves, rank_agreement
from benchmarks.feature_effects import feature_effects
from benchmarks.results_file import RESULTS, merge_results
from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches
from bitcodec.files import read_json
from bitcodec_transformers import (
    feature_directions,
    load_model,
    read_harvest,
    read_rows,
    splice,
)

NAME = "burstiness_test"
COUNTS = (1, 2, 4, 8, 16, 32)
"""Features removed from every row."""
PARTS = ("reconstruction", "losses", "steering")
N_TEXTS = 12
"""Texts that are read with a feature switched."""
RARE = 0.02
"""Activity below which a feature is too rare to be shown."""


def main() -> int:
    """Merge the figures of one layer into benchmarks/results/burstiness_test.json; draw them."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    codec = BitCodec.load(arguments.codec, device="cpu")
    begun, states = time.perf_counter(), read_states(arguments)
    figures: dict[str, Any] = {
        "codec": {"fingerprint": codec.fingerprint_, "entropy_bits": codec.statistics_.entropy_bits}
    }
    if "reconstruction" in arguments.parts:
        figures["reconstruction"] = reconstruction(codec, states)
    if "losses" in arguments.parts:
        removal = Removal(codec, scale=states.hidden.std(axis=0))
        figures["losses"] = next_token_losses(removal, states, arguments)
    if "steering" in arguments.parts:
        figures["steering"] = steering(codec, states, arguments)
    layer = f"layer-{states.layer}"
    for name, part in figures.items():
        merge_results(NAME, (layer, name), {"figures": part})
    print(f"{time.perf_counter() - begun:.0f} s")
    results = read_json(RESULTS / f"{NAME}.json")["results"][layer]
    if {"reconstruction", "losses"} <= set(results):
        draw(results, RESULTS / f"{NAME}.png")
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--hidden", type=Path, required=True, help="a layer of held-out states")
    parser.add_argument("--codec", type=Path, required=True, help="a codec of the layer")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="what to measure")
    parser.add_argument("--rows", type=int, default=6_000, help="for the reconstruction")
    parser.add_argument("--max-tokens", type=int, default=2_000, help="for the loss")
    parser.add_argument("--features", type=int, default=8, help="to switch, by |decoder row|")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


@dataclass(frozen=True, eq=False)
class HeldOut:
    """States that the codec was not fitted on, and the texts they are of."""

    layer: int
    """Their block."""
    hidden: np.ndarray
    """(n, d) float32, the first rows of the harvest."""
    document: np.ndarray
    """(n,) int64, their documents."""
    median_norm: float
    """The layer's, as harvested."""
    texts: list[str]
    """Texts of those documents."""
    more_texts: list[str]
    """Texts of the documents after them."""


def read_states(arguments: argparse.Namespace) -> HeldOut:
    """Read the rows and texts that the measurements need."""
    folder, layer = arguments.hidden.parent, int(arguments.hidden.name.split("-")[1])
    rows = read_rows(folder)
    batch = next(HiddenBatches(arguments.hidden).batches(arguments.rows))
    document = rows.document[: len(batch)]
    last, end = int(document[-1]), int(rows.document[-1])
    more = range(last + 1, min(last + 1 + arguments.max_tokens // 50, end))
    return HeldOut(
        layer,
        batch.numpy(),
        document,
        read_harvest(folder).median_norms[layer],
        [rows.source(number).text for number in range(last + 1)],
        [rows.source(number).text for number in more],
    )


def reconstruction(codec: BitCodec, states: HeldOut) -> dict[str, Any]:
    """Measure FVU by features removed, and how far the orders agree."""
    orders = RowOrders.of(codec, states.hidden, scale=states.hidden.std(axis=0))
    n_on = orders.bits.sum(axis=1)
    return {
        "rows": len(n_on),
        "documents": len(np.unique(states.document)),
        "features_on": {"mean": float(n_on.mean()), "least": int(n_on.min())},
        "fvu": error_curves(orders, counts=(0, *COUNTS)),
        "agreement_with_error_rise": rank_agreement(orders, states.document),
    }


def next_token_losses(
    removal: Removal, states: HeldOut, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Measure what the model loses by features removed, on documents of their own."""
    replace = {"0 removed": removal.replacement("random", 0)} | {
        f"{order}, {count} removed": removal.replacement(order, count)
        for order in ORDERS
        for count in COUNTS
    }
    report = splice(
        states.more_texts,
        model=load_model(arguments.model),
        layer=states.layer,
        replace=replace,
        median_norm=states.median_norm,
        max_tokens=arguments.max_tokens,
    )
    losses = {
        name: {
            "cross_entropy": outcome.cross_entropy,
            "cross_entropy_error": outcome.cross_entropy_error,
            "kl": outcome.kl,
        }
        for name, outcome in report.outcomes.items()
    }
    return {
        "tokens": report.n_tokens,
        "windows": report.n_windows,
        "original": report.cross_entropy_original,
        "zeros": report.cross_entropy_zero,
        "by_removal": losses,
    }


def steering(
    codec: BitCodec, states: HeldOut, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Describe what holding features on and off does to the next token."""
    activity, model = codec.statistics_.activity, load_model(arguments.model)
    directions = feature_directions(codec, range(codec.n_bits_))
    lengths = np.linalg.norm(directions, axis=1) * (activity > RARE)
    chosen = np.argsort(-lengths)[: arguments.features]
    return [
        feature_effects(
            model,
            codec,
            states.texts[:N_TEXTS],
            layer=states.layer,
            feature=int(feature),
            median_norm=states.median_norm,
        )
        for feature in chosen
    ]


def draw(figures: dict[str, Any], path: Path) -> None:
    """Write a PNG: FVU and the model's loss against features removed, a line an order."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    curves = figures["reconstruction"]["figures"]["fvu"]
    by_removal = figures["losses"]["figures"]["by_removal"]
    figure, (errors, losses) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for order in ORDERS:
        errors.plot((0, *COUNTS), curves[order], marker="o", label=order)
        at = [by_removal[f"{order}, {count} removed"] for count in COUNTS]
        heights = [outcome["cross_entropy"] for outcome in at]
        bars = [1.96 * (outcome["cross_entropy_error"] or 0) for outcome in at]
        losses.errorbar(COUNTS, heights, yerr=bars, marker="o", capsize=2)
    nothing = by_removal["0 removed"]["cross_entropy"]
    losses.axhline(nothing, color="0.6", linestyle="--")
    errors.set(xlabel="features removed from every row", ylabel="fraction of variance unexplained")
    losses.set(xlabel="features removed from every row", ylabel="next-token loss, nats")
    errors.legend(title="removed first")
    for panel in (errors, losses):
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
