"""Retrieval sets with judgements, embedded once and kept in a cache."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitcodec.batches import HiddenBatches
from bitcodec.errors import FileError
from bitcodec.files import atomic_path
from bitcodec_transformers import hidden_of, load_embedder, load_model, read_rows

logger = logging.getLogger(__name__)

Embed = Callable[[Sequence[str]], np.ndarray]
"""Turns n texts into (n, d) float32 of length 1."""

POOLED_TEXTS = 64
"""Texts whose token states are in memory at once when a language model's are pooled."""

RUN_TOKENS = 32
"""Tokens of a harvest that are pooled into one vector."""


@dataclass(frozen=True)
class JudgedTexts:
    """A retrieval set in the format of BEIR."""

    name: str
    """The name of its folder."""
    documents: list[str]
    """Title and text of each document."""
    queries: list[str]
    """The queries that have at least one judgement above 0."""
    relevant: list[dict[int, float]]
    """For each query its grades above 0, by the document's place in `documents`."""


@dataclass(frozen=True, eq=False)
class RetrievalSet:
    """A retrieval set as vectors."""

    name: str
    """The name of its folder."""
    documents: np.ndarray
    """(n, d) float32, rows of length 1."""
    queries: np.ndarray
    """(q, d) float32, rows of length 1."""
    relevant: list[dict[int, float]]
    """For each query its grades above 0, by the row of `documents`."""


@dataclass(frozen=True)
class EmbeddingCache:
    """A folder of embeddings, named by what was embedded, the model and a digest of the texts."""

    folder: Path
    """Where the .npy files are; made where missing."""
    model: str
    """The model as the file names give it."""
    make_embed: Callable[[], Embed]
    """Loads the model; called only for texts that are not in the cache."""

    def embed(self, name: str, texts: Sequence[str]) -> np.ndarray:
        """Return (n, d) float32, from the cache or through the model."""
        path = self.path(name, texts)
        if not path.is_file():
            logger.info("embedding %d texts: %s", len(texts), name)
            self.folder.mkdir(parents=True, exist_ok=True)
            vectors = self.make_embed()(texts)
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, vectors)
        embedded: np.ndarray = np.load(path)
        return embedded

    def path(self, name: str, texts: Sequence[str]) -> Path:
        """Return the file that holds the embeddings of these texts."""
        digest = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
        return self.folder / f"{name}.{self.model}.{digest[:16]}.npy"


def read_judged_texts(folder: Path) -> JudgedTexts:
    """Read corpus.jsonl, queries.jsonl and qrels.tsv of one set."""
    corpus = _read_jsonl(folder / "corpus.jsonl")
    places = {row["_id"]: place for place, row in enumerate(corpus)}
    grades = _read_grades(folder / "qrels.tsv", places)
    queries = [row for row in _read_jsonl(folder / "queries.jsonl") if row["_id"] in grades]
    return JudgedTexts(
        name=folder.name,
        documents=[_text_of(row) for row in corpus],
        queries=[_text_of(row) for row in queries],
        relevant=[grades[row["_id"]] for row in queries],
    )


def load_sets(
    folder: Path, cache: EmbeddingCache, names: Sequence[str] | None = None
) -> list[RetrievalSet]:
    """Read and embed sets of a folder, in the order of their names.

    Args:
        folder: holds a folder for each set.
        cache: keeps the embeddings, or makes them.
        names: of the wanted sets; by default all.

    Raises:
        FileError: the folder holds no set, or not one that is wanted.
    """
    found = [read_judged_texts(folder / name) for name in choose_sets(folder, names)]
    return [
        RetrievalSet(
            name=texts.name,
            documents=cache.embed(f"{texts.name}.documents", texts.documents),
            queries=cache.embed(f"{texts.name}.queries", texts.queries),
            relevant=texts.relevant,
        )
        for texts in found
    ]


