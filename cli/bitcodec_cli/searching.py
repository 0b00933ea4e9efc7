"""search: nearest codes of hidden states, of a sentence, or of its tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitcodec_cli.codecs import open_source
from bitcodec_cli.options import FOLDER, codec_argument, device_option, json_option
from bitcodec_cli.terminal import note

if TYPE_CHECKING:
    import numpy as np

    from bitcodec import BitCodec
    from bitcodec_faiss import AsymmetricIndex, HammingIndex, SearchResult
    from bitcodec_transformers import HarvestRows


@click.command()
@codec_argument
@click.argument("index", type=FOLDER)
@click.argument("queries", type=FOLDER, required=False)
@click.option("--text", help="A sentence; each token kept by the harvest's rules is a query.")
@click.option("--harvest", "harvest_folder", type=FOLDER, help="Show the text of what is found.")
@click.option("--embedder", help="The sentence embedder that made the rows: --text is one query.")
@click.option("--texts", type=FOLDER, help="The .rows.jsonl of `embed`: show what is found.")
@click.option("-k", default=5, show_default=True, help="Neighbours of each query.")
@click.option("--rescore", type=click.Choice(["asymmetric"]), help="Of a Hamming index's hits.")
@click.option("--oversample", type=int, help="Candidates for each neighbour wanted.")
@click.option("--nprobe", type=int, help="IVF: lists searched.")
@click.option("--ef-search", type=int, help="HNSW: candidates kept.")
@device_option
@json_option
def search(
    codec: Path,
    index: Path,
    queries: Path | None,
    text: str | None,
    harvest_folder: Path | None,
    embedder: str | None,
    texts: Path | None,
    k: int,
    rescore: str | None,
    oversample: int | None,
    nprobe: int | None,
    ef_search: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Find the nearest codes of hidden states, of a sentence, or of its tokens.

    QUERIES is a file of hidden states as `encode` takes it, or - for .npy on stdin. Prints one
    JSON object a query; with --text and without --json, the texts that were found. Ids are taken
    as row numbers of --harvest and --texts.

    \b
    Example: bitcodec search codec index queries.npy -k 10
    Example: bitcodec search codec index --text "a new class" --harvest hidden
    Example: bitcodec search codec index --text "how files are closed" --embedder minilm \\
               --texts embeddings.npy.rows.jsonl
    """
    import bitcodec_transformers
    from bitcodec import BitCodec
    from bitcodec.renaming import settle
    from bitcodec_faiss import load_index, read_index_header

    if (queries is None) == (text is None):
        raise click.UsageError("give either QUERIES or --text")
    if embedder is not None and text is None:
        raise click.UsageError("--embedder goes with --text: QUERIES are embeddings already")
    loaded = BitCodec.load(codec, device=device)
    opened = load_index(index, loaded)
    given = {
        "rescore": rescore,
        "oversample": oversample,
        "nprobe": nprobe,
        "ef_search": ef_search,
    }
    options = options_for(opened, given, where=index)
    if texts:
        settle(texts)
    shown = [doc.text for doc in bitcodec_transformers.read_documents(texts)] if texts else None
    rows = bitcodec_transformers.read_rows(harvest_folder) if harvest_folder else None
    states, asked = _states(
        loaded, queries=queries, text=text or "", embedder=embedder, device=device
    )
    result = opened.search(states, k=k, **options)
    for path, known in ((texts, shown), (harvest_folder, rows)):
        if known is not None:
            check_inside(result, n_rows=len(known), where=path)
            if len(known) != read_index_header(index).next_id:
                note(
                    f"{path} has {len(known):,} rows and the index {len(opened):,}: an id is "
                    "taken as the number of a row; after `index add`, join the files of texts"
                )
    print_found(result, as_json=as_json or queries is not None, rows=rows, asked=asked, texts=shown)


def options_for(
    opened: HammingIndex | AsymmetricIndex, given: dict[str, Any], *, where: Path
) -> dict[str, Any]:
    """Return the search options that are set, all of a kind that the index takes.

    Raises:
        click.UsageError: one belongs to another kind of index.
    """
    options = {name: value for name, value in given.items() if value is not None}
    known = _options_of(opened)
    for name in options:
        if name not in known:
            raise click.UsageError(
                f"{_flag(name)} is not for {where}, {opened.factory} by {opened.metric}: "
                f"it takes {' and '.join(map(_flag, known)) or 'no such option'}"
            )
    if "oversample" in options and "rescore" in known and "rescore" not in options:
        raise click.UsageError(f"--oversample needs --rescore where {where} ranks by hamming")
    return options


