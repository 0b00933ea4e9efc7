"""Exact search in a flat FAISS index, ties at the end of the list included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np

from bitcodec.ranking import Hits, RangeHits, best, merge, no_hits, sort_range
from bitcodec_faiss.backend import flat_codes, load_faiss

_SLACK = 16
"""Hits fetched beyond 2k, so that a second pass for ties is rare."""

_MAX_HITS = 1 << 22
"""Candidates held at once; queries are taken in blocks that keep to it."""

_SCAN_ROWS = 1 << 16
"""Rows copied at a time where only some are scanned."""

_PROBE_ROWS = 64
"""Rows of the search that tells how FAISS breaks ties."""

Codes = Callable[[np.ndarray], np.ndarray]
"""Copies the packed rows of some row numbers."""


def reach_of(k: int, *, n_rows: int) -> int:
    """Return how many hits to fetch so that the k-th rarely ties with the last."""
    return min(n_rows, 2 * k + _SLACK)


def query_blocks(queries: np.ndarray, *, n_hits: int) -> list[slice]:
    """Cut queries into blocks whose hits fit into memory."""
    size = max(1, _MAX_HITS // max(1, n_hits))
    return [slice(start, start + size) for start in range(0, len(queries), size)]


@cache
def breaks_ties_by_row(code_bytes: int) -> bool:
    """Ask FAISS whether a flat search gives the smallest of (distance, row), in that order.

    FAISS does not promise it; 1.14.2 and 1.15.1 do so, whose heaps compare rows where distances
    are equal. Its kernels differ by the size of a code, so each size is asked about once.

    Args:
        code_bytes: bytes of a code.
    """
    draw = np.random.default_rng(0)
    codes = draw.integers(0, 2, (_PROBE_ROWS, code_bytes), dtype=np.uint8)  # few values: many ties
    codes[:, 1:] = 0
    flat = load_faiss().IndexBinaryFlat(8 * code_bytes)
    flat.add(codes)
    rows = np.arange(_PROBE_ROWS)
    for k in (1, 7, _PROBE_ROWS // 2, _PROBE_ROWS):
        _, found = flat.search(codes[:1], k)
        if not np.array_equal(found[0], np.lexsort((rows, codes[:, 0] != codes[0, 0]))[:k]):
            return False
    return True


def flat_nearest(
    flat: Any,
    ids: np.ndarray,
    queries: np.ndarray,
    *,
    k: int,
    allowed: np.ndarray | None,
    ascending: bool = False,
) -> Hits:
    """Find the k smallest of (distance, id) among the allowed rows, exactly.

    Args:
        flat: an `IndexBinaryFlat`.
        ids: (n_rows,) int64, the id of every row.
        queries: (n_queries, row_bytes) uint8.
        k: hits a query.
        allowed: (n_rows,) bool, or None for all. The allowed rows are copied in blocks, which
            takes a third of the time of FAISS's own filter and no more than a plain scan.
        ascending: whether `ids` are known to ascend. Ties by row are then ties by id.

    Returns:
        (n_queries, k) scores and ids.
    """
    if allowed is None:
        return _nearest(flat, ids, queries, k=k, ascending=ascending)
    rows = np.flatnonzero(allowed)
    return scan_rows(lambda some: flat_codes(flat)[some], ids, queries, k=k, rows=rows)


def flat_within(
    flat: Any, ids: np.ndarray, queries: np.ndarray, *, radius: int, allowed: np.ndarray | None
) -> RangeHits:
    """Find all allowed rows at a distance of at most `radius`, exactly.

    Args:
        flat: an `IndexBinaryFlat`.
        ids: (n_rows,) int64, the id of every row.
        queries: (n_queries, row_bytes) uint8.
        radius: inclusive.
        allowed: (n_rows,) bool, or None for all.

    Returns:
        The hits in order of (query, distance, id).
    """
    owners, scores, rows = fetch_within(flat, queries, radius=radius)
    kept = slice(None) if allowed is None else allowed[rows]
    return sort_range((owners[kept], scores[kept], ids[rows[kept]]))


def fetch_within(index: Any, queries: np.ndarray, *, radius: int) -> RangeHits:
    """Run FAISS's range search inclusively; the hits carry FAISS's labels in its order."""
    limits, scores, labels = index.range_search(queries, strict_radius(radius, queries))
    # FAISS's distances are floats of whole numbers.
    return owners_of(limits), scores.astype(np.int32), labels


def strict_radius(radius: int, queries: np.ndarray) -> int:
    """Turn an inclusive radius into FAISS's, whose range is strict (< radius)."""
    return min(radius, 8 * int(queries.shape[1])) + 1


def owners_of(limits: np.ndarray) -> np.ndarray:
    """Return the query's number of every hit, (n_hits,) int64, of FAISS's (q + 1,) limits."""
    n_hits: np.ndarray = limits[1:].astype(np.int64) - limits[:-1].astype(np.int64)
    return np.repeat(np.arange(len(limits) - 1), n_hits)


def scan_rows(
    codes: Codes, ids: np.ndarray, queries: np.ndarray, *, k: int, rows: np.ndarray
) -> Hits:
    """Find the k smallest of (distance, id) among some rows, exactly, copying them in blocks.

    Args:
        codes: copies the packed rows of some row numbers.
        ids: (n_rows,) int64, the id of every row.
        queries: (n_queries, row_bytes) uint8.
        k: hits a query.
        rows: (m,) int64 row numbers to scan.

    Returns:
        (n_queries, k) scores and ids.
    """
    hits = no_hits(len(queries), k)
    for some in _row_blocks(rows):
        flat = load_faiss().IndexBinaryFlat(8 * queries.shape[1])
        flat.add(codes(some))
        hits = merge(hits, _nearest(flat, ids[some], queries, k=k, ascending=False), k=k)
    return hits


def _nearest(flat: Any, ids: np.ndarray, queries: np.ndarray, *, k: int, ascending: bool) -> Hits:
    if ascending and k <= len(ids) and breaks_ties_by_row(flat.code_size):
        fetched, rows = flat.search(queries, k)
        return fetched, ids[rows]
    # FAISS takes the first rows of those at the k-th distance. Their ids need not be the smallest,
    # so more than k are fetched; where even the last of those ties with the k-th, all rows up to
    # that distance are.
    scores, found = no_hits(len(queries), k)
    reach = reach_of(k, n_rows=len(ids))
    for block in query_blocks(queries, n_hits=reach):
        fetched, rows = flat.search(queries[block], reach)
        scores[block], found[block] = best(fetched, ids[rows], k=k)
        if reach < len(ids):
            tied = np.flatnonzero(fetched[:, -1] == fetched[:, k - 1]) + block.start
            _settle_ties(flat, ids, queries, tied, (scores, found))
    return scores, found


def _settle_ties(
    flat: Any, ids: np.ndarray, queries: np.ndarray, tied: np.ndarray, hits: Hits
) -> None:
    scores, found = hits
    k = scores.shape[1]
    boundaries = scores[tied, -1]
    for radius in np.unique(boundaries):
        same = tied[boundaries == radius]
        for block in query_blocks(same, n_hits=len(ids)):
            owners, _, near = flat_within(
                flat, ids, queries[same[block]], radius=int(radius), allowed=None
            )
            starts = np.searchsorted(owners, np.arange(len(same[block])))
            # At least k hits lie within the k-th distance, and they come ordered.
            found[same[block]] = near[starts[:, None] + np.arange(k)]


def _row_blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _SCAN_ROWS):
        yield rows[start : start + _SCAN_ROWS]
