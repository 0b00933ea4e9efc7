"""embed: one vector a text, from a sentence embedder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from bitcodec_cli.options import device_option, json_option, output_option, overwrite_option
from bitcodec_cli.terminal import note, print_json, progress_bar
from bitcodec_cli.texts import read_titled

if TYPE_CHECKING:
    from bitcodec_transformers import Document, EmbeddingProgress, SentenceEmbedder


@click.command()
@click.argument("texts", nargs=-1, required=True)
@output_option
@click.option("--model", "name", default="minilm", show_default=True, help="Name or path.")
@click.option("--dtype", default="float32", show_default=True, help="Of the computation.")
@device_option
@overwrite_option
@json_option
def embed(
    texts: tuple[str, ...],
    output: Path,
    name: str,
    dtype: Any,
    device: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write one float32 vector a text, and beside them the texts.

    TEXTS are .txt files (one text each), .jsonl files (one object with "text" a line; its
    "title" goes before the text), folders of such, or - for one text a line from stdin. Line i
    of OUTPUT.rows.jsonl tells id and text of row i, from 0.

    \b
    Example: bitcodec embed notes.jsonl -o embeddings.npy
    """
    from bitcodec.files import check_target
    from bitcodec_transformers import load_embedder

    rows = Path(f"{output}.rows.jsonl")
    for target in (output, rows):
        check_target(target, overwrite=overwrite)
    documents = [read_titled(text) for text in texts]
    note(f"loading {name}")
    embedder = load_embedder(name, dtype=dtype, device=device)
    stream = (document for part in documents for document in part)
    done = write_embeddings(embedder, stream, output=output, rows=rows, overwrite=overwrite)
    result = {"embeddings": str(output), "rows": str(rows), "n_dims": embedder.n_dims}
    if as_json:
        print_json(result | {"n_texts": done.n_texts, "n_truncated": done.n_truncated})
    else:
        note(
            f"wrote {output}: {done.n_texts:,} texts, {embedder.n_dims} dimensions each; "
            f"their ids and texts in {rows.name}"
        )


def write_embeddings(
    embedder: SentenceEmbedder,
    documents: Iterable[Document],
    *,
    output: Path,
    rows: Path,
    overwrite: bool,
) -> EmbeddingProgress:
    """Write embeddings and their texts with a progress bar on stderr; return what was done."""
    import numpy as np

    from bitcodec.files import NpyWriter, atomic_pair
    from bitcodec_transformers import EmbeddingProgress

    done = EmbeddingProgress(0, 0)
    with (
        atomic_pair(output, rows, overwrite=overwrite) as (array, table),
        NpyWriter(array, n_columns=embedder.n_dims, dtype=np.dtype(np.float32)) as vectors,
        table.open("w", encoding="utf-8") as lines,
        progress_bar("embed", total=None, unit="texts") as advance,
    ):

        def show(record: EmbeddingProgress) -> None:
            nonlocal done
            done = record
            advance(record.n_texts)

        for batch in embedder.embed_batches(_recorded(documents, lines), on_progress=show):
            vectors.append(batch)
    return done


def _recorded(documents: Iterable[Document], lines: TextIO) -> Iterator[Document]:
    """Pass documents on and write each as a line of JSON."""
    from bitcodec_transformers.documents import iterate_documents

    for document in iterate_documents(documents):
        lines.write(json.dumps(document._asdict(), ensure_ascii=False) + "\n")
        yield document
