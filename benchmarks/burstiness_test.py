"""Burstiness put to the test: whether the most bursty feature of a row is the most important.

A row's features are switched off one after the other, the most bursty first (of those that are on,
the rarest), the one with the longest decoder row first, the one whose removal alone raises the
squared error most first, in random order, and the least bursty first. How do the reconstruction
and the model's next-token loss fall with the number removed?

Then single features are held on or off at the layer while the model reads, and the tokens whose
probability changes most are put beside those that the decoder row promotes through the unembedding.

    python -m benchmarks.burstiness_test --packages DEBS --codec CODEC

About ten minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.burstiness_orders import ORDERS, Removal, RowOrders, error_curves, rank_agreement
from benchmarks.feature_effects import feature_effects
from benchmarks.hidden_states import TEXTS
from benchmarks.passages import read_excerpts
from benchmarks.results_file import RESULTS, merge_results
from bitcodec import BitCodec
from bitcodec_transformers import (
    LanguageModel,
    TokenStates,
    feature_directions,
    hidden_of,
    load_model,
    splice,
)

NAME = "burstiness_test"
COUNTS = (1, 2, 4, 8, 16, 32)
"""Features removed from every row."""
RARE = 0.02
"""Activity below which a feature is too rare to be shown."""


def main() -> int:
    """Merge the figures of one layer into benchmarks/results/burstiness_test.json; draw them."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    codec = BitCodec.load(arguments.codec, device="cpu")
    model = load_model(arguments.model)
    texts = read_excerpts(arguments.packages, TEXTS)[1]
    begun = time.perf_counter()
    figures: dict[str, Any] = {
        "codec": {"fingerprint": codec.fingerprint_, "entropy_bits": codec.statistics_.entropy_bits}
    }
    read, rest = texts[: arguments.documents], texts[arguments.documents :]
    states = hidden_of(read, model=model, layer=arguments.layer)
    norm = float(np.median(np.linalg.norm(states.hidden, axis=1)))
    figures |= {"median_norm": norm} | reconstruction(codec, states)
    scale = states.hidden.std(axis=0)
    figures["losses"] = next_token_losses(
        Removal(codec, scale=scale), model, rest, norm=norm, arguments=arguments
    )
    figures["steering"] = steering(codec, model, read, norm=norm, arguments=arguments)
    figures["seconds"] = round(time.perf_counter() - begun)
    merge_results(NAME, (f"layer-{arguments.layer}",), figures)
    draw(figures, RESULTS / f"{NAME}.png")
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--packages", type=Path, required=True, help="folder of Debian packages")
    parser.add_argument("--codec", type=Path, required=True, help="a codec of the layer")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--documents", type=int, default=24, help="for the reconstruction")
    parser.add_argument("--max-tokens", type=int, default=2_000, help="for the model's loss")
    parser.add_argument("--features", type=int, default=8, help="to switch, by |decoder row|")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def reconstruction(codec: BitCodec, states: TokenStates) -> dict[str, Any]:
    """Measure FVU by features removed, and how far the orders agree."""
    orders = RowOrders.of(codec, states.hidden, scale=states.hidden.std(axis=0))
    n_on = orders.bits.sum(axis=1)
    return {
        "rows": len(n_on),
        "documents": len(np.unique(states.rows.document)),
        "features_on": {"mean": float(n_on.mean()), "least": int(n_on.min())},
        "fvu": error_curves(orders, counts=(0, *COUNTS)),
        "agreement_with_error_rise": rank_agreement(orders, states.rows.document),
    }


def next_token_losses(
    removal: Removal,
    model: LanguageModel,
    texts: list[str],
    *,
    norm: float,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Measure what the model loses by features removed, on documents of their own."""
    replace = {"0 removed": removal.replacement("random", 0)} | {
        f"{order}, {count} removed": removal.replacement(order, count)
        for order in ORDERS
        for count in COUNTS
    }
    report = splice(
        texts,
        model=model,
        layer=arguments.layer,
        replace=replace,
        median_norm=norm,
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
    codec: BitCodec,
    model: LanguageModel,
    texts: list[str],
    *,
    norm: float,
    arguments: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Describe what holding features on and off does to the next token."""
    activity = codec.statistics_.activity
    directions = feature_directions(codec, range(codec.n_bits_))
    lengths = np.linalg.norm(directions, axis=1) * (activity > RARE)
    chosen = np.argsort(-lengths)[: arguments.features]
    return [
        feature_effects(
            model,
            codec,
            texts[:12],
            layer=arguments.layer,
            feature=int(feature),
            median_norm=norm,
        )
        for feature in chosen
    ]


def draw(figures: dict[str, Any], path: Path) -> None:
    """Write a PNG: FVU and the model's loss against features removed, a line an order."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, (errors, losses) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for order in ORDERS:
        errors.plot((0, *COUNTS), figures["fvu"][order], marker="o", label=order)
        at = [figures["losses"]["by_removal"][f"{order}, {count} removed"] for count in COUNTS]
        heights = [outcome["cross_entropy"] for outcome in at]
        bars = [1.96 * (outcome["cross_entropy_error"] or 0) for outcome in at]
        losses.errorbar(COUNTS, heights, yerr=bars, marker="o", capsize=2)
    nothing = figures["losses"]["by_removal"]["0 removed"]["cross_entropy"]
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
