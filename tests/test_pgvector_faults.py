"""Tables in PostgreSQL when something goes wrong: nothing half done, and a rerun completes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest

from bitcodec import BitCodec
from bitcodec.errors import (
    ConfigError,
    FileError,
    FormatError,
    MismatchError,
    NotFittedError,
    ServerError,
    ShapeError,
    ValueRangeError,
)
from bitcodec_pgvector import (
    SCHEMA_VERSION,
    PackedTable,
    migrate,
    read_table_header,
    schema,
)
from tests.postgres import own_schema, own_server


@pytest.fixture
def url(postgres: str) -> Iterator[str]:
    with own_schema(postgres) as own:
        yield own


@pytest.fixture(scope="module")
def packed(codec: BitCodec, hidden: np.ndarray) -> np.ndarray:
    return codec.encode(hidden[:2000])


@pytest.fixture(scope="module")
def other(hidden: np.ndarray) -> BitCodec:
    """Another codec of the same number of bits."""
    return BitCodec(n_bits=67, n_steps=5, batch_size=256, refine="none", seed=1).fit(hidden)


def count(url: str) -> int:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT count(*) FROM codes").fetchone()
        assert found is not None
        return int(found[0])


KILLED = """
import sys
import time
import numpy as np
from bitcodec import BitCodec
from bitcodec_pgvector import PackedTable

url, folder, rows = sys.argv[1:]
packed = np.load(rows)

def stalling():
    for start in range(0, 1500, 500):
        yield packed[start : start + 500]
    print("half", flush=True)
    time.sleep(600)

