"""Better scores for the candidates of a Hamming search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from bitcodec.arguments import as_queries, check_count
from bitcodec.errors import ConfigError, ShapeError, ValueRangeError
from bitcodec.protocol import Codec, as_scoring_codec
from bitcodec.ranking import Hits, highest
from bitcodec.scoring import score_pairs
from bitcodec.search_results import MISSING_ID
from bitcodec.similarity import Metric, check_metric, row_terms_for, weights_for

Rescore = Literal["asymmetric", "float"]
"""What candidates are scored with: float queries and codes, or the original vectors."""

DEFAULT_OVERSAMPLE = 10
"""Candidates a hit, unless told otherwise."""

_MAX_VALUES = 1 << 24
"""Bytes of candidates' codes, or floats of their originals, that are held at once."""

Packed = Callable[[np.ndarray], np.ndarray]
"""Copies the packed rows of some ids."""


@dataclass(frozen=True)
class Rescoring:
    """How candidates are scored again."""

    by: Rescore
    """What with."""

    metric: Metric
    """What the new scores measure."""

    oversample: int
    """Candidates a hit."""

    originals: Any
    """(n, d) by id, or a callable from ids; None unless `by` is "float"."""


def plan_rescoring(
    rescore: Any, *, metric: Any, oversample: Any, originals: Any
) -> Rescoring | None:
    """Check the arguments of a search that go together; None where nothing is rescored.

    Raises:
        ConfigError: one is unknown, missing, or given without what it belongs to.
    """
    if rescore is None:
        given = {"metric": metric, "oversample": oversample, "originals": originals}
        idle = [name for name, value in given.items() if value is not None]
        if idle:
            raise ConfigError(
                f'{" and ".join(idle)} must come with rescore="asymmetric" or "float", got '
                f"rescore=None: leave it, or choose one"
            )
        return None
    if rescore not in get_args(Rescore):
        raise ConfigError(f'rescore must be None, "asymmetric" or "float", got {rescore!r}')
    if (rescore == "float") != (originals is not None):
        raise ConfigError(
            f'originals must come with rescore="float" and with nothing else, got '
            f"rescore={rescore!r} and originals of type {type(originals).__name__}"
        )
    return Rescoring(
        by=rescore,
        metric="inner_product" if metric is None else check_metric(metric),
        oversample=DEFAULT_OVERSAMPLE
        if oversample is None
        else check_count(oversample, name="oversample"),
        originals=originals,
    )


