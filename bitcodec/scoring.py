"""Asymmetric scores: float queries against packed rows, which are not decoded.

The decoder is linear, so the inner product of a query with a row's estimate is linear in the bits
b of the row. A codec turns each query into a weight a bit, and a row scores

    <q, x> = base + f (bias + w b),

with f = 1, or the row's factor where its side bytes hold one (the unbiased estimator of RaBitQ,
Gao and Long, SIGMOD 2024). Squared distances and cosines are affine maps of it, one a row, so one
kernel serves all: score = scale <q, x> + shift.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitcodec.errors import ConfigError
from bitcodec.scoring_kernels import Heaps, Lanes, fill_pairs, fill_scores, scan
from bitcodec.scoring_parts import (
    as_row_terms,
    check_allowed,
    check_labels,
    check_rows,
    check_weights,
    chunks,
    empty_heaps,
    merge_heaps,
    padded,
    query_lanes,
    take,
)
from bitcodec.threads import row_parts, run

NO_LABEL = -1
"""The label where fewer than k rows match."""


@dataclass(frozen=True)
class QueryWeights:
    """Queries as linear functions of a row's bits: base + f (bias + weights @ b)."""

    weights: np.ndarray
    """(q, h) float32."""

    bias: np.ndarray
    """(q,) float32."""

    base: np.ndarray
    """(q,) float32 or float64."""


@dataclass(frozen=True)
class Side:
    """What asymmetric scores need of rows besides their bits."""

    factor: np.ndarray
    """(n,) float32, f; 1 for codecs without side bytes."""

    squared_norm: np.ndarray
    """(n,) float32, the estimate of |x|^2 for distances and cosines."""


def score_rows(
    weights: QueryWeights,
    packed: np.ndarray,
    *,
    factor: np.ndarray | None = None,
    scale: np.ndarray | None = None,
    shift: np.ndarray | None = None,
    n_threads: int | None = None,
) -> np.ndarray:
    """Score every row for every query.

    Args:
        weights: of q queries.
        packed: (n, row_bytes) uint8; bytes after the h bits are not looked at.
        factor: (n,) f of each row; None means 1.
        scale: (n,) factor of each row's inner products; None means 1.
        shift: (n,) added to them after that; None means 0.
        n_threads: threads; None means one for each CPU that this process may use.

    Returns:
        (q, n) float32. A score depends on its query and row alone.

    Raises:
        ShapeError: the shapes do not fit, or `packed` is not uint8.
        ValueRangeError: a weight is not finite.
    """
    queried = _checked(weights)
    rows = check_rows(packed, n_bits=weights.weights.shape[1], lead=(None,))
    terms = as_row_terms(rows.shape[:1], factor, scale, shift)
    scores = np.empty((len(weights.weights), len(rows)), dtype=np.float32)
    parts = row_parts(len(rows), n_threads=n_threads)
    for queries, lanes in query_lanes(*queried):

        def fill(part: slice, queries: slice = queries, lanes: Lanes = lanes) -> None:
            for chunk in chunks(part):
                block = np.empty((len(rows[chunk]), len(lanes.bias)), dtype=np.float32)
                fill_scores(rows[chunk], lanes, take(terms, chunk), block)
                scores[queries, chunk] = block.T

        run(fill, parts)
    return scores


def score_pairs(
    weights: QueryWeights,
    packed: np.ndarray,
    *,
    factor: np.ndarray | None = None,
    scale: np.ndarray | None = None,
    shift: np.ndarray | None = None,
    n_threads: int | None = None,
) -> np.ndarray:
    """Score each query's own rows.

    Args:
        weights: of q queries.
        packed: (q, m, row_bytes) uint8, m rows for each query.
        factor: (q, m), like `scale` and `shift`; see `score_rows`.
        scale: (q, m) or None.
        shift: (q, m) or None.
        n_threads: as in `score_rows`.

    Returns:
        (q, m) float32, equal to what `score_rows` gives for the same query and row.

    Raises:
        ShapeError: the shapes do not fit, or `packed` is not uint8.
        ValueRangeError: a weight is not finite.
    """
    values, bias, base = _checked(weights)
    rows = check_rows(packed, n_bits=values.shape[1], lead=(len(values), None))
    terms = as_row_terms(rows.shape[:2], factor, scale, shift)
    columns, bias, base = padded(values), bias.astype(np.float64), base.astype(np.float64)
    scores = np.empty(rows.shape[:2], dtype=np.float32)

    def fill(part: slice) -> None:
        own = take(terms, part)
        fill_pairs(rows[part], columns[part], bias[part], base[part], own, scores[part])

    run(fill, row_parts(len(rows), n_threads=n_threads))
    return scores


def top_scores(
    weights: QueryWeights,
    packed: np.ndarray,
    *,
    k: int,
    factor: np.ndarray | None = None,
    scale: np.ndarray | None = None,
    shift: np.ndarray | None = None,
    allowed: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    n_threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k highest scores of every query in one scan, exactly.

    Args:
        weights: of q queries.
        packed: (n, row_bytes) uint8; may be memory-mapped.
        k: hits a query, at least 1; may exceed n.
        factor: (n,), like `scale` and `shift`; see `score_rows`.
        scale: (n,) or None.
        shift: (n,) or None.
        allowed: (n,) bool, the rows that may be found; None allows all.
        labels: (n,) int64 of 0 or more, what to call each row; None means its number.
        n_threads: as in `score_rows`; the hits do not depend on it.

    Returns:
        (q, k) float32 scores and (q, k) int64 labels, by score descending, then label ascending;
        -infinity and `NO_LABEL` where fewer than k rows are allowed.

    Raises:
        ShapeError: the shapes do not fit, or `packed` is not uint8.
        ValueRangeError: a weight is not finite.
        ConfigError: k is below 1.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    queried = _checked(weights)
    rows = check_rows(packed, n_bits=weights.weights.shape[1], lead=(None,))
    terms = as_row_terms(rows.shape[:1], factor, scale, shift)
    numbers = check_allowed(allowed, n_rows=len(rows))
    names = check_labels(labels, n_rows=len(rows))
    n_match = len(rows) if numbers is None else len(numbers)
    parts = row_parts(n_match, n_threads=n_threads)
    scores = np.full((len(weights.weights), k), -np.inf, dtype=np.float32)
    found = np.full((len(weights.weights), k), NO_LABEL, dtype=np.int64)
    for queries, lanes in query_lanes(*queried):

        def collect(part: slice, lanes: Lanes = lanes) -> Heaps:
            heaps = empty_heaps(len(lanes.bias), min(k, n_match))
            for chunk in chunks(part):
                some = chunk if numbers is None else numbers[chunk]
                own = _numbers(some) if names is None else names[some]
                scan(rows[some], lanes, take(terms, some), own, heaps)
            return heaps

        merge_heaps(run(collect, parts), scores[queries], found[queries], no_label=NO_LABEL)
    return scores, found


def _checked(weights: QueryWeights) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    check_weights(weights.weights, weights.bias, weights.base)
    return weights.weights, weights.bias, weights.base


def _numbers(rows: slice | np.ndarray) -> np.ndarray:
    return rows if isinstance(rows, np.ndarray) else np.arange(rows.start, rows.stop)