def check_inside(result: SearchResult, *, n_rows: int, where: Path | None) -> None:
    """Refuse texts that lack a row that was found.

    Rows may be fewer in the index than in the file: some are removed, or were never added.

    Raises:
        MismatchError: an id is no row number.
    """
    from bitcodec.errors import MismatchError

    largest = int(result.ids.max(initial=-1))
    if largest >= n_rows:
        raise MismatchError(
            f"{where} has {n_rows} rows and the search found id {largest}: ids must be its row "
            "numbers, give what was written with the rows of the index"
        )


def read_queries(path: Path) -> np.ndarray:
    """Return all hidden states of a source, (n, d) float32.

    Raises:
        ValueRangeError: there is none, or a value is not finite.
    """
    import numpy as np

    from bitcodec.batches import HiddenBatches
    from bitcodec.errors import ValueRangeError

    batches = [batch.numpy() for batch in HiddenBatches(open_source(path)[0]).batches(4096)]
    if not batches:
        raise ValueRangeError(f"{path} must hold at least one query, got no rows")
    return np.concatenate(batches)


def embed_query(text: str, name: str, *, device: str) -> np.ndarray:
    """Return the embedding of a sentence, (1, d) float32."""
    from bitcodec_transformers import load_embedder

    return load_embedder(name, device=device).embed([text])


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


def print_found(
    result: SearchResult,
    *,
    as_json: bool,
    rows: HarvestRows | None,
    asked: HarvestRows | None,
    texts: list[str] | None,
) -> None:
    """Print what was found for a person where its text is known, else one JSON object a query."""
    if not as_json and asked is not None and rows is not None:
        for query in range(len(asked)):
            print_neighbours(result, query, asked=asked, rows=rows)
    elif not as_json and asked is None and texts is not None:
        print_texts(result, texts)
    else:
        print_lines(result, rows=rows, asked=asked, texts=texts)


def print_lines(
    result: SearchResult,
    *,
    rows: HarvestRows | None,
    asked: HarvestRows | None = None,
    texts: list[str] | None = None,
) -> None:
    """Print one JSON object a query on stdout; where fewer than k rows match, fewer hits."""
    for query, (ids, scores) in enumerate(zip(result.ids, result.scores, strict=True)):
        found = ids[ids >= 0].tolist()
        line: dict[str, Any] = {"query": query}
        if asked is not None:
            line["token"] = asked.context(query).token
        line |= {"ids": found, "scores": scores[ids >= 0].tolist()}
        line |= {"scored_by": result.scored_by, "metric": result.metric}
        if rows is not None:
            line["contexts"] = ["".join(rows.context(row)) for row in found]
        if texts is not None:
            line["texts"] = [texts[row] for row in found]
        click.echo(json.dumps(line, ensure_ascii=False))


def print_texts(result: SearchResult, texts: list[str]) -> None:
    """Print the texts that were found, the nearest first, with their scores."""
    from bitcodec_cli.terminal import output_console

    console = output_console()
    for row, score in zip(result.ids[0].tolist(), result.scores[0].tolist(), strict=True):
        if row >= 0:
            line = f"{_number(score)}  {_escape(' '.join(texts[row].split()))}"
            console.print(line, soft_wrap=True)


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
            line = f"{_number(score)}  {before:>{width}}[bold green]{token}[/]{after}  {source}"
            console.print(line, soft_wrap=True)


def _number(score: float) -> str:
    """Return a score in a column: bits that differ are whole, other scores are not."""
    if isinstance(score, int):
        return f"{score:>6}"
    return f"{score:>9.4g}" if abs(score) < 9999.5 else f"{score:>9.0f}"  # never 1.34e+04


def _options_of(opened: HammingIndex | AsymmetricIndex) -> tuple[str, ...]:
    """Name the search options that an index takes."""
    kind = opened.factory.rstrip("0123456789")
    own = {"FastScan": ("oversample",), "IVF": ("nprobe",), "HNSW": ("ef_search",)}.get(kind, ())
    return own if opened.metric != "hamming" else ("rescore", "oversample", *own)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _states(
    codec: BitCodec, *, queries: Path | None, text: str, embedder: str | None, device: str
) -> tuple[Any, HarvestRows | None]:
    """Return the queries, (n, d) floats, and the tokens that they are, if they are tokens."""
    if queries is not None:
        return read_queries(queries), None
    if embedder is not None:
        return embed_query(text, embedder, device=device), None
    return states_of(codec, text, device=device)


def _marked(rows: HarvestRows, row: int, *, width: int) -> tuple[str, str, str]:
    """Return a row's context on one line, its token in brackets, ready for rich to print."""
    before, token, after = (part.replace("\n", " ") for part in rows.context(row, width=width))
    space = token[: len(token) - len(token.lstrip())]
    before = (before + space)[-width:]
    return _escape(before), _escape(f"[{token.lstrip()}]"), _escape(after)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
