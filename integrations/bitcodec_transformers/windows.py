"""Documents cut into windows of tokens, and windows gathered into units of work."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitcodec.errors import ConfigError
from bitcodec_transformers.documents import Document


@dataclass(frozen=True, eq=False)
class Window:
    """Consecutive tokens of one document, as the model will read them."""

    document: int
    """Number of the document, from 0."""
    token_ids: np.ndarray
    """(t,) int32, with the special tokens the tokenizer puts around a text."""
    start: np.ndarray
    """(t,) int32, first character of each token in the document; 0 for special tokens."""
    end: np.ndarray
    """(t,) int32, one past the last character."""
    special: np.ndarray
    """(t,) bool, true for special tokens."""
    candidate: np.ndarray
    """(t,) bool, true for tokens whose states are wanted: not special, not among the first."""

    def __len__(self) -> int:
        return len(self.token_ids)

    def head(self, n_tokens: int) -> Window:
        """Give the window's first tokens, at most `n_tokens`."""
        columns = (self.token_ids, self.start, self.end, self.special, self.candidate)
        return Window(self.document, *(column[:n_tokens] for column in columns))


@dataclass(frozen=True, eq=False)
class RowTable:
    """Where each row comes from: five aligned columns."""

    document: np.ndarray
    """(n,) int64, number of the document."""
    token_id: np.ndarray
    """(n,) int32."""
    position: np.ndarray
    """(n,) int32, place in the window."""
    start: np.ndarray
    """(n,) int32, first character in the document."""
    end: np.ndarray
    """(n,) int32, one past the last character."""

    def __len__(self) -> int:
        return len(self.document)

    def take(self, rows: np.ndarray) -> RowTable:
        """Select rows by an index or a mask of length n."""
        return RowTable(**{name: column[rows] for name, column in self.columns().items()})

    def columns(self) -> dict[str, np.ndarray]:
        """Give the columns by name, without copying."""
        return {name: getattr(self, name) for name in COLUMN_TYPES}


COLUMN_TYPES: dict[str, np.dtype[Any]] = {
    "document": np.dtype(np.int64),
    "token_id": np.dtype(np.int32),
    "position": np.dtype(np.int32),
    "start": np.dtype(np.int32),
    "end": np.dtype(np.int32),
}
"""The columns of a row table and their types, in memory and on disk."""


class WindowCutter:
    """Cut documents into windows.

    Every window gets the special tokens that the tokenizer puts around a whole text, because
    models are trained to see them (a BOS token, or [CLS] and [SEP]).

    Args:
        tokenizer: a fast transformers tokenizer.
        context_length: tokens per window, special tokens included.
        drop_first: tokens at positions below this are no candidates.

    Raises:
        ConfigError: the tokenizer is slow, or the special tokens fill the whole window.
    """

    def __init__(self, tokenizer: Any, *, context_length: int, drop_first: int) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ConfigError(
                "the tokenizer must be a fast one (it alone gives character offsets), got "
                f"{type(tokenizer).__name__}: load it with AutoTokenizer"
            )
        self._tokenizer = tokenizer
        self._drop_first = drop_first
        self._prefix, self._suffix = _special_frame(tokenizer)
        self._n_text_tokens = context_length - len(self._prefix) - len(self._suffix)
        self._special_ids = np.array(sorted(tokenizer.all_special_ids), dtype=np.int32)
        if self._n_text_tokens < 1:
            raise ConfigError(
                f"context_length must exceed {context_length - self._n_text_tokens} "
                f"(this tokenizer's special tokens), got {context_length}"
            )

    def cut(self, number: int, text: str) -> Iterator[Window]:
        """Tokenise one document and cut it.

        Args:
            number: the document's number, from 0.
            text: its text.

        Yields:
            Windows in order; none when the text has no tokens.
        """
        encoded = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        token_ids = np.asarray(encoded["input_ids"], dtype=np.int32)
        offsets = np.asarray(encoded["offset_mapping"], dtype=np.int32).reshape(-1, 2)
        for begin in range(0, len(token_ids), self._n_text_tokens):
            part = slice(begin, begin + self._n_text_tokens)
            yield self._framed(number, token_ids[part], offsets[part])

    def _framed(self, number: int, token_ids: np.ndarray, offsets: np.ndarray) -> Window:
        padding = ((len(self._prefix), len(self._suffix)), (0, 0))
        offsets = np.pad(offsets, padding)
        token_ids = np.concatenate([self._prefix, token_ids, self._suffix])
        special = np.isin(token_ids, self._special_ids)
        return Window(
            document=number,
            token_ids=token_ids,
            start=offsets[:, 0],
            end=offsets[:, 1],
            special=special,
            candidate=~special & (np.arange(len(token_ids)) >= self._drop_first),
        )


