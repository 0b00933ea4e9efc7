"""Tables that `bitcodec name` prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from bitcodec_cli.report_tables import plain, table_of

if TYPE_CHECKING:
    from rich.table import Table

    from bitcodec_naming import FeatureName, Names


def name_tables(found: Names, *, beside: Names | None, n_shown: int) -> Iterator[Table]:
    """Lay out how names did, how many features are interpretable, and the best names.

    Args:
        found: the names.
        beside: names of other features.
        n_shown: names to show.
    """
    yield summary_table(found)
    yield count_table(found)
    if beside is not None:
        yield matched_table(found, beside)
    best = sorted(found.names, key=lambda name: (-name.verdict.low, name.feature))[:n_shown]
    yield feature_table(best)


def summary_table(found: Names) -> Table:
    """Lay out the mean score, its parts, and the control."""
    table = table_of(f"names by {found.judge}", "", ">")
    settings, verdicts = found.settings, [name.verdict for name in found.names]
    table.add_row("features, h", f"{found.n_features:,}")
    table.add_row("on in no row", f"{found.n_dead:,}")
    table.add_row("tried; too few contexts", f"{found.n_tried:,}; {found.n_too_rare:,}")
    table.add_row(
        f"named, each from {settings.n_named} contexts and tested on {settings.n_tested}",
        f"{len(found.names):,}",
    )
    table.add_row("score: right answers (chance 0.5)", _interval(found.mean_score()))
    control = found.mean_control()
    if control is not None:
        table.add_row("the same under another feature's name", _interval(control))
    table.add_row("contexts answered yes", _mean(verdict.hits for verdict in verdicts))
    for kind, words in (
        ("same_token", "of the same token"),
        ("beside", "nearby in the text"),
        ("elsewhere", "anywhere"),
    ):
        shares = [part.share for v in verdicts for part in v.rejections if part.kind == kind]
        if shares:
            table.add_row(f"counter-examples {words} answered no", _mean(shares))
    table.add_row("pairs ranked rightly (chance 0.5)", _mean(v.ranked for v in verdicts))
    return table


def count_table(found: Names) -> Table:
    """Lay out how many features reach thresholds."""
    heads = (">score at least", ">features", ">share", ">95% interval", ">other's name")
    table = table_of("interpretable features", *heads)
    for count in found.counts():
        table.add_row(
            f"{count.threshold:.1f}",
            f"{count.n:,}",
            f"{count.share:.1%}",
            f"{count.low:.1%} to {count.high:.1%}",
            "" if count.control is None else f"{count.control:,}",
        )
    return table


def matched_table(found: Names, beside: Names) -> Table:
    """Lay out the same at equal activity, beside other features."""
    from bitcodec_naming import matched_counts

    heads = (">score at least", ">features compared", ">these", ">beside", ">difference, 95%")
    table = table_of("at equal activity", *heads)
    for count in matched_counts(found, beside):
        table.add_row(
            f"{count.threshold:.1f}",
            f"{count.n_matched:,}",
            f"{count.left:,.1f}",
            f"{count.right:,.1f}",
            f"{count.low:+.1%} to {count.high:+.1%}",
        )
    return table


def feature_table(names: Iterable[FeatureName]) -> Table:
    """Lay out names, a row each."""
    heads = (">feature", ">activity", ">score", ">95% interval", ">control", "name")
    table = table_of("names that hold best", *heads)
    for name in names:
        table.add_row(
            str(name.feature),
            f"{name.activity:.4f}",
            f"{name.verdict.score:.2f}",
            f"{name.verdict.low:.2f} to {name.verdict.high:.2f}",
            "" if name.control is None else f"{name.control.score:.2f}",
            plain(name.explanation),
        )
    return table


def _interval(found: tuple[float, float, float]) -> str:
    return f"{found[0]:.3f} ({found[1]:.3f} to {found[2]:.3f})"


def _mean(values: Iterable[float]) -> str:
    kept = list(values)
    return f"{sum(kept) / len(kept):.3f}"
