"""A picture of the entropies by layer, drawn from their JSON alone."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

Z = 1.96
"""Standard errors in half of a 95% interval."""


def draw(results: dict[str, Any], path: Path, *, group: str) -> None:
    """Write a PNG: entropy by place in the context, and by demonstrations of each task.

    Args:
        results: of one model, as the benchmark stores them.
        path: of the picture.
        group: which prompts.
    """
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    tasks = results["by demonstrations"][group]["tasks"]
    n_columns = (3 + len(tasks)) // 2
    figure, grid = pyplot.subplots(
        2, n_columns, figsize=(4.4 * n_columns, 7.6), layout="constrained"
    )
    panels = list(grid.flat)
    for unused in panels[2 + len(tasks) :]:
        unused.remove()
    layers = sorted(results["by position"], key=lambda name: int(name.split("-")[1]))
    colours = dict(
        zip(layers, pyplot.colormaps["viridis"].resampled(len(layers)).colors, strict=True)
    )
    draw_positions(panels[0], results["by position"], colours)
    draw_rates(panels[1], tasks)
    for panel, (task, cells) in zip(panels[2:], tasks.items(), strict=False):
        draw_task(panel, task, cells, colours)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(path, dpi=80, metadata={"Software": None})
    pyplot.close(figure)


def draw_positions(panel: Any, by_layer: dict[str, Any], colours: dict[str, Any]) -> None:
    """Draw the entropy of the codes at a place in the context, over documents."""
    for name, colour in colours.items():
        figures = by_layer[name]
        _band(panel, figures["positions"], figures["entropy_bits"], color=colour, label=name)
    panel.set(xscale="log", xlabel="position in the context", ylabel="bits", title="documents")
    panel.grid(alpha=0.3)


def draw_rates(panel: Any, tasks: dict[str, Any]) -> None:
    """Draw the probability of the right answer."""
    for task, cells in tasks.items():
        _band(
            panel,
            [int(n) for n in cells],
            [cell["probability"] for cell in cells.values()],
            label=task,
        )
    panel.set(xlabel="demonstrations", ylabel="probability of the right answer")
    panel.legend(fontsize="x-small", loc="center right", framealpha=0.6)
    panel.grid(alpha=0.3)


def draw_task(panel: Any, task: str, cells: dict[str, Any], colours: dict[str, Any]) -> None:
    """Draw the entropy at the answer's place, over questions."""
    for name, colour in colours.items():
        values = [
            cell["entropy_bits"][name] for cell in cells.values() if name in cell["entropy_bits"]
        ]
        if not values:
            continue  # a layer that was fitted after the prompts were read
        _band(panel, [int(n) for n in cells], values, color=colour)
    panel.set(xlabel="demonstrations", ylabel="bits", title=task)
    panel.grid(alpha=0.3)


def _band(panel: Any, places: list[float], values: list[list[float]], **style: Any) -> None:
    middle = [value for value, _ in values]
    (line,) = panel.plot(places, middle, marker="o", markersize=3, **style)
    ends = [[value + sign * Z * error for value, error in values] for sign in (-1, 1)]
    panel.fill_between(places, *ends, color=line.get_color(), alpha=0.15, linewidth=0)