def choose_sets(folder: Path, names: Sequence[str] | None = None) -> list[str]:
    """Return the names of the wanted sets, all by default, in their order.

    Raises:
        FileError: the folder holds no set, or not one that is wanted.
    """
    held = sorted(path.parent.name for path in folder.glob("*/qrels.tsv"))
    if not held:
        raise FileError(f"{folder} must hold folders with corpus.jsonl, queries.jsonl, qrels.tsv")
    missing = sorted(set(names or ()) - set(held))
    if missing:
        raise FileError(f"{folder} holds no set {missing[0]!r}: there are {', '.join(held)}")
    return [name for name in held if names is None or name in names]


def make_minilm() -> Embed:
    """Load MiniLM: 384 dimensions, computed in bfloat16."""
    embedder = load_embedder("minilm", dtype="bfloat16")
    return embedder.embed


def make_mean_pooled(name: str, *, layer: int, max_tokens: int) -> Embed:
    """Load a language model whose vector of a text is the mean of its token states.

    The first token of each window and massive rows are left out, as `harvest` does. A text that
    leaves no token, as one of Cranfield's does, gets zeros. Blocks after the wanted one do not run.

    Args:
        name: of the model, as `load_model` takes it.
        layer: the block whose states are taken.
        max_tokens: tokens of a text that are read.
    """
    model = load_model(name, dtype="bfloat16")

    def embed(texts: Sequence[str]) -> np.ndarray:
        parts = []
        for start in range(0, len(texts), POOLED_TEXTS):
            group = shortened(texts[start : start + POOLED_TEXTS], model.tokenizer, max_tokens)
            states = hidden_of(group, model=model, layer=layer)
            parts.append(_mean_by_owner(states.hidden, states.rows.column("document"), len(group)))
        return np.concatenate(parts)

    return embed


def pool_harvest(folder: Path, *, layer: int) -> np.ndarray:
    """Pool runs of `RUN_TOKENS` rows of a harvest, none of which spans two documents.

    Args:
        folder: what `bitcodec_transformers.harvest` wrote; its rows saw up to a window before them.
        layer: one of the harvest's.

    Returns:
        (n, d) float32 means of length 1; the rest of a document is left out.
    """
    batches = HiddenBatches(folder / f"layer-{layer}").batches(2**16)
    hidden = np.concatenate([batch.numpy() for batch in batches])
    owners = read_rows(folder).column("document")
    new_document = np.flatnonzero(np.diff(owners, prepend=-1))
    places = np.arange(len(owners)) - np.repeat(
        new_document, np.diff(new_document, append=len(owners))
    )
    starts = np.flatnonzero(places % RUN_TOKENS == 0)
    whole = np.diff(starts, append=len(owners)) == RUN_TOKENS
    runs = hidden[starts[whole][:, None] + np.arange(RUN_TOKENS)].mean(axis=1)
    unit: np.ndarray = runs / np.linalg.norm(runs, axis=1, keepdims=True)
    return unit


def shortened(texts: Sequence[str], tokenizer: Any, max_tokens: int) -> list[str]:
    """Cut texts after their first tokens.

    Args:
        texts: of any length.
        tokenizer: one of transformers' fast ones, which know where in the text a token ends.
        max_tokens: tokens that are left, special tokens not counted.
    """
    places = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    ends = [offsets[:max_tokens][-1][1] if offsets else 0 for offsets in places["offset_mapping"]]
    return [text[:end] for text, end in zip(texts, ends, strict=True)]


def _mean_by_owner(hidden: np.ndarray, owners: np.ndarray, n_texts: int) -> np.ndarray:
    """Return (n_texts, d) means of length 1, and zeros for a text without tokens."""
    sums = np.zeros((n_texts, hidden.shape[1]))
    np.add.at(sums, owners, hidden)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    means: np.ndarray = (sums / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return means


def _read_jsonl(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _read_grades(path: Path, places: dict[str, int]) -> dict[str, dict[int, float]]:
    grades: dict[str, dict[int, float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t")
        next(rows)  # the header
        for query, document, grade in rows:
            if float(grade) > 0:
                grades.setdefault(query, {})[places[document]] = float(grade)
    return grades


def _text_of(row: dict[str, str]) -> str:
    return f"{row.get('title', '')} {row['text']}".strip()
