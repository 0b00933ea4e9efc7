"""The figures of the retrieval benchmark as a table in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table


def show(title: str, rows: dict[str, Any]) -> None:
    """Print a table: sizes, averages, then nDCG over the floats' and recall@10 of each set."""
    names = list(next(iter(rows.values()))["sets"])
    heads = ["bytes", "shared kB", "nDCG", "ceiling", "R@10", "ceiling", "R@100", "queries/s"]
    table = Table(title=title, caption="averages of the sets, then nDCG ratio and R@10 of each")
    table.add_column("method", no_wrap=True)
    for head in heads + [f"{name[:8]}\n{figure}" for name in names for figure in ("nDCG", "R@10")]:
        table.add_column(head, justify="right", no_wrap=True)
    for name, row in sorted(rows.items(), key=lambda item: item[1]["bytes_per_vector"]):
        table.add_row(name, *cells(row, names))
    Console(width=max(200, Console().width)).print(table)


def cells(row: dict[str, Any], names: list[str]) -> Iterator[str]:
    """Yield the cells of a table's row after its name."""
    yield f"{row['bytes_per_vector']:.0f}"
    yield f"{row['shared_bytes'] / 1000:.0f}"
    figures = ("ndcg_ratio", "ceiling_ndcg_ratio", "recall_10", "ceiling_recall_10", "recall_100")
    yield from (f"{row['average'][figure]['median']:.3f}" for figure in figures)
    yield f"{row['average']['queries_per_second']['median']:.0f}"
    for name in names:
        for figure in ("ndcg_ratio", "recall_10"):
            yield f"{row['sets'][name][figure]['median']:.3f}"
