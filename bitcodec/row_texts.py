"""Where rows come from: the text, document and token of every row, for whoever shows rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from bitcodec.errors import ConfigError, ShapeError, ValueRangeError

COLUMNS = ("document", "token_id", "position", "start", "end")
"""The columns a `RowTexts` has."""
_NEEDED = ("column", "document_id", "document_text")


class RowTexts(Protocol):
    """The origin of n rows; `bitcodec_transformers.read_rows` of a harvest gives one."""

    def __len__(self) -> int:
        """The number of rows n."""

    def column(self, name: str) -> np.ndarray:
        """Give a column of the rows.

        Args:
            name: `document` (its number, from 0), `token_id`, `position` (in the window that the
                model read), `start` and `end` (characters of the row's token in its document).

        Returns:
            (n,) integers.
        """

    def document_id(self, row: int) -> str:
        """Give the id of a row's document."""

    def document_text(self, row: int) -> str:
        """Give the text of a row's document."""


class TokenTexts:
    """Rows of a list of tokens: a plain `RowTexts`.

    A document's text is its tokens, one after the other, so tokens bring their own spaces.

    Args:
        tokens: n strings, the token of each row.
        documents: n ids, the document of each row; rows of a document need not be neighbours. None
            makes all rows one document "0".
        token_ids: n integers; None numbers the different tokens in the order of their appearance.

    Raises:
        ShapeError: the lengths differ.

    >>> texts = TokenTexts(["A", " cat", " sat"])
    >>> texts.document_text(1)[texts.column("start")[1] : texts.column("end")[1]]
    ' cat'
    """

    def __init__(
        self,
        tokens: Sequence[str],
        *,
        documents: Sequence[str] | None = None,
        token_ids: Sequence[int] | None = None,
    ) -> None:
        ids = ["0"] * len(tokens) if documents is None else [str(name) for name in documents]
        for name, given in (("documents", ids), ("token_ids", token_ids)):
            if given is not None and len(given) != len(tokens):
                raise ShapeError(f"{name} must be {len(tokens)} like tokens, got {len(given)}")
        self._ids = list(dict.fromkeys(ids))
        number = {name: index for index, name in enumerate(self._ids)}
        document = np.array([number[name] for name in ids], dtype=np.int64)
        self._pieces: list[list[str]] = [[] for _ in self._ids]
        position, start = self._place(tokens, document)
        lengths = np.array([len(token) for token in tokens], dtype=np.int32)
        self._columns = {
            "document": document,
            "token_id": _numbers(tokens) if token_ids is None else np.asarray(token_ids, np.int32),
            "position": position,
            "start": start,
            "end": start + lengths,
        }

    def __len__(self) -> int:
        return len(self._columns["document"])

    def column(self, name: str) -> np.ndarray:
        """See `RowTexts.column`."""
        return self._columns[name]

    def document_id(self, row: int) -> str:
        """See `RowTexts.document_id`."""
        return self._ids[self._document(row)]

    def document_text(self, row: int) -> str:
        """See `RowTexts.document_text`."""
        return "".join(self._pieces[self._document(row)])

    def _document(self, row: int) -> int:
        if not 0 <= row < len(self):
            raise ValueRangeError(f"row must be between 0 and {len(self) - 1}, got {row}")
        return int(self._columns["document"][row])

    def _place(self, tokens: Sequence[str], document: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Append every token to its document; return their positions and first characters."""
        lengths = np.zeros(len(self._ids), dtype=np.int32)
        position, start = (np.zeros(len(tokens), dtype=np.int32) for _ in range(2))
        for row, (token, owner) in enumerate(zip(tokens, document.tolist(), strict=True)):
            position[row], start[row] = len(self._pieces[owner]), lengths[owner]
            self._pieces[owner].append(token)
            lengths[owner] += len(token)
        return position, start


def check_aligned(texts: RowTexts, n_rows: int) -> None:
    """Raise unless texts have as many rows as the hidden states.

    Raises:
        ConfigError: they are no `RowTexts`, for example plain strings.
        ShapeError: they have more or fewer rows.
    """
    missing = [name for name in _NEEDED if not hasattr(texts, name)]
    if missing:
        raise ConfigError(
            f"text must tell where rows come from, got {type(texts).__name__} without "
            f"{' and '.join(missing)}: pass read_rows(harvest), or TokenTexts(tokens) for a list"
        )
    if len(texts) != n_rows:
        raise ShapeError(
            f"text must have a row for each of the {n_rows} hidden states, got {len(texts)}: pass "
            "the rows of the same harvest, or of the same slice of it"
        )


def _numbers(tokens: Sequence[str]) -> np.ndarray:
    number: dict[str, int] = {}
    return np.array([number.setdefault(token, len(number)) for token in tokens], dtype=np.int32)
