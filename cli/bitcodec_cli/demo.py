"""demo: from text to search results, end to end, on a real language model."""

from __future__ import annotations

import dataclasses
import random
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitcodec_cli.harvesting import BUILT_IN_TEXT
from bitcodec_cli.options import FOLDER, device_option
from bitcodec_cli.terminal import note

if TYPE_CHECKING:
    from bitcodec_transformers import HarvestSummary, LanguageModel

MARKER = "demo.json"
SHARD_ROWS = 4096
SENTENCES = (
    ("The constructor of a subclass should first call the one of its", "parent"),
    ("It refused the file because the first", "argument"),
    ("Looking up a missing key in the", "dictionary"),
    ("If nobody catches the", "exception"),
    ("The loop repeats its body until the condition becomes", "false"),
    ("Once the file has been read to its end it should be", "closed"),
)
"""New sentences, each with its last word: that token's hidden state is the query."""


@click.command()
@click.option("-o", "--output", type=FOLDER, default="demo", show_default=True, help="Folder.")
@click.option("--text", default=BUILT_IN_TEXT, show_default=True, help="As harvest takes it.")
@click.option("--model", "name", default="smollm2-135m", show_default=True, help="Name or path.")
@click.option("--layer", type=int, help="Block, from 0; the middle one by default.")
@click.option("--max-rows", type=int, default=7 * SHARD_ROWS, show_default=True, help="Tokens.")
@click.option("--n-steps", type=int, default=400, show_default=True, help="Of each training.")
@device_option
def demo(
    output: Path, text: str, name: str, layer: int | None, max_rows: int, n_steps: int, device: str
) -> None:
    """Harvest, fit, encode, decode, index and search, and show what came of it.

    Two codecs are fitted: "archive", sparse codes of low entropy, and "search", dense codes of one
    bit per dimension that rank like floats. The last part of the rows is held out for the figures.

    \b
    Example: bitcodec demo -o demo --text notes.txt
    """
    from bitcodec.files import write_json
    from bitcodec_cli.measuring import evaluation_table
    from bitcodec_cli.terminal import output_console

    begun = time.monotonic()
    _claim(output)
    note(f"loading {name}")
    model, harvested = _harvest(output, text, name, layer, max_rows=max_rows, device=device)
    layer = harvested.settings.layers[0]
    results = {}
    for preset in ("archive", "search"):
        results[preset] = _fit_and_measure(
            preset, output / preset, harvested.layer_folder(layer), n_steps=n_steps, device=device
        )
    _search_new_sentences(output, model, layer=layer, device=device)
    click.echo(f"\nMeasured on {results['archive']['n_rows']:,} rows that no codec was fitted on")
    output_console().print(evaluation_table(results))
    seconds = time.monotonic() - begun
    write_json(output / MARKER, {"results": results, "seconds": seconds}, overwrite=True)
    click.echo(_where(output, seconds=seconds))


def _claim(output: Path) -> None:
    """Make the demo's folder, or take up one that an earlier demo made."""
    from bitcodec.errors import FileError
    from bitcodec.files import write_json

    if output.exists() and any(output.iterdir()) and not (output / MARKER).is_file():
        raise FileError(f"{output} exists and is no demo folder: choose another with --output")
    output.mkdir(parents=True, exist_ok=True)
    if not (output / MARKER).exists():
        write_json(output / MARKER, {"results": None})


def _harvest(
    output: Path, text: str, name: str, layer: int | None, *, max_rows: int, device: str
) -> tuple[LanguageModel, HarvestSummary]:
    from bitcodec_cli.harvesting import harvest_with_bar, read_text
    from bitcodec_transformers import load_model

    model = load_model(name, device=device)
    documents = list(read_text(text))
    random.Random(0).shuffle(documents)  # so that some of all the text is read, held out or not
    summary = harvest_with_bar(
        documents,
        model=model,
        layers=[model.n_layers // 2 if layer is None else layer],
        output=output / "hidden",
        max_rows=max_rows,
        shard_rows=SHARD_ROWS,
    )
    counts = ", ".join(f"{count} {why}" for why, count in summary.counts.dropped.items())
    note(f"{summary.n_rows:,} rows of {summary.n_dims} dimensions; dropped {counts}")
    return model, summary


def _fit_and_measure(
    preset: str, folder: Path, hidden: Path, *, n_steps: int, device: str
) -> dict[str, Any]:
    """Fit on all shards but the last, encode all, and measure on the last."""
    from bitcodec import BitCodec
    from bitcodec.batches import HiddenBatches, find_files
    from bitcodec.errors import ConfigError
    from bitcodec_cli.codecs import encode_file, fit_with_bar
    from bitcodec_cli.measuring import search_recall
    from bitcodec_cli.provenance import describe_source

    *fitted, held_out = find_files(hidden)
    if not fitted:
        raise ConfigError(f"the demo holds out {SHARD_ROWS} rows: give more text or --max-rows")
    codec = BitCodec.preset(preset, n_steps=n_steps, device=device)
    provenance = describe_source(hidden)
    fit_with_bar(codec, fitted, title=f"fit {preset}", provenance=provenance)
    folder.mkdir(exist_ok=True)
    codec.save(folder / "codec", overwrite=True)
    encode_file(
        codec,
        hidden,
        n_rows=HiddenBatches(hidden).n_rows,
        output=folder / "codes.npy",
        title=f"encode {preset}",
        overwrite=True,
    )
    queries = next(HiddenBatches(held_out).batches(1000)).numpy()
    recall = search_recall(codec, fitted, k=10, n_queries=1000, queries=queries)
    n_fitted = HiddenBatches(fitted).n_rows
    return (
        {"n_rows_fitted": n_fitted}
        | dataclasses.asdict(codec.evaluate(held_out))
        | {"recall_at_10": recall}
    )


def _search_new_sentences(output: Path, model: LanguageModel, *, layer: int, device: str) -> None:
    from bitcodec import BitCodec
    from bitcodec.storage import open_packed
    from bitcodec_cli.searching import print_neighbours
    from bitcodec_faiss import AsymmetricIndex
    from bitcodec_transformers import hidden_of, read_harvest, read_rows

    codec = BitCodec.load(output / "search" / "codec", device=device)
    index = AsymmetricIndex(codec, metric="l2")
    index.add_packed(open_packed(output / "search" / "codes.npy")[1][:])
    index.save(output / "search" / "index", overwrite=True)
    median = read_harvest(output / "hidden").median_norms[layer]
    rows = read_rows(output / "hidden")
    sentences = [f"{start} {word}" for start, word in SENTENCES]
    states, asked = hidden_of(sentences, model=model, layer=layer, median_norm=median)
    last = [row for row in range(len(asked)) if _is_last(asked.document, row)]
    result = index.search(states, k=4)
    click.echo("\nNearest contexts of the token in brackets, with squared distances")
    for query in last:
        print_neighbours(result, query, asked=asked, rows=rows)


def _where(output: Path, *, seconds: float) -> str:
    command = "bitcodec" if shutil.which("bitcodec") else sys.argv[0]
    return f"""
Done in {seconds:.0f} s. Left behind:
  {output}/hidden            hidden states, and the text of every row
  {output}/archive/codec     sparse codec    {output}/archive/codes.npy  its codes
  {output}/search/codec      dense codec     {output}/search/codes.npy   its codes
  {output}/search/index      index of distances
Try a sentence of your own:
  {command} search {output}/search/codec {output}/search/index \\
    --text "for each key in the mapping" --harvest {output}/hidden"""


def _is_last(document: Any, row: int) -> bool:
    return row + 1 == len(document) or bool(document[row + 1] != document[row])
