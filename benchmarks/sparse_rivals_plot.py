"""A picture of the sparse rivals and the README's table, made from their JSON alone.

Left: bits a token against FVU. An autoencoder's line is one training at several steps of its
values; its marked point is the coarsest step that adds a hundredth to FVU. Right: how many features
are on how often.

    python -m benchmarks.sparse_rivals_plot
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from benchmarks.rate_distortion import bits_at
from benchmarks.results_file import RESULTS
from benchmarks.sparse_rivals import ACTIVITY_EDGES, NAME
from bitcodec.errors import ValueRangeError
from bitcodec.files import read_json

COLOURS = {
    "bitcodec": "crimson",
    "relu": "tab:blue",
    "topk": "tab:green",
    "jumprelu": "tab:purple",
    "random": "0.55",
}
"""By the first word of a method's name."""
LINES = ("-", "--", ":", "-.")
"""Of the methods that share a colour, in the order of their names."""

Methods = dict[str, dict[str, Any]]
"""Figures by the method's name."""


def main() -> int:
    """Write benchmarks/results/sparse_rivals.png and print the table."""
    results = asked_results(NAME, description=__doc__)
    draw(results["methods"], RESULTS / f"{NAME}.png")
    print("\n".join(table_of(results["methods"], results.get("losses", {}))))
    return 0


def asked_results(name: str, *, description: str) -> dict[str, Any]:
    """Read the results of the states that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--states", help='"MODEL, layer N" as in the results, where not layer 15')
    states = parser.parse_args().states
    results: dict[str, Any] = read_json(RESULTS / f"{name}.json")["results"]
    return results[states] if states else results


def table_of(methods: Methods, losses: Methods) -> list[str]:
    """Return the lines of a table in Markdown.

    Args:
        methods: as the benchmark stores them.
        losses: likewise; may lack some.
    """
    lines = [
        "| method | bits | of values | FVU | our bits at that FVU | recovered | on | dead "
        "| on in over a tenth |",
        "|---|" + "---:|" * 8,
    ]
    for name, figures in methods.items():
        recovered = losses.get(name, {}).get("recovered")
        cells = (
            name,
            f"{figures['bits_per_vector']:.0f}",
            f"{figures['value_bits']:.0f}",
            f"{figures['fvu']:.3f}",
            our_bits(methods, figures["fvu"]),
            "" if recovered is None else f"{recovered:.3f}",
            f"{figures['features_on']:.1f}",
            f"{figures['dead']:,}",
            f"{figures['above_10_percent']:,}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def our_bits(methods: Methods, fvu: float) -> str:
    """Return the bits of our codecs at an FVU, between their rates; nothing beyond these."""
    ours = [
        (figures["bits_per_vector"], figures["fvu"])
        for name, figures in methods.items()
        if family_of(name) == "bitcodec"
    ]
    try:
        return f"{bits_at(ours, fvu):.0f}"
    except ValueRangeError:
        return ""


def draw(methods: Methods, path: Path) -> None:
    """Write a PNG.

    Args:
        methods: as the benchmark stores them.
        path: of the picture.
    """
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, (rates, activities) = pyplot.subplots(1, 2, figsize=(13, 5.2), layout="constrained")
    draw_rates(rates, methods)
    draw_activities(activities, methods)
    figure.legend(*rates.get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(path, dpi=90, metadata={"Software": None})
    pyplot.close(figure)


def draw_rates(panel: Any, methods: Methods) -> None:
    """Draw bits against FVU; our codecs, whose rates are trained for, are joined."""
    ours = sorted(
        (figures["bits_per_vector"], figures["fvu"])
        for name, figures in methods.items()
        if family_of(name) == "bitcodec"
    )
    if ours:
        panel.plot(*zip(*ours, strict=True), color=COLOURS["bitcodec"], linewidth=2.5, zorder=3)
    for name, figures in sorted(methods.items()):
        style = style_of(name, methods)
        points = sorted((at["bits_per_vector"], at["fvu"]) for at in figures.get("curve", ()))
        if points:
            panel.plot(*zip(*points, strict=True), **style, linewidth=1.3)
        chosen = figures["bits_per_vector"], figures["fvu"]
        panel.plot(*chosen, **style, marker="o", markersize=7, label=name)
    panel.set(xscale="log", xlabel="bits per token", ylabel="fraction of variance unexplained")
    panel.grid(alpha=0.3, which="both")


def draw_activities(panel: Any, methods: Methods) -> None:
    """Draw how many features are on in which share of the tokens, by half decades."""
    middles = [edge * 10**0.25 for edge in ACTIVITY_EDGES[:-1]]
    for name, figures in sorted(methods.items()):
        panel.plot(middles, figures["activity_histogram"], **style_of(name, methods))
    panel.set(xscale="log", xlabel="share of tokens at which a feature is on", ylabel="features")
    panel.grid(alpha=0.3)


def style_of(name: str, methods: Methods) -> dict[str, Any]:
    """Return a method's colour, that of its family, and its line."""
    kin = sorted(other for other in methods if family_of(other) == family_of(name))
    return {
        "color": COLOURS[family_of(name)],
        "linestyle": LINES[kin.index(name) % len(LINES)],
    }


def family_of(name: str) -> str:
    """Return what a method is a member of.

    >>> family_of("topk 32")
    'topk'
    """
    return name.split()[0]


if __name__ == "__main__":
    sys.exit(main())
