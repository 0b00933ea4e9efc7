"""A picture of how many features reach which score, drawn with matplotlib (the extra `report`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bitcodec.extras import import_extra
from bitcodec.files import PathLike, atomic_path
from bitcodec_naming.names import Names
from bitcodec_naming.verdicts import CHANCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (6.4, 4.2)
_COLOURS = (
    "#3b6ea5",
    "#c8553d",
    "#588157",
    "#8e6c8a",
    "#b8860b",
    "#5c5c5c",
    "#00a0a0",
    "#d46a9f",
    "#7b4f28",
)


def draw_scores(names: Mapping[str, Names]) -> Figure:
    """Draw the share of features whose score is at least s over s, a line for each set.

    Dashed lines are of the same contexts under another feature's name. No global state of pyplot
    is touched.

    Args:
        names: by the label of the set.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure: Figure = import_extra("matplotlib.figure", extra="report").Figure(
        figsize=SIZE_INCHES, layout="constrained"
    )
    axes = figure.subplots()
    for at, (label, found) in enumerate(names.items()):
        colour = _COLOURS[at % len(_COLOURS)]
        scores = [name.verdict.score for name in found.names]
        _line(axes, scores, label=f"{label} ({len(scores):,})", color=colour)
        controls = [name.control.score for name in found.names if name.control is not None]
        if controls:
            _line(axes, controls, color=colour, linestyle="--", linewidth=1)
    axes.axvline(CHANCE, color="grey", linewidth=0.8)
    axes.set_xlabel("score on held-out contexts; 0.5 is chance; dashed: another feature's name")
    axes.set_ylabel("share of features with at least this score")
    axes.set_xlim(0.3, 1.0)
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, fontsize="small")
    return figure


def save_scores(names: Mapping[str, Names], path: PathLike, *, overwrite: bool = False) -> None:
    """Write the picture as a PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
        FileError: `path` exists and `overwrite` is false, or cannot be written.
    """
    figure = draw_scores(names)
    with atomic_path(path, overwrite=overwrite) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def _line(axes: Axes, scores: list[float], *, label: str | None = None, **style: object) -> None:
    """Draw a survival function as steps."""
    values = np.sort(scores)
    at_least = 1 - np.arange(len(values)) / len(values)
    steps = np.concatenate([[0.0], values, [1.0]]), np.concatenate([[1.0], at_least, [0.0]])
    axes.step(*steps, where="pre", label=label, **style)  # type: ignore[arg-type]
