"""Tables of packed codes in PostgreSQL, held against FAISS and against counting bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import LiteralString

import numpy as np
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.rows import dict_row

from bitcodec import BitCodec
from bitcodec.bits import hamming, pack, unpack
from bitcodec.errors import ConfigError, ShapeError, ValueRangeError
from bitcodec.similarity import Metric
from bitcodec_faiss import HammingIndex
from bitcodec_pgvector import MISSING_ID, MISSING_SCORE, PackedTable, Where, bit_strings
from bitcodec_pgvector.wire import from_wire, to_wire
from tests.postgres import own_schema

N_ROWS = 2000


@pytest.fixture
def url(postgres: str) -> Iterator[str]:
    with own_schema(postgres) as own:
        yield own


@pytest.fixture(scope="module")
def sided(hidden: np.ndarray) -> BitCodec:
    """A codec of 67 bits and two side bytes."""
    made = BitCodec(n_bits=67, side_bytes=2, n_steps=60, batch_size=256, refine="none")
    return made.fit(hidden[:3072])


@pytest.fixture(scope="module")
def loaded(postgres: str, hidden: np.ndarray, sided: BitCodec) -> Iterator[PackedTable]:
    """Two thousand real rows with columns; not to be changed."""
    with (
        own_schema(postgres) as own,
        PackedTable.create(
            own, sided, columns={"document": "text", "position": "integer"}
        ) as table,
    ):
        documents = ["even" if row % 2 == 0 else "odd" for row in range(N_ROWS)]
        table.add(hidden[:N_ROWS], columns={"document": documents, "position": np.arange(N_ROWS)})
        yield table


@pytest.fixture(scope="module")
def index(hidden: np.ndarray, sided: BitCodec) -> HammingIndex:
    """The same rows in FAISS."""
    made = HammingIndex(sided)
    made.add(hidden[:N_ROWS])
    return made


def first(table: PackedTable, query: LiteralString) -> object:
    """Ask PostgreSQL itself."""
    row = table.connection.execute(query).fetchone()
    return None if row is None else row[0]


def test_bit_j_of_a_code_is_bit_j_of_the_bit_string(url: str, codec: BitCodec) -> None:
    single = pack(np.eye(codec.n_bits_, dtype=np.uint8))  # row j has bit j and no other
    with PackedTable.create(url, codec) as table:
        table.add_packed(single)
        texts = table.connection.execute("SELECT code::text FROM codes ORDER BY id").fetchall()
        agree = "SELECT bool_and(get_bit(code, id::int) = 1 AND bit_count(code) = 1) FROM codes"
        assert first(table, agree) is True
    assert [text for (text,) in texts] == [
        "0" * j + "1" + "0" * (codec.n_bits_ - j - 1) for j in range(codec.n_bits_)
    ]


@given(st.integers(1, 17), st.integers(0, 9), st.integers(0, 2**32 - 1))
def test_codes_survive_the_wire_whatever_their_width(n_bits: int, n_rows: int, seed: int) -> None:
    bits = np.random.default_rng(seed).integers(0, 2, (n_rows, n_bits), dtype=np.uint8)
    packed = pack(bits)
    assert np.array_equal(from_wire(to_wire(packed, n_bits=n_bits), n_bits=n_bits), packed)
    assert bit_strings(packed, n_bits=n_bits) == ["".join(map(str, row)) for row in bits]


def test_exact_searches_find_what_faiss_finds(
    loaded: PackedTable, index: HammingIndex, hidden: np.ndarray
) -> None:
    queries = hidden[N_ROWS : N_ROWS + 70]
    ours, theirs = loaded.search(queries, k=7), index.search(queries, k=7)
    assert np.array_equal(ours.ids, theirs.ids)  # ties, too, are by id
    assert np.array_equal(ours.scores, theirs.scores)
    assert (ours.scored_by, ours.metric) == ("hamming", "hamming")
    assert ours.scores.dtype == np.int32


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_rescored_searches_find_what_faiss_finds(
    loaded: PackedTable, index: HammingIndex, hidden: np.ndarray, metric: Metric
) -> None:
    queries = hidden[N_ROWS : N_ROWS + 70].reshape(7, 10, -1)
    ours, theirs = (
        found.search(queries, k=5, rescore="asymmetric", metric=metric, oversample=4)
        for found in (loaded, index)
    )
    assert np.array_equal(ours.ids, theirs.ids)
    # A query's weights are rounded by how many are computed at once.
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-5)
    assert (ours.ids.shape, ours.scored_by, ours.metric) == ((7, 10, 5), "asymmetric", metric)


def test_searches_rescored_by_the_originals_find_what_faiss_finds(
    loaded: PackedTable, index: HammingIndex, hidden: np.ndarray
) -> None:
    ours, theirs = (
        found.search(hidden[:9], k=3, rescore="float", metric="l2", originals=hidden)
        for found in (loaded, index)
    )
    assert np.array_equal(ours.ids, theirs.ids)
    assert np.array_equal(ours.ids[:, 0], np.arange(9))


def test_a_range_search_finds_what_faiss_finds(
    loaded: PackedTable, index: HammingIndex, hidden: np.ndarray
) -> None:
    queries = hidden[N_ROWS : N_ROWS + 70]
    allowed = np.arange(0, N_ROWS, 2)
    even = Where("document = %(document)s", {"document": "even"})
    ours = loaded.range_search(queries, radius=9, filter=even)
    theirs = index.range_search(queries, radius=9, filter=allowed)
    assert len(theirs.ids) > 70
    assert np.array_equal(ours.limits, theirs.limits)
    assert np.array_equal(ours.ids, theirs.ids)
    assert np.array_equal(ours.scores, theirs.scores)


def test_a_graph_finds_most_of_what_is_there_and_exact_all_of_it(
    url: str, hidden: np.ndarray, sided: BitCodec, index: HammingIndex
) -> None:
    queries = hidden[N_ROWS : N_ROWS + 50]
    expected = index.search(queries, k=10)
    with PackedTable.create(url, sided) as table:
        table.add(hidden[:N_ROWS])
        table.build_hnsw(n_links=8)
        table.connection.execute("SET enable_seqscan = off")  # the planner likes small tables read
        found = table.search(queries, k=10, ef_search=200)
        exact = table.search(queries, k=10, exact=True)
        assert np.array_equal(exact.ids, expected.ids)
        # Ties at the tenth place are any of those rows: distances are what must agree.
        assert 0.8 < (found.scores == expected.scores).mean() <= 1
        assert (np.diff(found.scores, axis=1) >= 0).all()
        plan = "EXPLAIN SELECT id FROM codes ORDER BY code <~> repeat('1', 67)::bit(67) LIMIT 5"
        assert "codes_code_idx" in str(table.connection.execute(plan).fetchall())


def test_a_graph_and_a_filter_that_few_rows_pass_find_them_all(
    url: str, hidden: np.ndarray, sided: BitCodec, index: HammingIndex
) -> None:
    few = np.arange(3, N_ROWS, 250)
    with PackedTable.create(url, sided, columns={"rare": "boolean"}) as table:
        table.add(hidden[:N_ROWS], columns={"rare": np.isin(np.arange(N_ROWS), few)})
        table.build_hnsw()
        table.connection.execute("SET enable_seqscan = off")
        table.connection.execute("SET hnsw.max_scan_tuples = 100")
        found = table.search(hidden[:20], k=10, filter=Where("rare"))
    expected = index.search(hidden[:20], k=10, filter=few)
    assert np.array_equal(found.ids, expected.ids)
    assert (found.ids[:, len(few) :] == MISSING_ID).all()
    assert (found.scores[:, len(few) :] == MISSING_SCORE).all()


def test_a_graph_is_built_once_and_dropped_again(
    url: str, hidden: np.ndarray, codec: BitCodec
) -> None:
    with PackedTable.create(url, codec) as table:
        table.add(hidden[:100])
        with pytest.raises(ConfigError, match="a table without one"):
            table.search(hidden[:1], ef_search=10)
        table.build_hnsw()
        assert table.has_hnsw
        with pytest.raises(ConfigError, match="drop_hnsw before"):
            table.build_hnsw()
        with pytest.raises(ConfigError, match="at most 1000, got 1001"):
            table.search(hidden[:1], ef_search=1001)
        table.drop_hnsw()
        assert not table.has_hnsw


def test_a_filter_of_ids_finds_only_those(
    loaded: PackedTable, index: HammingIndex, hidden: np.ndarray
) -> None:
    allowed = np.array([5, 17, 1999, 10**12])
    ours = loaded.search(hidden[:8], k=5, filter=allowed)
    assert np.array_equal(ours.ids, index.search(hidden[:8], k=5, filter=allowed).ids)
    assert (ours.ids[:, 3:] == MISSING_ID).all()


def test_a_filter_in_sql_takes_its_values_as_parameters(
    loaded: PackedTable, hidden: np.ndarray
) -> None:
    hostile = "even' OR true; DROP TABLE codes; --"
    nothing = loaded.search(hidden[0], filter=Where("document = %(d)s", {"d": hostile}))
    assert (nothing.ids == MISSING_ID).all()
    assert len(loaded) == N_ROWS
    both = Where(
        "document = %(d)s AND position BETWEEN %(low)s AND %(high)s",
        {"d": "odd", "low": 10, "high": 19},
    )
    assert set(loaded.search(hidden[0], k=5, filter=both).ids) == {11, 13, 15, 17, 19}


def test_a_filter_in_sql_asks_for_a_feature(loaded: PackedTable, hidden: np.ndarray) -> None:
    bits = unpack(loaded.reconstruct_packed(np.arange(N_ROWS))[:, :-2], n_bits=67)
    feature = int(np.argmin(np.abs(bits.mean(axis=0) - 0.2)))
    on = Where("get_bit(code, %(feature)s) = 1", {"feature": feature})
    found = loaded.search(hidden[0], k=N_ROWS, filter=on).ids
    assert set(found[found != MISSING_ID]) == set(np.flatnonzero(bits[:, feature]))


def test_a_wrong_filter_is_refused(loaded: PackedTable, hidden: np.ndarray) -> None:
    with pytest.raises(ConfigError, match='column "author" does not exist'):
        loaded.search(hidden[0], filter=Where("author = 'x'"))
    with pytest.raises(ShapeError, match="filter must be a one-dimensional array of 64-bit"):
        loaded.search(hidden[0], filter=np.ones(N_ROWS, dtype=bool))
    with pytest.raises(ConfigError, match='must not begin with "bitcodec_"'):
        Where("id < %(bitcodec_k)s", {"bitcodec_k": 3})
    assert loaded.search(hidden[0], k=1).ids.tolist() == [0]  # the connection is as good as before


def test_rows_come_back_as_they_went(
    loaded: PackedTable, sided: BitCodec, hidden: np.ndarray
) -> None:
    packed = sided.encode(hidden[:N_ROWS])
    order = np.array([7, 3, 7, 1999])
    assert np.array_equal(loaded.reconstruct_packed(order), packed[order])
    assert np.array_equal(loaded.reconstruct(order), sided.decode(packed[order]))
    assert loaded.reconstruct_packed([]).shape == (0, sided.row_bytes_)
    with pytest.raises(ValueRangeError, match="got 2000 which it does not hold"):
        loaded.reconstruct_packed([3, 2000])


def test_ids_count_on_from_the_largest_there_has_been(
    url: str, hidden: np.ndarray, codec: BitCodec
) -> None:
    with PackedTable.create(url, codec) as table:
        assert table.add(hidden[:2]).tolist() == [0, 1]
        assert table.add(hidden[:1], ids=[40]).tolist() == [40]
        assert table.add(hidden[:2]).tolist() == [41, 42]
        assert table.remove([42, 41]) == 2
        assert table.add(hidden[:1]).tolist() == [43]
        by_hand = "INSERT INTO codes (code) SELECT code FROM codes WHERE id = 0 RETURNING id"
        assert first(table, by_hand) == 44
        assert table.ids.tolist() == [0, 1, 40, 43, 44]


def test_an_upsert_replaces_rows_and_leaves_columns_it_does_not_name(
    url: str, hidden: np.ndarray, codec: BitCodec
) -> None:
    with PackedTable.create(url, codec, columns={"document": "text", "note": "text"}) as table:
        notes = ["x", "y", None]
        table.add(hidden[:3], ids=[1, 2, 3], columns={"document": list("abc"), "note": notes})
        for _ in range(2):  # a second time changes nothing
            table.upsert(hidden[10:12], ids=[2, 4], columns={"document": ["B", "D"]})
        query = "SELECT id, document, note FROM codes ORDER BY id"
        rows = table.connection.execute(query).fetchall()
        assert rows == [(1, "a", "x"), (2, "B", "y"), (3, "c", None), (4, "D", None)]
        expected = codec.encode(hidden[[0, 10, 2, 11]])
        assert np.array_equal(table.reconstruct_packed([1, 2, 3, 4]), expected)
        with pytest.raises(ConfigError, match="upsert needs ids, got None"):
            table.upsert(hidden[:1], ids=None)


def test_rows_are_removed_by_id_or_by_sql_all_or_none(
    url: str, hidden: np.ndarray, codec: BitCodec
) -> None:
    with PackedTable.create(url, codec, columns={"document": "text"}) as table:
        table.add(hidden[:6], columns={"document": list("aabbcc")})
        with pytest.raises(ValueRangeError, match="got 6 which it does not hold"):
            table.remove([0, 6])
        with pytest.raises(ValueRangeError, match="got 0 twice"):
            table.remove([0, 0])
        with pytest.raises(ConfigError, match="TRUNCATE removes all rows"):
            table.remove(None)
        assert len(table) == 6
        assert table.remove([0]) == 1
        assert table.remove(Where("document = %(d)s", {"d": "b"})) == 2
        assert table.ids.tolist() == [1, 4, 5]


def test_the_nearest_are_those_of_the_fewest_differing_bits(
    url: str, hidden: np.ndarray, codec: BitCodec
) -> None:
    packed = codec.encode(hidden[:60])
    with PackedTable.create(url, codec) as table:
        table.add_packed(iter([packed[:7], packed[7:7], packed[7:]]))  # as a stream
        found = table.search_packed(packed[:4], k=70)
    distances = hamming(packed[:4, None], packed[None])
    order = np.lexsort((np.broadcast_to(np.arange(60), (4, 60)), distances), axis=-1)
    assert np.array_equal(found.ids[:, :60], order)
    assert np.array_equal(found.scores[:, :60], np.take_along_axis(distances, order, axis=1))
    assert (found.ids[:, 60:] == MISSING_ID).all()


def test_no_queries_have_no_hits(loaded: PackedTable, hidden: np.ndarray) -> None:
    assert loaded.search(hidden[:0], k=3).ids.shape == (0, 3)
    assert loaded.search(hidden[:0], k=3, rescore="asymmetric").ids.shape == (0, 3)
    assert loaded.range_search(hidden[:0], radius=3).limits.tolist() == [0]


def test_a_table_says_what_its_rows_cost(loaded: PackedTable, sided: BitCodec) -> None:
    # A row has a header of 24 bytes, and its key is held twice.
    assert sided.row_bytes_ + 24 < loaded.bytes_per_vector < 200


def test_a_connection_of_ones_own_is_used_in_its_own_transaction(
    url: str, hidden: np.ndarray, codec: BitCodec
) -> None:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        table = PackedTable.create(connection, codec)
        connection.commit()
        with connection.transaction(force_rollback=True):
            table.add(hidden[:5])
            assert len(table) == 5
        assert len(table) == 0
        table.close()
        assert not connection.closed


def test_a_table_of_a_name_that_needs_quotes_works(
    url: str, hidden: np.ndarray, codec: BitCodec
) -> None:
    name = 'Odd "name"; DROP TABLE codes; --'
    with PackedTable.create(url, codec, name=name, columns={"Of Mine%": "text"}) as table:
        table.add(hidden[:3], columns={"Of Mine%": ["a", "b", "c"]})
        table.upsert(hidden[:1], ids=[9], columns={"Of Mine%": ["d"]})
        table.build_hnsw()
        assert table.search(hidden[2], k=1).ids.tolist() == [2]
        table.drop_hnsw()
        assert len(PackedTable.open(table.connection, codec, name=name)) == 4


@pytest.mark.parametrize("name", ["", "a.b.c", "schema.", "percent%s"])
def test_a_name_that_is_none_is_refused(url: str, codec: BitCodec, name: str) -> None:
    with pytest.raises(ConfigError, match='a table is named "codes" or'):
        PackedTable.create(url, codec, name=name)