class DocumentDigest:
    """A running SHA-256 of documents, their ids and their order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, document: Document) -> None:
        """Take in one document."""
        for part in document:
            data = part.encode("utf-8")
            self._digest.update(len(data).to_bytes(8, "little") + data)

    def hexdigest(self) -> str:
        """Give the digest of all documents so far, 64 hex digits."""
        return self._digest.hexdigest()


@dataclass(frozen=True, eq=False)
class WorkUnit:
    """The windows that make one shard."""

    windows: list[Window]
    documents: list[Document]
    """The documents first read for this unit."""
    n_empty_documents: int
    """How many of them have no tokens."""
    documents_sha256: str
    """Digest of all documents read so far, this unit's included."""


class UnitReader:
    """Gather windows into units of about a wanted number of candidate tokens.

    Documents are read only when a unit needs them.

    Args:
        documents: the documents, read once.
        cutter: what cuts them.
    """

    def __init__(self, documents: Iterator[Document], cutter: WindowCutter) -> None:
        self._documents = documents
        self._cutter = cutter
        self._pending: deque[Window] = deque()
        self._n_read = 0
        self._digest = DocumentDigest()

    def next_unit(self, n_candidates: int) -> WorkUnit:
        """Read the next unit.

        Args:
            n_candidates: the unit ends with the window that reaches this many candidates.

        Returns:
            The unit; without windows when the documents have come to their end.
        """
        windows: list[Window] = []
        read: list[Document] = []
        n_found = n_empty = 0
        while n_found < n_candidates:
            if self._pending:
                windows.append(self._pending.popleft())
                n_found += int(windows[-1].candidate.sum())
            elif (document := self._read_document()) is not None:
                read.append(document)
                n_empty += not self._pending
            else:
                break
        return WorkUnit(windows, read, n_empty, self._digest.hexdigest())

    def _read_document(self) -> Document | None:
        document = next(self._documents, None)
        if document is None:
            return None
        self._digest.update(document)
        self._pending.extend(self._cutter.cut(self._n_read, document.text))
        self._n_read += 1
        return document


def candidate_rows(windows: list[Window]) -> RowTable:
    """Tabulate the candidate tokens of windows, in order.

    Returns:
        A table with one row per candidate token.
    """
    masks = [window.candidate for window in windows]
    columns = {
        "document": [np.full(len(window), window.document) for window in windows],
        "token_id": [window.token_ids for window in windows],
        "position": [np.arange(len(window)) for window in windows],
        "start": [window.start for window in windows],
        "end": [window.end for window in windows],
    }
    return RowTable(**{name: _joined(name, parts, masks) for name, parts in columns.items()})


def _joined(name: str, parts: list[np.ndarray], masks: list[np.ndarray]) -> np.ndarray:
    kept = [part[mask] for part, mask in zip(parts, masks, strict=True)]
    dtype = COLUMN_TYPES[name]
    return np.concatenate([np.empty(0, dtype), *kept]).astype(dtype)


def _special_frame(tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    encoded = tokenizer("a", return_special_tokens_mask=True)
    token_ids = np.asarray(encoded["input_ids"], dtype=np.int32)
    text_places = np.flatnonzero(np.asarray(encoded["special_tokens_mask"]) == 0)
    if len(text_places) == 0:
        return np.empty(0, np.int32), np.empty(0, np.int32)
    return token_ids[: text_places[0]], token_ids[text_places[-1] + 1 :]
