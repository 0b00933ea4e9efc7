"""The texts around the rows that a report shows, each piece once however many rows share it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bitcodec.report_rows import Passage
from bitcodec.row_texts import COLUMNS, RowTexts

_DOCUMENT = 2**40
"""Characters that no document has: places in all documents become single numbers."""


class TextRows:
    """Rows by their place in the texts.

    Args:
        texts: the origin of the rows.
        width: characters of text around a row.
    """

    def __init__(self, texts: RowTexts, *, width: int) -> None:
        self.texts, self.width = texts, width
        self.columns = {name: np.asarray(texts.column(name), np.int64) for name in COLUMNS}
        place = self.columns["document"] * _DOCUMENT
        self._start, self._end = place + self.columns["start"], place + self.columns["end"]
        self._order = np.argsort(self._start, kind="stable")
        self._sorted_start = self._start[self._order]

    def __len__(self) -> int:
        return len(self._start)

    def around(self, row: int) -> np.ndarray:
        """Return the rows whose tokens lie in the text around a row, itself included, in order."""
        begin, end = self._span(row)
        first, last = np.searchsorted(self._sorted_start, [begin, end + 1])
        found = self._order[first:last]
        inside: np.ndarray = found[self._end[found] <= end]
        return inside

    def token(self, row: int) -> str:
        """Return the text of a row's token."""
        start, end = (int(self.columns[name][row]) for name in ("start", "end"))
        return self.texts.document_text(row)[start:end]

    def _span(self, row: int) -> tuple[int, int]:
        floor = int(self.columns["document"][row]) * _DOCUMENT
        return max(floor, int(self._start[row]) - self.width), int(self._end[row]) + self.width

    def passages(self, shown: Iterable[int]) -> tuple[tuple[Passage, ...], np.ndarray]:
        """Return the texts around rows, overlapping ones joined, and the rows that lie in them.

        Args:
            shown: the rows.

        Returns:
            The passages, in the order of documents and places; and (m, 4) int64: row, passage,
            first character in its text, one past the last, of every row inside, rows ascending.
        """
        spans = _joined(sorted(self._span(row) for row in shown))
        begins = np.array([begin for begin, _ in spans], dtype=np.int64)
        ends = np.array([end for _, end in spans], dtype=np.int64)
        if not spans:
            return (), np.empty((0, 4), np.int64)
        passage = np.searchsorted(begins, self._start, side="right") - 1
        rows = np.flatnonzero((passage >= 0) & (self._end <= ends[passage]))
        owner = passage[rows]
        places = self._start[rows] - begins[owner], self._end[rows] - begins[owner]
        table = np.stack([rows, owner, *places], axis=1)
        sample = np.zeros(len(spans), dtype=np.int64)  # any row of each passage, for its document
        sample[owner] = rows
        return tuple(
            self._passage(*item) for item in zip(spans, sample.tolist(), strict=True)
        ), table

    def _passage(self, span: tuple[int, int], row: int) -> Passage:
        begin, end = (place % _DOCUMENT for place in span)
        text = self.texts.document_text(row)[begin:end]
        return Passage(document=self.texts.document_id(row), offset=begin, text=text)


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ascending spans that overlap or touch; those of other documents never do."""
    joined: list[tuple[int, int]] = []
    for begin, end in spans:
        if joined and begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((begin, end))
    return joined