def rescored(
    plan: Rescoring,
    queries: Any,
    candidates: np.ndarray,
    *,
    codec: Codec,
    packed: Packed,
    k: int,
    n_threads: int | None,
) -> Hits:
    """Keep the k candidates of every query that are nearest by their new scores.

    Args:
        plan: how to score.
        queries: (..., d) floats.
        candidates: (q, m) int64 ids; `MISSING_ID` where there is none.
        codec: the index's.
        packed: copies the whole rows of ids.
        k: hits a query.
        n_threads: threads of asymmetric scores; None means one for each CPU.

    Returns:
        (q, k) float32 scores of which the highest is nearest, and (q, k) int64 ids.

    Raises:
        ConfigError: the codec cannot score.
        ShapeError: the queries or originals have the wrong width.
        ValueRangeError: a query or an original is not finite, or there is no original of an id.
    """
    n_dims = as_scoring_codec(codec).n_dims_ if plan.by == "asymmetric" else _width(codec, queries)
    floats = as_queries(queries, n_dims=n_dims).reshape(-1, n_dims)
    scores = np.full(candidates.shape, -np.inf, dtype=np.float32)
    width = n_dims if plan.by == "float" else packed(candidates[:0, 0]).shape[1]
    size = max(1, _MAX_VALUES // max(1, candidates.shape[1] * width))
    for start in range(0, len(floats), size):
        block = slice(start, start + size)
        if (candidates[block] == MISSING_ID).all():
            continue
        if plan.by == "asymmetric":
            found = _asymmetric(
                plan, floats[block], candidates[block], codec, packed, n_threads=n_threads
            )
        else:
            found = _float(plan, floats[block], candidates[block])
        scores[block] = np.where(candidates[block] == MISSING_ID, -np.inf, found)
    return highest(scores, candidates, k=k)


def _asymmetric(
    plan: Rescoring,
    queries: np.ndarray,
    candidates: np.ndarray,
    codec: Codec,
    packed: Packed,
    *,
    n_threads: int | None,
) -> np.ndarray:
    scorer = as_scoring_codec(codec)
    ids, places = _distinct(candidates)
    rows = packed(ids)
    has_terms = plan.metric != "inner_product" or rows.shape[1] > (codec.n_bits_ + 7) // 8
    terms = row_terms_for(scorer.side(rows), metric=plan.metric) if has_terms else {}
    weights = weights_for(
        scorer.query_weights(queries), metric=plan.metric, squared_norms=_squared_norms(queries)
    )
    own = {name: values[places] for name, values in terms.items()}
    return score_pairs(weights, rows[places], **own, n_threads=n_threads)


def _float(plan: Rescoring, queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    ids, places = _distinct(candidates)
    vectors = _originals_of(plan.originals, ids, n_dims=queries.shape[1])
    squares = _squared_norms(vectors)
    scores = np.empty(candidates.shape, dtype=np.float64)
    for i, query in enumerate(queries.astype(np.float64)):
        own = places[i]
        scores[i] = _similarity(
            vectors[own].astype(np.float64) @ query, squares[own], query @ query, plan.metric
        )
    return scores


def _similarity(
    products: np.ndarray, squares: np.ndarray, query_square: float, metric: Metric
) -> np.ndarray:
    scores = products
    if metric == "l2":
        scores = 2 * products - squares - query_square
    if metric == "cosine":
        norms = np.sqrt(squares * query_square)
        scores = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return scores


def _distinct(candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids among candidates once, (u,), and each candidate's place there, (q, m).

    A missing candidate's place is 0: its score is dropped.
    """
    ids = np.unique(candidates)
    ids = ids[ids != MISSING_ID]
    return ids, np.searchsorted(ids, np.where(candidates == MISSING_ID, ids[0], candidates))


def _originals_of(originals: Any, ids: np.ndarray, *, n_dims: int) -> np.ndarray:
    """Fetch (m, d) float32 originals of ids.

    Raises:
        ShapeError: they are not of the queries' width, or not one an id.
        ValueRangeError: there is no row of an id, or a value is not finite.
    """
    if callable(originals):
        fetched = np.asarray(originals(ids))
    else:
        fetched = _rows_by_id(originals, ids, n_dims=n_dims)
    if fetched.shape != (len(ids), n_dims):
        raise ShapeError(
            f"originals must give ({len(ids)}, {n_dims}) for {len(ids)} ids, got {fetched.shape}"
        )
    vectors = fetched.astype(np.float32)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise ValueRangeError(
            f"the original of id {ids[int(np.argmin(finite))]} is not finite: repair it (massive "
            f"activations that overflowed float16 are the usual cause)"
        )
    return vectors


def _rows_by_id(originals: Any, ids: np.ndarray, *, n_dims: int) -> np.ndarray:
    shape = np.shape(originals)
    if len(shape) != 2 or shape[1] != n_dims:
        raise ShapeError(
            f"originals must be (n, {n_dims}), one row an id, or a callable from ids to rows, got "
            f"an array of shape {shape}"
        )
    if ids[-1] >= shape[0]:
        raise ValueRangeError(
            f"originals hold the rows of ids 0 to {shape[0] - 1}, got a candidate of id {ids[-1]}: "
            f"give all of them, or a callable from ids to rows"
        )
    rows: np.ndarray = originals[ids]
    return rows


def _squared_norms(rows: np.ndarray) -> np.ndarray:
    squares: np.ndarray = np.einsum("id,id->i", rows, rows, dtype=np.float64)
    return squares


def _width(codec: Codec, queries: Any) -> int:
    """Return the width of the codec's hidden states, or of the queries that it has encoded."""
    return int(getattr(codec, "n_dims_", np.shape(queries)[-1]))
