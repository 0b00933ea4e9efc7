"""Rows that a report shows, with their texts, as plain data."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from bitcodec.errors import ValueRangeError


@dataclass(frozen=True)
class Rows:
    """Every row that the report shows or that stands in a text it shows; aligned columns."""

    row: tuple[int, ...]
    """Number of the row in the hidden states, ascending."""
    price_bits: tuple[float, ...]
    """Sum over the features of -log2 P(b), in bits."""
    error: tuple[float, ...]
    """As `WorstRow.error`."""
    n_on: tuple[int, ...]
    """Features that are on."""
    passage: tuple[int, ...]
    """Index into `Report.passages`. This and the columns below are empty without text."""
    start: tuple[int, ...]
    """First character of the row's token in the passage's text."""
    end: tuple[int, ...]
    """One past the last character."""
    position: tuple[int, ...]
    """Place of the token in the window that the model read."""
    token_id: tuple[int, ...]
    """Of the tokenizer."""


@dataclass(frozen=True)
class Passage:
    """A piece of a document's text, shared by the contexts that lie in it."""

    document: str
    """The document's id."""
    offset: int
    """Character of the document at which the text begins."""
    text: str
    """The piece."""


@dataclass(frozen=True)
class RowPlace:
    """One row, with where it comes from."""

    row: int
    """Its number in the hidden states."""
    document: str | None
    """The document's id; None without text, as all below."""
    position: int | None
    """Place of the token in the window that the model read."""
    token_id: int | None
    """Of the tokenizer."""
    before: str
    """Text before the token."""
    token: str
    """The token's text."""
    after: str
    """Text after it."""
    price_bits: float
    """As `Rows.price_bits`."""
    error: float
    """As `WorstRow.error`."""


def place_of(rows: Rows, passages: tuple[Passage, ...], number: int, *, width: int) -> RowPlace:
    """Give one of the rows with its text.

    Raises:
        ValueRangeError: it is not among them.
    """
    index = bisect_left(rows.row, number)
    if rows.row[index : index + 1] != (number,):
        raise ValueRangeError(
            f"row {number} is not among the {len(rows.row)} that the report shows"
        )
    price, error = rows.price_bits[index], rows.error[index]
    if not rows.passage:
        return RowPlace(number, None, None, None, "", "", "", price, error)
    passage, start, end = passages[rows.passage[index]], rows.start[index], rows.end[index]
    text = passage.text
    return RowPlace(
        row=number,
        document=passage.document,
        position=rows.position[index],
        token_id=rows.token_id[index],
        before=text[max(0, start - width) : start],
        token=text[start:end],
        after=text[end:][:width],
        price_bits=price,
        error=error,
    )
