"""Progress on stderr, results on stdout."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import click

from bitcodec.errors import TrainingWarning

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 120
"""Columns where no terminal tells its own."""


class Advance(Protocol):
    """Moves a progress bar."""

    def __call__(self, done: int, remark: str = "") -> None:
        """Show that `done` units are done so far, with a short remark."""


def error_console() -> Console:
    """Return a console that writes to stderr."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def note(message: str) -> None:
    """Tell the person something that is not the result."""
    click.echo(message, err=True)


@contextlib.contextmanager
def noted_warnings() -> Iterator[None]:
    """Note the library's warnings in a line each, without the place in the code."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TrainingWarning)
        yield
    for warning in caught:
        note(f"warning: {warning.message}")


def print_json(content: Any) -> None:
    """Print one JSON document, dataclasses as objects."""
    if dataclasses.is_dataclass(content) and not isinstance(content, type):
        content = dataclasses.asdict(content)
    click.echo(json.dumps(content, indent=2, default=str))


def output_console() -> Console:
    """Return a console that writes to stdout, of a fixed width where that is no terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(highlight=False, width=width)


@contextlib.contextmanager
def progress_bar(description: str, *, total: int | None, unit: str) -> Iterator[Advance]:
    """Show a bar with rate and remaining time on stderr.

    Args:
        description: what is being done.
        total: how many units there are, None where unknown.
        unit: their name, for the rate.

    Yields:
        The function that moves the bar.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
    )
    with Progress(*columns, console=error_console()) as progress:
        task = progress.add_task(description, total=total, rate="", remark="")

        def advance(done: int, remark: str = "") -> None:
            elapsed = progress.tasks[task].elapsed or 0.0
            rate = f"{done / elapsed:,.0f} {unit}/s" if elapsed > 0 else ""
            progress.update(task, completed=done, rate=rate, remark=remark)

        yield advance
