"""A picture of the rate-distortion benchmark, drawn from its JSON alone.

A row for each data set: bits a vector against FVU, cosine and recall. Rates of one method are
joined; ours are thick and filled.

    python -m benchmarks.rate_distortion_plot
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.results_file import RESULTS
from bitcodec.files import read_json

PANELS = {
    "fvu": "fraction of variance unexplained",
    "cosine": "cosine",
    "recall_at_10": "recall of the floats' 10 nearest",
}
WIDTHS = (1.5, 1, 1)
LEAST_FVU, BITS = 1e-4, (64, 12_000)
"""Where the axes end: float16 and the bound at high rates are far below."""
MARKERS = "os^vD<>pPXhd8H"
OURS = ("crimson", "mediumblue", "darkorange", "darkviolet", "deeppink", "seagreen", "black")
"""Colours of our curves; the rivals' are pale."""

Methods = dict[str, dict[str, Any]]
"""Figures by the method's name."""


def main() -> int:
    """Write benchmarks/results/rate_distortion.png."""
    path = RESULTS / "rate_distortion.png"
    draw(read_json(RESULTS / "rate_distortion.json")["results"], path)
    print(path)
    return 0


def draw(results: dict[str, Any], path: Path) -> None:
    """Write a PNG.

    Args:
        results: by data set, as the benchmark stores them.
        path: of the picture.
    """
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    size = {"figsize": (20, 5.6 * len(results)), "width_ratios": WIDTHS, "squeeze": False}
    figure, panels = pyplot.subplots(len(results), len(PANELS), layout="constrained", **size)
    names = {name: None for dataset in results.values() for name in families(dataset["methods"])}
    styles = style_of_families(list(names))
    for row, (dataset, measured) in zip(panels, results.items(), strict=True):
        for panel, figure_name in zip(row, PANELS, strict=True):
            draw_panel(panel, measured, figure_name, styles)
        row[1].set_title(title_of(dataset, measured["rows"]), fontsize=13)
    handles = {label: handle for row in panels for handle, label in labelled(row)}
    figure.legend(handles.values(), handles, loc="outside right upper", fontsize=11)
    figure.savefig(path, dpi=80, metadata={"Software": None})
    pyplot.close(figure)


def families(methods: Methods) -> dict[str, Methods]:
    """Group methods that differ only in their rate, in the order of their bits."""
    found: dict[str, Methods] = {}
    for name, figures in sorted(methods.items(), key=lambda item: item[1]["bits_per_vector"]):
        found.setdefault(family_of(name), {})[name] = figures
    return found


def family_of(name: str) -> str:
    """Return a method's name without its rate.

    >>> [family_of(name) for name in ("PQ12x8", "EDEN4", "float16", "bitcodec 0.34, best")]
    ['PQ', 'EDEN', 'float16', 'bitcodec, best']
    """
    if name.startswith("bitcodec"):
        return re.sub(r" [\d.]+", "", name)
    rate = re.fullmatch(r"([A-Za-z]+) ?\d+(x8)?", name)
    return name if rate is None or name.startswith("float") else rate[1]


def style_of_families(names: list[str]) -> dict[str, dict[str, Any]]:
    """Return how each family's line and markers look."""
    ours = sorted(name for name in names if name.startswith("bitcodec"))
    rivals = [name for name in names if name not in ours]
    palette: Any = importlib.import_module("matplotlib.pyplot").get_cmap("tab20")
    thick = {
        name: {
            "color": OURS[place % len(OURS)],
            "linewidth": 2.8,
            "markersize": 9,
            "zorder": 4,
            "linestyle": "-" if place < len(OURS) else ":",
        }
        for place, name in enumerate(ours)
    }
    thin = {
        name: {
            "color": palette((2 * place + place // 10) % 20),  # strong colours, then pale ones
            "linewidth": 1.2,
            "markersize": 6,
            "zorder": 3,
            "markerfacecolor": "white",
        }
        for place, name in enumerate(rivals)
    }
    markers = {name: MARKERS[place % len(MARKERS)] for place, name in enumerate(ours + rivals)}
    return {name: style | {"marker": markers[name]} for name, style in (thick | thin).items()}


def draw_panel(
    panel: Any, measured: dict[str, Any], figure_name: str, styles: dict[str, dict[str, Any]]
) -> None:
    """Draw one figure of all methods on one data set; those without it are left out."""
    for family, members in families(measured["methods"]).items():
        points = [
            (figures["bits_per_vector"], figures[figure_name])
            for figures in members.values()
            if figures[figure_name] is not None
        ]
        if points:
            panel.plot(*zip(*points, strict=True), label=family, **styles[family])
    if figure_name == "fvu":
        bound = measured["gaussian_bound"]
        panel.plot(bound["bits"], bound["fvu"], "k--", linewidth=1.4, label="Gaussian R(D)")
        panel.set(yscale="log", ylim=(LEAST_FVU, 1))
    panel.set(xscale="log", xlim=BITS, xlabel="bits per vector", ylabel=PANELS[figure_name])
    panel.set_xticks([2**power for power in range(6, 14)], [2**power for power in range(6, 14)])
    panel.set_xticks([], minor=True)
    panel.grid(alpha=0.3)


def title_of(dataset: str, rows: dict[str, Any]) -> str:
    """Return what a data set is."""
    return (
        f"{dataset}: d = {rows['n_dims']}, {rows['n_fitted']:,} rows fitted, "
        f"{rows['n_held_out']:,} held out"
    )


def labelled(row: Any) -> list[tuple[Any, str]]:
    """Return the lines of some panels with their labels, ours first and the bound last."""
    pairs = [pair for panel in row for pair in zip(*panel.get_legend_handles_labels(), strict=True)]
    ours = [pair for pair in pairs if pair[1].startswith("bitcodec")]
    bound = [pair for pair in pairs if pair[1].startswith("Gaussian")]
    return [*ours, *(pair for pair in pairs if pair not in ours + bound), *bound]


if __name__ == "__main__":
    sys.exit(main())
