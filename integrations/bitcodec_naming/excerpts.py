"""A row's token in its text, as a judge reads it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitcodec.row_texts import RowTexts


@dataclass(frozen=True)
class Excerpt:
    """A token with the text around it."""

    before: str
    """Text before the token."""
    token: str
    """The token's text; many bring the space before them."""
    after: str
    """Text after it."""


class ExcerptReader:
    """Excerpts of rows.

    Args:
        texts: the origin of the rows.
        width: characters before and after the token.
    """

    def __init__(self, texts: RowTexts, *, width: int) -> None:
        self._texts, self._width = texts, width
        self._start, self._end = (np.asarray(texts.column(name)) for name in ("start", "end"))

    def read(self, row: int) -> Excerpt:
        """Return the excerpt of a row."""
        text = self._texts.document_text(row)
        start, end = int(self._start[row]), int(self._end[row])
        return Excerpt(
            before=text[max(0, start - self._width) : start],
            token=text[start:end],
            after=text[end : end + self._width],
        )
