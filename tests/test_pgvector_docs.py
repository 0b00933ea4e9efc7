"""docs/pgvector.md: its SQL and its Python run, and do what it says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import psycopg
import pytest

from bitcodec import BitCodec
from bitcodec_pgvector import PackedTable
from tests.postgres import own_schema

PAGE = Path(__file__).parent.parent / "docs" / "pgvector.md"


@pytest.fixture(scope="module")
def wide(hidden: np.ndarray) -> BitCodec:
    """A codec of the page's number of bits."""
    return BitCodec(n_bits=576, n_steps=5, batch_size=256, refine="none").fit(hidden[:1024])


def blocks() -> list[tuple[str, str]]:
    """Return the page's blocks of Python and SQL in order."""
    return re.findall(r"```(python|sql)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def test_the_page_on_pgvector_runs_from_top_to_bottom(
    postgres: str, hidden: np.ndarray, wide: BitCodec, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: list[object] = []
    with own_schema(postgres) as url, psycopg.connect(url, autocommit=True) as connection:
        names = {"url": url, "codec": wide, "hidden": hidden}
        for kind, text in blocks():
            if kind == "python":
                exec(text, names)
                continue
            if "CREATE TABLE" in text:
                connection.execute("DROP TABLE IF EXISTS codes")
            cursor = connection.execute(text.encode())
            while True:
                if cursor.description:
                    answers.append(cursor.fetchall())
                if not cursor.nextset():
                    break
        with PackedTable.open(url, wide) as table:
            assert table.ids.tolist() == [0, 1, 2, 7]
            assert np.array_equal(table.reconstruct_packed([1]), wide.encode(hidden[1:2]))
            assert table.has_hnsw
    assert "asymmetric" in capsys.readouterr().out
    fingerprint, nearest, features, graph = answers
    assert fingerprint == [(wide.fingerprint_,)]
    assert isinstance(nearest, list)
    assert nearest[0] == (1, 0.0)
    bits = wide.encode_bits(hidden[:3], refine="none")
    on = [(i,) for i in range(3) if bits[i, 12] and not bits[i, 90]]
    assert features == on
    assert isinstance(graph, list)
    assert graph[0] == (2,)
