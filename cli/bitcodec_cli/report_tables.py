"""Tables that `bitcodec report` prints."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bitcodec_cli.measuring import evaluation_table

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from bitcodec.report import Context, Feature, Report

CONTEXT_WIDTH = 40
"""Characters of text before and after a token."""


def overview(report: Report, *, name: str, n_shown: int) -> list[Table]:
    """Lay out rate, distortion, entropy, and the features, pairs and rows that stand out.

    Args:
        report: what is shown.
        name: the codec's name.
        n_shown: features, pairs and rows of each table.
    """
    import dataclasses

    return [
        evaluation_table({name: dataclasses.asdict(report.evaluation)}),
        entropy_table(report),
        *_feature_tables(report, n_shown),
        pair_table(report, n_shown),
        worst_table(report, n_shown),
    ]


def entropy_table(report: Report) -> Table:
    """Lay out the bounds of the code's entropy and counts of flagged features."""
    table = table_of("entropy of a row's code, and features", "", ">")
    entropy, error = report.entropy, report.entropy.sum_standard_error
    table.add_row("sum of bit entropies, an upper bound", f"{entropy.sum_bits:,.1f} ± {error:.1f}")
    table.add_row("the same, Miller-Madow", f"{entropy.sum_bits_corrected:,.1f}")
    table.add_row("tree of pairs, a tighter bound", f"{entropy.tree_bits:,.1f}")
    table.add_row("coder with the fit's activities", f"{entropy.coder_bits:,.1f}")
    if entropy.archive_bits is not None:
        table.add_row("archive with a context table", f"{entropy.archive_bits:,.1f}")
    for flag in ("dead", "always_on", "dense", "duplicate"):
        count = sum(flag in feature.flags for feature in report.features)
        table.add_row(f"features {flag.replace('_', ' ')}", f"{count:,}")
    return table


def _feature_tables(report: Report, n_shown: int) -> Iterable[Table]:
    by_activity = sorted(report.features, key=lambda feature: -feature.activity)
    yield feature_table(by_activity[:n_shown], "features most often on")
    for name, title in (
        ("token_share", "features that the row's token tells best"),
        ("document_share", "features that the row's document tells best"),
    ):
        known = [feature for feature in report.features if getattr(feature, name) is not None]
        known.sort(key=lambda feature: -getattr(feature, name))
        if known:
            yield feature_table(known[:n_shown], title)


def feature_table(features: Iterable[Feature], title: str) -> Table:
    """Lay out features, a row each."""
    numbers = (">feature", ">activity", ">bits", ">price on", ">token", ">doc.")
    table = table_of(title, *numbers, "nearest; most co-active", "flags", "tokens")
    for feature in features:
        tokens = ", ".join(visible(token.token) for token in feature.tokens[:5])
        table.add_row(
            str(feature.feature),
            f"{feature.activity:.4f}",
            f"{feature.entropy_bits:.3f}",
            _number(feature.price_on_bits, ".1f"),
            _number(feature.token_share, ".2f"),
            _number(feature.document_share, ".2f"),
            _alike(feature),
            " ".join(feature.flags).replace("_", " "),
            plain(tokens),
        )
    return table


def pair_table(report: Report, n_shown: int) -> Table:
    """Lay out the strongest pairs."""
    heads = (">features", ">rows with both", ">phi", ">bits told")
    table = table_of("pairs that tell most of each other", *heads)
    for pair in report.pairs[:n_shown]:
        table.add_row(
            f"{pair.left} {pair.right}",
            f"{pair.n_both:,}",
            f"{pair.phi:+.3f}",
            f"{pair.information_bits:.4f}",
        )
    return table


def worst_table(report: Report, n_shown: int) -> Table:
    """Lay out the rows of largest error."""
    table = table_of("rows of largest error", ">row", ">error", ">bits", "document", "text")
    for worst in report.worst_rows[:n_shown]:
        place = report.row(worst.row)
        table.add_row(
            str(worst.row),
            f"{worst.error:.2f}",
            f"{place.price_bits:.0f}",
            plain(place.document or ""),
            text_of(report, worst.row),
        )
    return table


def feature_view(report: Report, number: int) -> list[Table]:
    """Lay out one feature with its contexts."""
    feature = report.features[number]
    tables = [feature_table([feature], f"feature {number}")]
    kinds = (
        ("on, where it earns most", feature.top),
        ("on, a random sample", feature.random),
        ("off, though similar", feature.counter),
    )
    for title, contexts in kinds:
        tables.append(_context_table(report, title, contexts))
    return tables


def _context_table(report: Report, title: str, contexts: Iterable[Context]) -> Table:
    table = table_of(title, ">row", ">margin", "", "document", "text")
    for context in contexts:
        table.add_row(
            str(context.row),
            _number(context.margin, ".1f"),
            getattr(context, "reason", "").replace("_", " "),
            plain(report.row(context.row).document or ""),
            text_of(report, context.row),
        )
    return table


def text_of(report: Report, row: int) -> Text:
    """Return a row's token, marked, with the text around it, on one line."""
    from rich.text import Text

    place = report.row(row, width=CONTEXT_WIDTH)
    space = place.token[: len(place.token) - len(place.token.lstrip())]
    before, token, after = place.before + space, place.token.lstrip(), place.after
    shown = token or visible(place.token)
    pieces = (_flat(before), (f"[{_flat(shown)}]", "bold green"), _flat(after))
    return Text.assemble(*pieces, no_wrap=True)


def table_of(title: str, *columns: str) -> Table:
    """Return a table; heads that begin with ">" are of columns of numbers."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_edge=False)
    for head in columns:
        number = head.startswith(">")
        table.add_column(
            head.removeprefix(">"), justify="right" if number else "left", no_wrap=number
        )
    return table


def _alike(feature: Feature) -> str:
    """Name the nearest feature by decoder row and the one most often on together."""
    nearest = [f"{x.feature} cos {x.cosine:.2f}" for x in feature.nearest[:1]]
    return "; ".join(nearest + [f"{x.feature} phi {x.phi:.2f}" for x in feature.coactive[:1]])


def _number(value: float | None, pattern: str) -> str:
    return "" if value is None or not math.isfinite(value) else format(value, pattern)


def plain(text: str) -> Text:
    """Return a text on one line that neither rich nor a terminal takes for orders."""
    from rich.text import Text

    return Text(_flat(text))


def _flat(text: str) -> str:
    """Put a text on one line, with nothing that a terminal would obey."""
    spaced = (" " if mark.isspace() else mark for mark in text)
    return "".join(mark for mark in spaced if mark.isprintable())


def visible(token: str) -> str:
    """Show a token between other things: spaces and line breaks as marks."""
    return token.strip() or token.replace("\n", "\\n").replace("\t", "\\t").replace(" ", "␣")
