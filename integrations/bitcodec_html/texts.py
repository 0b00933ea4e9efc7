"""Texts encoded for a page: their tokens, and the bits of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bitcodec.errors import ShapeError
from bitcodec.row_texts import RowTexts


class BitEncoder(Protocol):
    """What of a `BitCodec` a text needs."""

    def encode_bits(self, hidden: np.ndarray) -> np.ndarray:
        """Encode hidden states (n, d) into (n, h) uint8, values 0 or 1."""


@dataclass(frozen=True, eq=False)
class EncodedText:
    """A text whose tokens are rows."""

    title: str
    """What the page calls it."""
    text: str
    """The whole text."""
    start: np.ndarray
    """(n,) integers, first character of each row's token."""
    end: np.ndarray
    """(n,) integers, one past the last."""
    position: np.ndarray
    """(n,) integers, place of each token in the window that the model read."""
    bits: np.ndarray
    """(n, h) uint8, values 0 or 1."""


def encoded_texts(codec: BitEncoder, hidden: np.ndarray, texts: RowTexts) -> list[EncodedText]:
    """Encode the hidden states of a few texts for `write_page`.

    Args:
        codec: the codec of the report.
        hidden: (n, d) floats.
        texts: where the n rows come from; `bitcodec_transformers.hidden_of` gives both.

    Returns:
        One text for each document that has rows, titled by the document's id.

    Raises:
        ShapeError: there are not as many rows in `texts` as in `hidden`.
    """
    if len(texts) != len(hidden):
        raise ShapeError(
            f"texts must have a row for each of the {len(hidden)} hidden states, got {len(texts)}"
        )
    bits = codec.encode_bits(hidden)
    document = texts.column("document")
    return [_one(texts, bits, np.flatnonzero(document == number)) for number in np.unique(document)]


def _one(texts: RowTexts, bits: np.ndarray, rows: np.ndarray) -> EncodedText:
    first = int(rows[0])
    start, end, position = (texts.column(name)[rows] for name in ("start", "end", "position"))
    return EncodedText(
        title=texts.document_id(first),
        text=texts.document_text(first),
        start=start,
        end=end,
        position=position,
        bits=bits[rows],
    )
