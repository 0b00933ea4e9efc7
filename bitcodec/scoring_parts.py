"""How scores are computed in parts: queries side by side, rows in chunks, threads over both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bitcodec.errors import ShapeError, ValueRangeError
from bitcodec.scoring_kernels import Heaps, Lanes, RowTerms, fill_tables

TABLE_BYTES = 2 << 20
"""The most that the tables of queries scored together may take: larger ones leave the cache."""

MAX_LANES, MIN_LANES = 32, 8
"""Queries scored together; fewer are faster one by one."""

CHUNK_ROWS = 1 << 16
"""Rows of one call of a kernel; where only some are allowed, so many are copied at a time."""

_WORST_LABEL = int(np.iinfo(np.int64).max)


def check_weights(weights: np.ndarray, bias: np.ndarray, base: np.ndarray) -> None:
    """Refuse weights of queries that do not fit together.

    Raises:
        ShapeError: they are not (q, h), (q,) and (q,).
        ValueRangeError: a value is not finite; the message names the first such query.
    """
    shapes = [np.shape(values) for values in (weights, bias, base)]
    if np.ndim(weights) != 2 or not shapes[1] == shapes[2] == shapes[0][:1] or not shapes[0][1]:
        raise ShapeError(
            f"weights, bias and base must be (q, h), (q,) and (q,), got "
            f"{', '.join(map(str, shapes))}: take them from codec.query_weights"
        )
    finite = np.isfinite(weights).all(axis=1) & np.isfinite(bias) & np.isfinite(base)
    if not finite.all():
        raise ValueRangeError(
            f"the weights of query {int(np.argmin(finite))} are not finite: check the query for "
            f"NaN and infinity"
        )


def check_rows(packed: Any, *, n_bits: int, lead: tuple[int | None, ...]) -> np.ndarray:
    """Return packed rows, contiguous.

    Args:
        packed: (*lead, row_bytes) uint8.
        n_bits: h, which the rows must hold.
        lead: the lengths of the leading axes; None where any will do.

    Raises:
        ShapeError: rank, a length, the width or the dtype is wrong.
    """
    rows = np.asarray(packed)
    code_bytes = -(-n_bits // 8)
    fits = rows.ndim == len(lead) + 1 and all(
        wanted in (None, length) for wanted, length in zip(lead, rows.shape, strict=False)
    )
    if not fits or rows.dtype != np.uint8 or rows.shape[-1] < code_bytes:
        axes = ", ".join("n" if length is None else str(length) for length in lead)
        raise ShapeError(
            f"packed must be ({axes}, {code_bytes} or more) uint8 for {n_bits} bits, got "
            f"{rows.shape} {rows.dtype}"
        )
    return np.ascontiguousarray(rows)


def as_row_terms(
    shape: tuple[int, ...],
    factor: np.ndarray | None,
    scale: np.ndarray | None,
    shift: np.ndarray | None,
) -> RowTerms:
    """Return the terms of rows as the kernels want them.

    Raises:
        ShapeError: one of them is not of the shape of the rows.
    """
    given = {"factor": factor, "scale": scale, "shift": shift}
    for name, values in given.items():
        if values is not None and np.shape(values) != shape:
            raise ShapeError(f"{name} must be one a row, {shape}, got {np.shape(values)}")
    none = np.empty((0, *shape[1:]), dtype=np.float32)
    return RowTerms(
        *(none if v is None else np.ascontiguousarray(v, dtype=np.float32) for v in given.values())
    )


def check_allowed(allowed: np.ndarray | None, *, n_rows: int) -> np.ndarray | None:
    """Return the numbers of the rows that are allowed, (m,) int64; None stays None.

    Raises:
        ShapeError: `allowed` is not (n_rows,) bool.
    """
    if allowed is None:
        return None
    if allowed.shape != (n_rows,) or allowed.dtype != np.bool_:
        raise ShapeError(f"allowed must be ({n_rows},) bool, got {allowed.shape} {allowed.dtype}")
    return np.flatnonzero(allowed)


def check_labels(labels: np.ndarray | None, *, n_rows: int) -> np.ndarray | None:
    """Return labels as the kernels want them; None stays None.

    Raises:
        ShapeError: they are not (n_rows,) int64.
    """
    if labels is None:
        return None
    if labels.shape != (n_rows,) or labels.dtype != np.int64:
        raise ShapeError(f"labels must be ({n_rows},) int64, got {labels.shape} {labels.dtype}")
    return np.ascontiguousarray(labels)


def padded(weights: np.ndarray) -> np.ndarray:
    """Return (q, h) weights as (q, 8 ceil(h / 8)) float32, the spare ones 0."""
    n_queries, n_bits = weights.shape
    filled = np.zeros((n_queries, -(-n_bits // 8) * 8), dtype=np.float32)
    filled[:, :n_bits] = weights
    return filled


def query_lanes(
    weights: np.ndarray, bias: np.ndarray, base: np.ndarray
) -> Iterator[tuple[slice, Lanes]]:
    """Give the queries in groups that are scored together, with their tables."""
    columns = padded(weights)
    code_bytes = columns.shape[1] // 8
    size = min(MAX_LANES, TABLE_BYTES // (4 * 256 * code_bytes), len(columns))
    size = size if size >= MIN_LANES else 1
    start = 0
    while start < len(columns):
        # What is left over after whole groups goes one by one, unless it is a group itself.
        n_lanes = size if start + size <= len(columns) else len(columns) - start
        n_lanes = n_lanes if n_lanes >= MIN_LANES else 1
        group = slice(start, start + n_lanes)
        tables = np.empty((code_bytes, 256, n_lanes), dtype=np.float32)
        fill_tables(np.ascontiguousarray(columns[group].T), tables)
        yield group, Lanes(tables, bias[group].astype(np.float64), base[group].astype(np.float64))
        start += n_lanes


def chunks(part: slice) -> Iterator[slice]:
    """Cut a part into chunks of at most `CHUNK_ROWS` rows."""
    for start in range(part.start, part.stop, CHUNK_ROWS):
        yield slice(start, min(start + CHUNK_ROWS, part.stop))


def take(terms: RowTerms, rows: slice | np.ndarray) -> RowTerms:
    """Return the terms of some rows; absent ones stay absent."""
    return RowTerms(*(values[rows] if len(values) else values for values in terms))


def empty_heaps(n_queries: int, k: int) -> Heaps:
    """Return heaps in which every entry is worse than any row."""
    scores = np.full((n_queries, k), -np.inf, dtype=np.float32)
    return Heaps(scores, np.full((n_queries, k), _WORST_LABEL, dtype=np.int64))


def merge_heaps(
    heaps: Sequence[Heaps], scores: np.ndarray, labels: np.ndarray, *, no_label: int
) -> None:
    """Fill in (q, k) scores and labels of the best of several heaps, in order."""
    if not heaps:
        return
    all_scores = np.concatenate([part.scores for part in heaps], axis=1)
    all_labels = np.concatenate([part.labels for part in heaps], axis=1)
    order = np.lexsort((all_labels, -all_scores), axis=-1)[:, : scores.shape[1]]
    kept = slice(order.shape[1])
    scores[:, kept] = np.take_along_axis(all_scores, order, axis=1)
    labels[:, kept] = np.take_along_axis(all_labels, order, axis=1)
    labels[np.isneginf(scores)] = no_label
