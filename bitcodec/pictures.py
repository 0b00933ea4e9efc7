"""Pictures of a report, drawn with matplotlib (the extra `report`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from bitcodec.errors import ConfigError
from bitcodec.extras import import_extra
from bitcodec.files import PathLike, atomic_path, check_target
from bitcodec.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Format = Literal["png", "svg"]
SIZE_INCHES = (6.0, 3.4)
"""Width and height of a picture."""
COLOUR = "#3b6ea5"
_METADATA: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "svg": {"Creator": None, "Date": None},
}
"""What would differ from run to run is left out, so that equal reports make equal files."""


def draw(report: Report) -> dict[str, Figure]:
    """Draw all pictures of a report.

    Returns:
        A figure of one pair of axes by name: `bounds`, `activity`, `entropy`, `dimensions`,
        `burstiness`, `prices`, `errors`, `positions`. No global state of pyplot is touched.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    return {name: _figure(report, painter) for name, painter in _PAINTERS.items()}


def save_pictures(
    report: Report, folder: PathLike, *, format: Format = "png", overwrite: bool = False
) -> list[Path]:
    """Draw all pictures into a folder.

    Args:
        report: what is drawn.
        folder: is made where it is missing; its parent must exist.
        format: "png" or "svg".
        overwrite: replace pictures of these names.

    Returns:
        The files, NAME.png or NAME.svg of each picture.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ConfigError: there is no such format.
        FileError: a file exists and `overwrite` is false, or cannot be written.
    """
    check_pictures(folder, format=format, overwrite=overwrite)
    rc_context = import_extra("matplotlib", extra="report").rc_context
    paths = _paths(folder, format)
    Path(folder).mkdir(exist_ok=True)
    for name, figure in draw(report).items():
        with (
            atomic_path(paths[name], overwrite=overwrite) as temporary,
            rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}),
        ):
            figure.savefig(temporary, format=format, dpi=150, metadata=_METADATA[format])
    return list(paths.values())


def check_pictures(folder: PathLike, *, format: Format = "png", overwrite: bool = False) -> None:
    """Raise if pictures could not be written, before the work that makes the report begins.

    Raises:
        As `save_pictures`.
    """
    import_extra("matplotlib", extra="report")
    if format not in _METADATA:
        raise ConfigError(f"format must be one of {', '.join(_METADATA)}, got {format!r}")
    if not Path(folder).is_dir():
        check_target(folder)
        return
    for path in _paths(folder, format).values():
        check_target(path, overwrite=overwrite)


def _paths(folder: PathLike, format: Format) -> dict[str, Path]:
    return {name: Path(folder) / f"{name}.{format}" for name in _PAINTERS}


def _figure(report: Report, painter: Callable[[Report, Axes], None]) -> Figure:
    figure: Figure = import_extra("matplotlib.figure", extra="report").Figure(
        figsize=SIZE_INCHES, layout="constrained"
    )
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    painter(report, axes)
    return figure


def _activity(report: Report, axes: Axes) -> None:
    histogram = report.distributions.log10_activity
    _bars(axes, [10**edge for edge in histogram.edges], histogram.counts)
    axes.set_xscale("log")
    axes.axvline(report.settings.dense_activity, color="0.5", linestyle=":", linewidth=1)
    dead = f", {histogram.n_outside:,} never on" if histogram.n_outside else ""
    axes.set_title(f"How often features are on{dead}")
    axes.set_xlabel("activity p (dense from the dotted line on)")
    axes.set_ylabel("features")


def _entropy(report: Report, axes: Axes) -> None:
    entropies = np.sort([feature.entropy_bits for feature in report.features])[::-1]
    axes.plot(np.arange(1, len(entropies) + 1), entropies, color=COLOUR)
    axes.set_title(f"Entropy of the features, {report.entropy.sum_bits:,.1f} bits in all")
    axes.set_xlabel("feature, by entropy")
    axes.set_ylabel("H2(p) in bits")
    axes.set_ylim(bottom=0)


def _dimensions(report: Report, axes: Axes) -> None:
    shares = np.array(report.fvu_per_dimension)
    known = np.sort(shares[np.isfinite(shares)])[::-1]
    axes.plot(np.arange(1, len(known) + 1), known, color=COLOUR)
    axes.axhline(report.evaluation.fvu, color="0.5", linestyle=":", linewidth=1)
    axes.set_title(f"Error of the dimensions, FVU {report.evaluation.fvu:.3f} on the mean")
    axes.set_xlabel("dimension, by error (the mean is dotted)")
    axes.set_ylabel("variance unexplained")
    axes.set_ylim(bottom=0)


def _burstiness(report: Report, axes: Axes) -> None:
    histogram = report.distributions.burstiness
    _bars(axes, histogram.edges, histogram.counts)
    axes.set_yscale("log")
    axes.set_title("Burstiness of every feature in every row")
    axes.set_xlabel("log2 |b - p|: 0 is most surprising")
    axes.set_ylabel("features times rows")


def _prices(report: Report, axes: Axes) -> None:
    histogram = report.distributions.row_price_bits
    _bars(axes, histogram.edges, histogram.counts)
    axes.axvline(report.entropy.sum_bits, color="0.5", linestyle=":", linewidth=1)
    axes.set_title(f"What rows cost, {report.entropy.sum_bits:,.1f} bits on the mean")
    axes.set_xlabel("sum of -log2 P(b) in bits (the mean is dotted)")
    axes.set_ylabel("rows")


def _positions(report: Report, axes: Axes) -> None:
    names = [_span(group.first, group.last) for group in report.positions]
    axes.bar(names, [group.sum_bits for group in report.positions], color=COLOUR)
    axes.set_title("Entropy by position" + ("" if names else ": no texts were given"))
    axes.tick_params(axis="x", labelrotation=30)
    axes.set_xlabel("position of the token in its window")
    axes.set_ylabel("sum of H2(p) in bits")


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _errors(report: Report, axes: Axes) -> None:
    histogram = report.distributions.row_log10_error
    _bars(axes, [10**edge for edge in histogram.edges], histogram.counts)
    axes.set_xscale("log")
    axes.tick_params(axis="x", which="minor", labelbottom=False)
    axes.set_title("Error of the rows")
    axes.set_xlabel("mean squared error in units of the codec's scales")
    axes.set_ylabel("rows")


def _bounds(report: Report, axes: Axes) -> None:
    found, entropy = report.evaluation, report.entropy
    bits = {
        "float16": found.float16_bytes_per_vector * 8,
        "packed": found.bytes_per_vector * 8,
        "coded, fit's activities": entropy.coder_bits,
        "sum of entropies": entropy.sum_bits,
        "tree bound": entropy.tree_bits,
    }
    if entropy.archive_bits is not None:
        bits["archive"] = entropy.archive_bits
    bars = axes.barh(list(bits), list(bits.values()), color=COLOUR, height=0.6)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.tick_params(axis="x", which="minor", labelbottom=False)
    axes.margins(x=0.15)
    axes.set_title("What a row takes, and bounds of its entropy")
    axes.set_xlabel("bits per row")


_PAINTERS: dict[str, Callable[[Report, Axes], None]] = {
    "bounds": _bounds,
    "activity": _activity,
    "entropy": _entropy,
    "dimensions": _dimensions,
    "burstiness": _burstiness,
    "prices": _prices,
    "errors": _errors,
    "positions": _positions,
}


def _bars(axes: Axes, edges: Sequence[float], counts: Sequence[int]) -> None:
    axes.stairs(counts, edges, fill=True, color=COLOUR)
