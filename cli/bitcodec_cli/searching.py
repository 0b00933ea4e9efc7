"""index and search: nearest codes by Hamming distance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitcodec_cli.codecs import open_source
from bitcodec_cli.options import (
    FOLDER,
    codec_argument,
    device_option,
    json_option,
    output_option,
    overwrite_option,
)
from bitcodec_cli.terminal import note, print_json

if TYPE_CHECKING:
    from bitcodec import BitCodec
    from bitcodec_faiss import SearchResult
    from bitcodec_transformers import HarvestRows


@click.group()
def index() -> None:
    """Build an index of codes for search."""


@index.command("build")
@codec_argument
@click.argument("source", type=FOLDER)
@output_option
@click.option("--factory", default="Flat", show_default=True, help="Flat, IVF1024, HNSW32, ...")
@device_option
@overwrite_option
@json_option
def build(
    codec: Path,
    source: Path,
    output: Path,
    factory: str,
    device: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Build an index from packed codes or from hidden states; ids are the row numbers.

    SOURCE is a .npy file that `bitcodec encode` wrote, or hidden states as `encode` takes them.

    \b
    Example: bitcodec index build codec codes.npy -o index
    """
    from bitcodec import BitCodec
    from bitcodec.files import check_target
    from bitcodec.storage import open_packed, packed_header_path
    from bitcodec_faiss import HammingIndex

    check_target(output, overwrite=overwrite)
    loaded = BitCodec.load(codec, device=device)
    built = HammingIndex(loaded, factory=factory)
    if packed_header_path(source).is_file():
        built.add_packed(open_packed(source, fingerprint=loaded.fingerprint_)[1])
    else:
        built.add(open_source(source)[0])
    built.save(output, overwrite=overwrite)
    result = {
        "index": str(output),
        "n_rows": len(built),
        "bytes_per_vector": built.bytes_per_vector,
    }
    if as_json:
        print_json(result)
    else:
        note(f"wrote {output}: {len(built):,} codes, {built.bytes_per_vector:.1f} bytes each")


@click.command()
@codec_argument
@click.argument("index", type=FOLDER)
@click.argument("queries", type=FOLDER, required=False)
@click.option("--text", help="A sentence; each token kept by the harvest's rules is a query.")
@click.option("--harvest", "harvest_folder", type=FOLDER, help="Show the text of what is found.")
@click.option("-k", default=5, show_default=True, help="Neighbours of each query.")
@device_option
@json_option
def search(
    codec: Path,
    index: Path,
    queries: Path | None,
    text: str | None,
    harvest_folder: Path | None,
    k: int,
    device: str,
    as_json: bool,
) -> None:
    """Find the nearest codes of hidden states, or of the tokens of a sentence.

    QUERIES is a file of hidden states as `encode` takes it, or - for .npy on stdin. Prints one
    JSON object a query; with --text and without --json, the contexts that were found.

    \b
    Example: bitcodec search codec index queries.npy -k 10
    Example: bitcodec search codec index --text "a new class" --harvest hidden
    """
    from bitcodec import BitCodec
    from bitcodec_faiss import HammingIndex

    if (queries is None) == (text is None):
        raise click.UsageError("give either QUERIES or --text")
    loaded = BitCodec.load(codec, device=device)
    opened = HammingIndex.load(index, loaded)
    found_rows = _rows_of(harvest_folder, n_rows=len(opened))
    if queries is not None:
        packed = loaded.encode(open_source(queries)[0])
        print_lines(opened.search_packed(packed, k=k), rows=found_rows)
        return
    assert text is not None
    states, asked = states_of(loaded, text, device=device)
    result = opened.search(states, k=k)
    if as_json or found_rows is None:
        print_lines(result, rows=found_rows, asked=asked)
    else:
        for query in range(len(asked)):
            print_neighbours(result, query, asked=asked, rows=found_rows)


def states_of(codec: BitCodec, text: str, *, device: str) -> tuple[Any, HarvestRows]:
    """Return the hidden states of a sentence's tokens, made as the codec's rows were.

    Raises:
        MismatchError: the model of that name is another one now.
    """
    from bitcodec.errors import MismatchError
    from bitcodec_cli.provenance import query_origin
    from bitcodec_transformers import hidden_of, load_model
    from bitcodec_transformers.identity import model_identity

    origin = query_origin(codec.provenance_)
    model = load_model(origin.model["name"], dtype=origin.model["dtype"], device=device)
    if model_identity(model)["digest"] != origin.model["digest"]:
        raise MismatchError(
            f"the codec was fitted on another model of the name {origin.model['name']}: "
            "search with a .npy file of its hidden states"
        )
    return hidden_of([text], model=model, layer=origin.layer, **origin.rows)


def print_lines(
    result: SearchResult, *, rows: HarvestRows | None, asked: HarvestRows | None = None
) -> None:
    """Print one JSON object a query on stdout."""
    for query, (ids, scores) in enumerate(zip(result.ids, result.scores, strict=True)):
        line: dict[str, Any] = {"query": query}
        if asked is not None:
            line["token"] = asked.context(query).token
        line |= {"ids": ids.tolist(), "scores": scores.tolist(), "scored_by": result.scored_by}
        if rows is not None:
            line["contexts"] = ["".join(rows.context(int(row))) for row in ids if row >= 0]
        click.echo(json.dumps(line, ensure_ascii=False))


def print_neighbours(
    result: SearchResult, query: int, *, asked: HarvestRows, rows: HarvestRows
) -> None:
    """Print a token in its sentence and the contexts nearest to it, aligned on the token."""
    from bitcodec_cli.terminal import output_console

    console = output_console()
    width = min(48, max(16, (console.width - 40) // 2))
    before, token, after = _marked(asked, query, width=200)
    console.print(f"\n{before}[bold reverse]{token}[/]{after}", soft_wrap=True)
    for row, score in zip(result.ids[query].tolist(), result.scores[query].tolist(), strict=True):
        if row >= 0:
            before, token, after = _marked(rows, row, width=width)
            source = f"[dim]({_escape(rows.document_id(row))})[/]"
            line = f"{score:>6}  {before:>{width}}[bold green]{token}[/]{after}  {source}"
            console.print(line, soft_wrap=True)


def _rows_of(folder: Path | None, *, n_rows: int) -> HarvestRows | None:
    if folder is None:
        return None
    from bitcodec.errors import MismatchError
    from bitcodec_transformers import read_rows

    rows = read_rows(folder)
    if len(rows) != n_rows:
        raise MismatchError(
            f"the harvest {folder} has {len(rows)} rows and the index {n_rows}: "
            "give the harvest that the index was built from"
        )
    return rows


def _marked(rows: HarvestRows, row: int, *, width: int) -> tuple[str, str, str]:
    """Return a row's context on one line, its token in brackets, ready for rich to print."""
    before, token, after = (part.replace("\n", " ") for part in rows.context(row, width=width))
    space = token[: len(token) - len(token.lstrip())]
    before = (before + space)[-width:]
    return _escape(before), _escape(f"[{token.lstrip()}]"), _escape(after)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
