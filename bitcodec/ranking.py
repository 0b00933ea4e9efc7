"""Deterministic order: by distance, then by id."""

from __future__ import annotations

import numpy as np

from bitcodec.search_results import MISSING_ID, MISSING_SCORE
from bitcodec.similarity import Metric

Hits = tuple[np.ndarray, np.ndarray]
"""Scores (n_queries, k) int32 or float32 and ids (n_queries, k) int64."""

RangeHits = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Query numbers (n_hits,), scores (n_hits,) int32 or float32 and ids (n_hits,) int64."""


def no_hits(n_queries: int, k: int) -> Hits:
    """Return k missing hits for every query."""
    scores = np.full((n_queries, k), MISSING_SCORE, dtype=np.int32)
    return scores, np.full((n_queries, k), MISSING_ID, dtype=np.int64)


def best(scores: np.ndarray, ids: np.ndarray, *, k: int) -> Hits:
    """Keep the k smallest of (score, id), padded with missing hits.

    Args:
        scores: (n_queries, m) int32; `MISSING_SCORE` beside `MISSING_ID`.
        ids: (n_queries, m) int64.
        k: hits to keep; may exceed m.

    Returns:
        (n_queries, k) scores and ids.
    """
    order = np.lexsort((ids, scores), axis=-1)[:, :k]
    kept_scores, kept_ids = no_hits(len(scores), k)
    kept_scores[:, : order.shape[1]] = np.take_along_axis(scores, order, axis=1)
    kept_ids[:, : order.shape[1]] = np.take_along_axis(ids, order, axis=1)
    return kept_scores, kept_ids


def merge(first: Hits, second: Hits, *, k: int) -> Hits:
    """Keep the k best of two lists of hits of the same queries."""
    scores = np.concatenate([first[0], second[0]], axis=1)
    return best(scores, np.concatenate([first[1], second[1]], axis=1), k=k)


def no_range_hits() -> RangeHits:
    """Return the hits of no query."""
    return np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int64)


def sort_range(hits: RangeHits) -> RangeHits:
    """Order range hits by (query, score, id)."""
    owners, scores, ids = hits
    order = np.lexsort((ids, scores, owners))
    return owners[order], scores[order], ids[order]


def highest(scores: np.ndarray, ids: np.ndarray, *, k: int) -> Hits:
    """Keep the k highest scores, ties by id, padded with -infinity beside `MISSING_ID`.

    Args:
        scores: (n_queries, m) float32; -infinity beside `MISSING_ID`.
        ids: (n_queries, m) int64.
        k: hits to keep; may exceed m.

    Returns:
        (n_queries, k) float32 scores and int64 ids.
    """
    order = np.lexsort((ids, -scores), axis=-1)[:, :k]
    kept = np.full((len(scores), k), -np.inf, dtype=np.float32)
    kept_ids = np.full((len(scores), k), MISSING_ID, dtype=np.int64)
    kept[:, : order.shape[1]] = np.take_along_axis(scores, order, axis=1)
    kept_ids[:, : order.shape[1]] = np.take_along_axis(ids, order, axis=1)
    return kept, kept_ids


def from_similarity(scores: np.ndarray, *, metric: Metric) -> np.ndarray:
    """Turn scores of which the highest is nearest into a metric's own: distances lose their sign.

    >>> from_similarity(np.array([-2.0]), metric="l2")
    array([2.])
    """
    return -scores if metric == "l2" else scores
