"""Rows in their texts: harvests, lists of tokens, and the passages shown around rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitcodec import TokenTexts
from bitcodec.errors import ConfigError, ShapeError, ValueRangeError
from bitcodec.passages import TextRows
from bitcodec.row_texts import COLUMNS, RowTexts, check_aligned
from bitcodec_transformers import read_rows

TOKENS = ["The", " cat", " sat", ".", "A", " dog", " ran", "."]
DOCUMENTS = ["cat.txt"] * 4 + ["dog.txt"] * 4


@pytest.fixture(params=["harvest", "tokens"])
def texts(request: pytest.FixtureRequest, harvest_folder: Path) -> RowTexts:
    if request.param == "tokens":
        return TokenTexts(TOKENS, documents=DOCUMENTS)
    return read_rows(harvest_folder)


def test_a_row_is_its_token_in_the_text_of_its_document(texts: RowTexts) -> None:
    columns = {name: texts.column(name) for name in COLUMNS}
    assert {column.shape for column in columns.values()} == {(len(texts),)}
    for row in range(0, len(texts), max(1, len(texts) // 50)):
        text = texts.document_text(row)
        token = text[columns["start"][row] : columns["end"][row]]
        assert token == TextRows(texts, width=5).token(row)
        assert token or len(texts) > len(TOKENS)


def test_tokens_of_a_list_are_joined_to_documents() -> None:
    texts = TokenTexts(TOKENS, documents=DOCUMENTS)
    assert texts.document_text(0) == "The cat sat."
    assert [texts.document_id(row) for row in (3, 4)] == ["cat.txt", "dog.txt"]
    assert texts.column("position").tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert texts.column("token_id").tolist() == [0, 1, 2, 3, 4, 5, 6, 3]


def test_rows_of_a_document_need_not_be_neighbours() -> None:
    texts = TokenTexts(["a", "x", "b", "y"], documents=["1", "2", "1", "2"], token_ids=[9, 8, 7, 6])
    assert (texts.document_text(2), texts.document_text(1)) == ("ab", "xy")
    assert texts.column("start").tolist() == [0, 0, 1, 1]
    assert texts.column("token_id").tolist() == [9, 8, 7, 6]


@pytest.mark.parametrize("name", ["documents", "token_ids"])
def test_lists_of_other_lengths_are_refused(name: str) -> None:
    given = {name: [1, 2]}
    with pytest.raises(ShapeError, match=f"{name} must be 3 like tokens, got 2"):
        TokenTexts(["a", "b", "c"], **given)  # type: ignore[arg-type]


def test_a_row_that_is_not_there_is_refused(texts: RowTexts) -> None:
    with pytest.raises(ValueRangeError, match=f"row must be between 0 and {len(texts) - 1}, got"):
        texts.document_id(len(texts))


def test_texts_must_have_the_rows_of_the_hidden_states() -> None:
    check_aligned(TokenTexts(TOKENS), 8)
    with pytest.raises(ShapeError, match="a row for each of the 9 hidden states, got 8: pass"):
        check_aligned(TokenTexts(TOKENS), 9)


def test_plain_strings_are_no_texts_of_rows() -> None:
    message = "text must tell where rows come from, got list without column and .*TokenTexts"
    with pytest.raises(ConfigError, match=message):
        check_aligned(["a", "b"], 2)  # type: ignore[arg-type]


def test_passages_show_each_row_with_its_width_of_text(texts: RowTexts) -> None:
    rows = TextRows(texts, width=7)
    shown = list(range(0, len(texts), 3))
    passages, table = rows.passages(shown)
    place = {row: (passages[index], start, end) for row, index, start, end in table.tolist()}
    assert set(shown) <= set(place)
    for row in shown:
        passage, start, end = place[row]
        text, first = texts.document_text(row), int(texts.column("start")[row])
        token = text[first : int(texts.column("end")[row])]
        assert passage.document == texts.document_id(row)
        assert passage.text[start:end] == token
        assert passage.offset + start == first
        assert passage.text[:start][-7:] == text[:first][-7:]
        assert passage.text[end:][:7] == text[first + len(token) :][:7]


def test_passages_of_neighbouring_rows_are_one() -> None:
    rows = TextRows(TokenTexts(TOKENS, documents=DOCUMENTS), width=2)
    passages, table = rows.passages([1, 2, 7])
    assert [passage.text for passage in passages] == ["he cat sat.", "an."]
    assert table[:, 0].tolist() == [1, 2, 3, 7]  # row 3 is shown whole, rows 0 and 6 are not


def test_no_rows_have_no_passages() -> None:
    passages, table = TextRows(TokenTexts(TOKENS), width=2).passages([])
    assert (passages, table.shape) == ((), (0, 4))


def test_the_rows_around_a_row_are_those_of_its_text_and_document() -> None:
    rows = TextRows(TokenTexts(TOKENS, documents=DOCUMENTS), width=6)
    assert rows.around(2).tolist() == [1, 2, 3]
    assert rows.around(4).tolist() == [4, 5]


def test_rows_out_of_order_are_found_around_a_row() -> None:
    texts = TokenTexts(TOKENS, documents=DOCUMENTS)
    shuffled = np.array([5, 2, 7, 0, 1, 3, 6, 4])

    class Shuffled:
        def __len__(self) -> int:
            return 8

        def column(self, name: str) -> np.ndarray:
            column: np.ndarray = texts.column(name)[shuffled]
            return column

        def document_id(self, row: int) -> str:
            return texts.document_id(int(shuffled[row]))

        def document_text(self, row: int) -> str:
            return texts.document_text(int(shuffled[row]))

    assert TextRows(Shuffled(), width=6).around(1).tolist() == [4, 1, 5]
