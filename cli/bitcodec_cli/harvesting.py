"""harvest: hidden states of a language model from text."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from bitcodec_cli.options import device_option, json_option, output_option
from bitcodec_cli.terminal import note, print_json, progress_bar

BUILT_IN_TEXT = "pydoc"


@click.command()
@click.argument("text", default=BUILT_IN_TEXT)
@output_option
@click.option("--model", "name", default="smollm2-135m", show_default=True, help="Name or path.")
@click.option("--layer", "layers", type=int, multiple=True, help="Block, from 0; the middle one.")
@click.option("--max-rows", type=int, help="Stop after so many rows.")
@click.option("--context-length", type=int, default=256, show_default=True, help="Tokens a window.")
@click.option("--dtype", default="float16", show_default=True, help="On disk.")
@click.option("--format", "file_format", default="safetensors", show_default=True, help="Or npy.")
@click.option("--massive-policy", default="drop", show_default=True, help="drop, refuse or keep.")
@click.option("--shard-rows", type=int, default=65_536, show_default=True, help="Rows a file.")
@click.option("--model-dtype", default="bfloat16", show_default=True, help="Of the computation.")
@device_option
@json_option
def harvest(
    text: str,
    output: Path,
    name: str,
    layers: tuple[int, ...],
    model_dtype: Any,
    device: str,
    as_json: bool,
    **settings: Any,
) -> None:
    """Write the hidden states of a language model reading text.

    TEXT is a .txt or .jsonl file, a folder of such, - for stdin, or "pydoc" for the help texts
    that come with Python. The same command again resumes an interrupted harvest.

    \b
    Example: bitcodec harvest notes.txt -o hidden --layer 15
    """
    from bitcodec_transformers import load_model

    note(f"loading {name}")
    model = load_model(name, dtype=model_dtype, device=device)
    chosen = list(layers) or [model.n_layers // 2]
    summary = harvest_with_bar(
        read_text(text), model=model, layers=chosen, output=output, **settings
    )
    if as_json:
        print_json(summary)
    else:
        counts = ", ".join(f"{count} {why}" for why, count in summary.counts.dropped.items())
        note(
            f"wrote {output}: {summary.n_rows:,} rows of {summary.n_dims} dimensions from layers "
            f"{chosen}, {summary.counts.n_documents} documents; dropped {counts}"
        )


def harvest_with_bar(documents: Iterable[Any], *, max_rows: int | None, **arguments: Any) -> Any:
    """Harvest with a progress bar on stderr; arguments as `bitcodec_transformers.harvest`."""
    from bitcodec_transformers import HarvestProgress, harvest

    with progress_bar("harvest", total=max_rows, unit="rows") as advance:

        def show(record: HarvestProgress) -> None:
            done = record.n_rows if max_rows is None else min(record.n_rows, max_rows)
            advance(done, f"{record.n_tokens:,} tokens")

        return harvest(documents, max_rows=max_rows, progress=show, **arguments)


def read_text(text: str) -> Iterable[Any]:
    """Return the documents that a TEXT argument means."""
    from bitcodec_transformers import pydoc_topics, read_documents

    if text == "-":
        return [("stdin", sys.stdin.read())]
    if text == BUILT_IN_TEXT and not Path(text).exists():
        return pydoc_topics()
    return read_documents(text)