table = PackedTable.open(url, BitCodec.load(folder))
table.add_packed(stalling(), ids=range(len(packed)))
"""


def test_a_killed_client_leaves_nothing_and_a_rerun_completes(
    url: str, codec: BitCodec, packed: np.ndarray, tmp_path: Path
) -> None:
    PackedTable.create(url, codec).close()
    codec.save(tmp_path / "codec")
    np.save(tmp_path / "rows.npy", packed)
    command = [
        sys.executable,
        "-c",
        KILLED,
        url,
        str(tmp_path / "codec"),
        str(tmp_path / "rows.npy"),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "half\n"
        assert count(url) == 0  # what is under way is seen by nobody
        client.kill()
    assert count(url) == 0
    with PackedTable.open(url, codec) as table:
        table.add_packed(packed, ids=range(len(packed)))
        assert len(table) == len(packed)


@pytest.mark.parametrize("write", ["add_packed", "upsert_packed"])
def test_a_connection_lost_in_the_middle_of_copy_leaves_nothing(
    url: str, codec: BitCodec, packed: np.ndarray, write: str
) -> None:
    table = PackedTable.create(url, codec)
    table.add_packed(packed[:10])
    backend = table.connection.info.backend_pid

    def interrupted() -> Iterator[np.ndarray]:
        yield packed[:1000]
        with psycopg.connect(url, autocommit=True) as killer:
            killer.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
        for _ in range(200):  # more than the sockets' buffers hold
            yield packed[1000:]

    with pytest.raises(ServerError, match=r"cannot write rows: .*connect again and repeat it"):
        getattr(table, write)(interrupted(), ids=np.arange(100, 201_100))
    assert count(url) == 10
    with pytest.raises(ServerError, match=r"the connection is (lost|closed)"):
        table.search_packed(packed[:1])
    with PackedTable.open(url, codec) as again:
        getattr(again, write)(packed, ids=np.arange(100, 2100))
        assert len(again) == 2010


def test_a_server_that_crashes_in_the_middle_of_copy_has_nothing_of_it_when_it_is_back(
    codec: BitCodec, packed: np.ndarray
) -> None:
    with own_server() as server:
        url = server.get_uri()
        with PackedTable.create(url, codec) as table:
            table.add_packed(packed[:10])

            def interrupted() -> Iterator[np.ndarray]:
                yield packed
                os.kill(server.get_pid(), signal.SIGQUIT)  # an immediate shutdown, as by a crash
                server.get_postmaster_info().process.wait(60)
                for _ in range(200):
                    yield packed

            with pytest.raises(ServerError, match="cannot write rows"):
                table.add_packed(interrupted())
        with pytest.raises(ServerError, match="cannot connect to PostgreSQL"):
            PackedTable.open(url, codec)
        server.ensure_postgres_running()
        assert count(url) == 10
        with PackedTable.open(url, codec) as table:
            assert table.add_packed(packed)[0] == 10
            assert len(table) == 2010


def test_an_error_in_the_source_leaves_nothing(
    url: str, codec: BitCodec, packed: np.ndarray, hidden: np.ndarray
) -> None:
    broken = hidden[:600].copy()
    broken[555, 7] = np.nan
    padded = packed.copy()
    padded[1999, -1] |= 0x80
    with PackedTable.create(url, codec) as table:
        with pytest.raises(ValueRangeError, match="555"):
            table.add(broken)
        with pytest.raises(ValueRangeError, match="high bits of their last byte"):
            table.add_packed(iter([padded[:1000], padded[1000:]]))
        assert len(table) == 0
        assert table.add(hidden[:1]).tolist() == [0]


def test_ids_that_are_not_new_leave_nothing(url: str, codec: BitCodec, packed: np.ndarray) -> None:
    with PackedTable.create(url, codec) as table:
        table.add_packed(packed[:5])
        with pytest.raises(ValueRangeError, match=r"Key \(id\)=\(4\) already exists"):
            table.add_packed(packed[:3], ids=[8, 9, 4])
        with pytest.raises(ValueRangeError, match="ids must differ from each other, got 7 twice"):
            table.add_packed(packed[:2], ids=[7, 7])
        with pytest.raises(ValueRangeError, match="ids must be 0 or more, got -3"):
            table.upsert_packed(packed[:1], ids=[-3])
        assert table.ids.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("ids", [range(4), range(6)])
def test_ids_of_another_number_than_the_rows_are_refused(
    url: str, codec: BitCodec, packed: np.ndarray, ids: range
) -> None:
    with PackedTable.create(url, codec) as table:
        with pytest.raises(ShapeError, match="ids must be one a row"):
            table.add_packed(packed[:5], ids=ids)
        assert len(table) == 0


def test_columns_that_do_not_fit_are_refused(url: str, codec: BitCodec, packed: np.ndarray) -> None:
    with PackedTable.create(url, codec, columns={"position": "int4", "when": "date"}) as table:
        for values, how in (([1], "fewer"), ([1, 2, 3], "more")):
            with pytest.raises(ShapeError, match=f"one value a row, got {how}"):
                table.add_packed(packed[:2], columns={"position": values})
        with pytest.raises(ConfigError, match="got 'author': it has position, when"):
            table.upsert_packed(packed[:1], ids=[0], columns={"author": ["x"]})
        with pytest.raises(ConfigError, match="not its own, got 'code'"):
            table.add_packed(packed[:1], columns={"code": ["x"]})
        for wrong in (2**40, -(2**31) - 1, 2**80, "far", 1.5):
            with pytest.raises(ValueRangeError, match="column 'position' takes whole numbers from"):
                table.add_packed(packed[:1], columns={"position": [wrong]})
        with pytest.raises(ValueRangeError, match="column 'when' does not take 'never'"):
            table.add_packed(packed[:1], columns={"when": ["never"]})
        assert len(table) == 0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": "text); DROP TABLE codes; --"}, "of a PostgreSQL type"),
        ({"a": "no_such_type"}, "of a PostgreSQL type, got 'no_such_type'"),
        ({"a": "varchar(10)"}, r"must have no size, got 'varchar\(10\)'"),
        ({"side": "text"}, "must not be named id or code or side"),
    ],
)
def test_columns_that_cannot_be_made_are_refused(
    url: str, codec: BitCodec, columns: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        PackedTable.create(url, codec, columns=columns)
    PackedTable.create(url, codec).close()  # nothing was left of the attempt


def test_a_table_of_another_codec_is_refused(
    url: str, codec: BitCodec, other: BitCodec, packed: np.ndarray
) -> None:
    with PackedTable.create(url, codec) as table:
        table.add_packed(packed[:3])
        with pytest.raises(MismatchError, match="open it with that codec"):
            PackedTable.open(url, other)
        with pytest.raises(FileError, match='table "codes" exists'):
            PackedTable.create(url, other)
        with pytest.raises(MismatchError, match="open it with that codec"):
            migrate(url, other)


def test_a_table_that_has_become_another_codecs_takes_no_rows(
    url: str, codec: BitCodec, other: BitCodec, packed: np.ndarray
) -> None:
    with PackedTable.create(url, codec) as table:
        with psycopg.connect(url) as connection:
            connection.execute("DROP TABLE codes")
        with pytest.raises(FileError, match='relation "codes" does not exist'):
            table.add_packed(packed)
        PackedTable.create(url, other).close()
        for call in (table.add_packed, table.search_packed, table.reconstruct_packed):
            with pytest.raises(MismatchError, match="holds rows of 9 bytes of codec"):
                call(packed[:1] if call != table.reconstruct_packed else [0])
        assert count(url) == 0


def test_a_codec_that_was_fitted_anew_is_refused(
    url: str, hidden: np.ndarray, packed: np.ndarray
) -> None:
    changing = BitCodec(n_bits=67, n_steps=5, batch_size=256, refine="none").fit(hidden[:600])
    with PackedTable.create(url, changing) as table:
        changing.fit(hidden[600:1300])
        with pytest.raises(MismatchError, match="which has since become"):
            table.add(hidden[:5])


def test_an_empty_or_missing_table_is_named(url: str, codec: BitCodec, packed: np.ndarray) -> None:
    with pytest.raises(FileError, match='there is no table "codes"'):
        PackedTable.open(url, codec)
    with pytest.raises(NotFittedError, match="needs a fitted codec"):
        PackedTable.create(url, BitCodec())
    with PackedTable.create(url, codec) as table:
        for search in (table.search_packed, lambda rows: table.range_search_packed(rows, radius=3)):
            with pytest.raises(ValueRangeError, match="the table is empty: add rows first"):
                search(packed[:1])
        with pytest.raises(ValueRangeError, match="the table is empty: add rows first"):
            _ = table.bytes_per_vector


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(ServerError, match="cannot connect to PostgreSQL"):
        read_table_header("postgresql://user@127.0.0.1:1/database")
    with pytest.raises(ConfigError, match="named by a connection string"):
        read_table_header("no connection string")


def test_a_pgvector_that_is_too_old_is_told_so(
    url: str, codec: BitCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "OLDEST_PGVECTOR", (99, 0))
    with pytest.raises(ConfigError, match=r"pgvector 99\.0 or later, got 0\.[89]"):
        PackedTable.create(url, codec)


def test_codes_too_long_for_a_graph_are_told_so(url: str) -> None:
    class Long:
        n_bits_, row_bytes_, fingerprint_ = 64_008, 8_001, "long"

        def encode_batches(self, source: object) -> Iterator[np.ndarray]:
            raise NotImplementedError

        encode = decode = encode_batches

    with PackedTable.create(url, Long()) as table:  # type: ignore[arg-type]
        row = np.random.default_rng(0).integers(0, 256, (2, 8_001), dtype=np.uint8)
        table.add_packed(row)
        assert table.search_packed(row, k=1).ids.tolist() == [[0], [1]]
        with pytest.raises(ConfigError, match="at most 64,000 bits, got 64,008"):
            table.build_hnsw()


def test_a_table_made_by_hand_becomes_one_of_ours(
    url: str, codec: BitCodec, packed: np.ndarray
) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE codes (id bigint, code bit(67))")
        connection.execute("INSERT INTO codes VALUES (3, repeat('1', 67)::bit(67))")
    with pytest.raises(FormatError, match="no header of bitcodec in its comment"):
        PackedTable.open(url, codec)
    assert migrate(url, codec) == 0
    assert migrate(url, codec) == SCHEMA_VERSION
    header = read_table_header(url)
    assert (header.fingerprint, header.n_bits) == (codec.fingerprint_, 67)
    with PackedTable.open(url, codec) as table:
        assert table.add_packed(packed[:2]).tolist() == [4, 5]
        table.upsert_packed(packed[:1], ids=[3])
        assert np.array_equal(table.reconstruct_packed([3]), packed[:1])


def test_a_table_that_cannot_hold_the_codecs_rows_is_not_taken_over(
    url: str, codec: BitCodec
) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE codes (id bigint, code bit(68))")
    with pytest.raises(MismatchError, match=r"column code bit\(67\) .* got bit\(68\)"):
        migrate(url, codec)


def test_steps_between_versions_are_taken_in_order_and_all_or_none(
    url: str, codec: BitCodec, packed: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PackedTable.create(url, codec) as table:
        table.add_packed(packed[:3])

    def add_note(cursor: psycopg.Cursor, name: psycopg.sql.Identifier, header: object) -> None:
        cursor.execute(psycopg.sql.SQL("ALTER TABLE {} ADD note text").format(name))

    def fail(cursor: psycopg.Cursor, name: psycopg.sql.Identifier, header: object) -> None:
        cursor.execute("SELECT 1 / 0")

    monkeypatch.setattr(schema, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(schema, "_STEPS", (*schema._STEPS, add_note, fail))
    with pytest.raises(FormatError, match="is of schema version 1, this bitcodec uses 3: run"):
        PackedTable.open(url, codec)
    with pytest.raises(ValueRangeError, match=r"cannot migrate: .* division by zero"):
        migrate(url, codec)
    assert read_table_header(url).schema_version == 1
    monkeypatch.setattr(schema, "_STEPS", (*schema._STEPS[:1], add_note, add_note_twice))
    assert migrate(url, codec) == 1
    assert read_table_header(url).schema_version == 3
    with PackedTable.open(url, codec) as table:
        table.upsert_packed(packed[:1], ids=[0], columns={"note": ["new"], "more": ["newer"]})
        assert len(table) == 3
    monkeypatch.undo()
    with pytest.raises(FormatError, match="is of schema version 3, this bitcodec knows 1"):
        PackedTable.open(url, codec)


def add_note_twice(cursor: psycopg.Cursor, name: psycopg.sql.Identifier, header: object) -> None:
    cursor.execute(psycopg.sql.SQL("ALTER TABLE {} RENAME note TO more").format(name))
    cursor.execute(psycopg.sql.SQL("ALTER TABLE {} ADD note text").format(name))


def test_a_header_survives_renames_and_its_damage_is_found(url: str, codec: BitCodec) -> None:
    PackedTable.create(url, codec).close()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER TABLE codes RENAME TO moved")
        PackedTable.open(connection, codec, name="moved")
        found = connection.execute("SELECT obj_description('moved'::regclass)").fetchone()
        assert found is not None
        header = json.loads(found[0])
        assert header["fingerprint"] == codec.fingerprint_
        del header["n_bits"]
        damaged = psycopg.sql.Literal(json.dumps(header))
        connection.execute(psycopg.sql.SQL("COMMENT ON TABLE moved IS {}").format(damaged))
        with pytest.raises(FormatError, match="is damaged"):
            PackedTable.open(connection, codec, name="moved")


def test_without_psycopg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import bitcodec_pgvector
    from bitcodec.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'bitcodec\[pgvector\]'"):
        _ = bitcodec_pgvector.PackedTable
