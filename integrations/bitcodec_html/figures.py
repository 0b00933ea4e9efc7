"""The report's pictures as SVG inside a page, in its colours by day and by night."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from bitcodec.extras import import_extra
from bitcodec.pictures import COLOUR, draw
from bitcodec.report import Report

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_INK, _QUIET = "#010203", "#010204"
_VARIABLES = {
    _INK: "var(--ink)",
    _QUIET: "var(--quiet)",
    COLOUR: "var(--price)",
    "#808080": "var(--quiet)",  # matplotlib's "0.5"
}
"""What is drawn in these colours takes the page's, by day and by night."""
_FAMILY = re.compile(r"font-family: [^;\"]*")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
SIZE_INCHES = (3.7, 2.5)
"""Of a plot; the page stretches it to its column."""


@dataclass(frozen=True)
class Plot:
    """A plot of the overview."""

    title: str
    """What was measured."""
    svg: str
    """An `svg` element."""


def page_style() -> dict[str, Any]:
    """Return matplotlib's settings for a figure that is to stand in the page."""
    return {
        "text.color": _INK,
        "axes.edgecolor": _QUIET,
        "axes.labelcolor": _INK,
        "axes.facecolor": "none",
        "axes.linewidth": 0.7,
        "axes.labelsize": 8.5,
        "xtick.color": _QUIET,
        "ytick.color": _QUIET,
        "xtick.labelcolor": _INK,
        "ytick.labelcolor": _INK,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "path.simplify_threshold": 0.5,  # pixels; thousands of points are hundreds then
        "svg.fonttype": "none",  # letters stay letters, in the page's font
        "svg.hashsalt": "bitcodec",  # the same report gives the same page
    }


def themed_svg(figure: Any, *, name: str, label: str) -> str:
    """Draw a figure that was made under `page_style`.

    Args:
        figure: a matplotlib figure.
        name: begins all ids in it, which must differ within a page.
        label: for those who do not see it.

    Returns:
        An `svg` element without size, so that it fills its column.
    """
    figure.set_size_inches(*SIZE_INCHES)
    drawn = io.BytesIO()
    matplotlib = import_extra("matplotlib", extra="report")
    with matplotlib.rc_context(page_style()):
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(drawn.getvalue())
    for part in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(part)
    for size in ("width", "height"):
        root.attrib.pop(size)
    root.set("role", "img")
    root.set("aria-label", label)
    for part in root.iter():
        _rename(part, name)
    return _in_page_colours(_serialised(root))


def _rename(part: ElementTree.Element, name: str) -> None:
    """Put the plot's name before an element's id and the ids it refers to."""
    for key, value in part.attrib.items():
        if key == "id":
            part.set(key, f"{name}-{value}")
        elif key in ("href", f"{{{_XLINK}}}href") and value.startswith("#"):
            part.set(key, f"#{name}-{value[1:]}")
        elif "url(#" in value:
            part.set(key, _REFERENCE.sub(rf"url(#{name}-\1)", value))


def _serialised(root: ElementTree.Element) -> str:
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _in_page_colours(svg: str) -> str:
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return _FAMILY.sub("font-family: var(--sans)", svg)


def plots(report: Report) -> list[Plot]:
    """Draw the plots of the overview.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with import_extra("matplotlib", extra="report").rc_context(page_style()):
        figures = draw(report)
        if not report.positions:
            del figures["positions"]
        return [_plot(name, figure) for name, figure in figures.items()]


def _plot(name: str, figure: Any) -> Plot:
    """Give a figure's title to the page, where it is text, and draw the rest."""
    (axes,) = figure.axes
    title = axes.get_title()
    axes.set_title("")
    caption = f"{axes.get_xlabel()} against {axes.get_ylabel()}"
    return Plot(title, themed_svg(figure, name=name, label=f"{title}: {caption}"))
