"""AsymmetricIndex: nearest rows by the scores of float queries."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import numpy as np

from bitcodec.arguments import as_queries, check_count
from bitcodec.errors import ConfigError
from bitcodec.protocol import Codec, ScoringCodec, as_scoring_codec
from bitcodec.ranking import Hits, RangeHits, from_similarity, highest, sort_range
from bitcodec.rescoring import DEFAULT_OVERSAMPLE
from bitcodec.scoring import QueryWeights, score_pairs, score_rows, top_scores
from bitcodec.search_results import RangeResult, SearchResult
from bitcodec.similarity import Metric, check_metric, row_terms_for, weights_for
from bitcodec_faiss.backend import limit_threads, load_faiss
from bitcodec_faiss.fast_scan import FastScan
from bitcodec_faiss.flat import FlatStore
from bitcodec_faiss.index_files import IndexHeader
from bitcodec_faiss.packed_index import PackedIndex
from bitcodec_faiss.store import Kind

Factory = Literal["Flat", "FastScan"]

_CHUNK_ROWS = 1 << 16
"""Rows taken at a time where something is computed for each."""

_RANGE_QUERIES = 64
"""Queries scored at a time in a range search."""

_MAX_BYTES = 1 << 26
"""Bytes of candidates' rows held at a time."""


class AsymmetricIndex(PackedIndex):
    """Search packed codes by inner products, cosines or distances of float queries.

    Rows stay packed: a query becomes one weight a bit, and tables of sums score the bytes.

    | factory | search | filter | range | remove |
    |---|---|---|---|---|
    | Flat | exact, ties by id | exact | exact | yes |
    | FastScan | exact scores of candidates | exact | exact | yes |

    "Exact" is the score that the codec gives a row, to float32's rounding; the row itself is an
    estimate of its hidden state. "FastScan" takes candidates from FAISS's fast scan, which rounds
    its tables to 8 bits and sees neither the side bytes nor the metric, then scores them exactly:
    it may miss neighbours, the fewer the larger `oversample` is, and more in "l2" and "cosine"
    where norms vary. It holds a second copy of the bits in memory, made at the first search after
    a change and not saved. Filtered and range searches, and queries for which it finds too few
    candidates, scan all rows.

    Args:
        codec: a fitted `bitcodec.BitCodec`, or anything with the attributes of `ScoringCodec`.
        factory: `"Flat"` or `"FastScan"`.
        metric: `"inner_product"`, `"cosine"` or `"l2"`, the squared distance. The cosine of a
            zero vector is 0; estimated distances may fall below 0.

    Raises:
        ConfigError: an unknown factory or metric, or a codec that cannot score.
        NotFittedError: the codec is not fitted.
        MissingExtraError: FAISS is not installed, or too old.
    """

    def __init__(
        self, codec: ScoringCodec, *, factory: Factory = "Flat", metric: Metric = "inner_product"
    ) -> None:
        super().__init__(codec, factory=factory)
        self._scorer = as_scoring_codec(codec)
        self._metric: Metric = check_metric(metric)
        self.metric = self._metric
        self._terms: dict[str, np.ndarray] | None = None
        self._fast_scan: FastScan | None = None

    def search(
        self,
        queries: Any,
        *,
        k: int = 10,
        filter: Any = None,
        n_threads: int | None = None,
        oversample: int | None = None,
    ) -> SearchResult:
        """Find the k nearest rows of float queries.

        Args:
            queries: (..., d) hidden states.
            k: hits a query, at least 1; may exceed the number of rows.
            filter: (m,) integer ids that may be found (unknown ones match nothing), or (n,) bool
                in the order of `ids`; None allows every row.
            n_threads: threads of the scan; by default as FAISS has it.
            oversample: FastScan only: candidates a hit, by default 10.

        Returns:
            (..., k) float32 scores and ids, the nearest first, ties by id; where fewer than k rows
            match, id -1 and the infinity that is farthest.

        Raises:
            ShapeError: the width of the queries or the filter is wrong.
            ValueRangeError: a query is not finite, or the index is empty.
            ConfigError: k, `n_threads` or `oversample` is out of range, or this is no FastScan.
            MismatchError: the codec has changed since the index was made.
        """
        n_hits = check_count(k, name="k")
        n_candidates = n_hits * self._check_oversample(oversample)
        floats, weights = self._weigh(queries)
        allowed = self._rows.allowed(filter)
        with limit_threads(n_threads):
            n_queries = len(weights.weights)
            few = n_queries == 0 or n_candidates >= len(self)
            if self.factory == "Flat" or allowed is not None or few:
                scores, ids = self._scan(weights, k=n_hits, allowed=allowed)
            else:
                scores, ids = self._scan_fast(weights, k=n_hits, n_candidates=n_candidates)
        shape = (*floats.shape[:-1], n_hits)
        return SearchResult(
            from_similarity(scores, metric=self._metric).reshape(shape),
            ids.reshape(shape),
            scored_by="asymmetric",
            metric=self._metric,
        )

    def range_search(
        self, queries: Any, *, radius: float, filter: Any = None, n_threads: int | None = None
    ) -> RangeResult:
        """Find all rows whose score reaches a bound, exactly.

        Args:
            queries: (n_queries, d) hidden states, or (d,) for one.
            radius: the bound, inclusive: the least inner product or cosine, or the largest squared
                distance.
            filter: as in `search`.
            n_threads: as in `search`.

        Returns:
            The hits of every query, the nearest first, ties by id.

        Raises:
            ShapeError: the width of the queries or the filter is wrong.
            ValueRangeError: a query is not finite, or the index is empty.
            ConfigError: the radius is not a finite number, or `n_threads` is out of range.
            MismatchError: the codec has changed since the index was made.
        """
        bound = _check_radius(radius)
        _, weights = self._weigh(queries)
        least = -bound if self._metric == "l2" else bound
        with limit_threads(n_threads):
            owners, scores, ids = self._within(
                weights, least=least, allowed=self._rows.allowed(filter)
            )
        limits = np.searchsorted(owners, np.arange(len(weights.weights) + 1)).astype(np.int64)
        own = from_similarity(scores, metric=self._metric)
        return RangeResult(limits, own, ids, scored_by="asymmetric", metric=self._metric)

    @classmethod
    def _like(cls, header: IndexHeader, codec: Codec) -> Self:
        factory: Any = header.factory
        if header.metric == "hamming":
            raise ConfigError("it holds a HammingIndex: load it with HammingIndex.load")
        return cls(as_scoring_codec(codec), factory=factory, metric=check_metric(header.metric))

    @staticmethod
    def _kind(factory: Any) -> Kind:
        if factory not in ("Flat", "FastScan"):
            raise ConfigError(f'factory must be "Flat" or "FastScan", got {factory!r}')
        return Kind(name="Flat", size=0)

    def _forget_derived(self) -> None:
        self._terms = self._fast_scan = None

    @property
    def _packed(self) -> np.ndarray:
        store = self._rows.store
        assert isinstance(store, FlatStore)
        return store.packed

    def _check_oversample(self, oversample: Any) -> int:
        if oversample is None:
            return DEFAULT_OVERSAMPLE
        if self.factory != "FastScan":
            raise ConfigError("oversample is a parameter of FastScan, this index is Flat: leave it")
        return check_count(oversample, name="oversample")

    def _weigh(self, queries: Any) -> tuple[np.ndarray, QueryWeights]:
        self._check_codec()
        self._refuse_empty()
        floats = as_queries(queries, n_dims=self._scorer.n_dims_)
        rows = floats.reshape(-1, floats.shape[-1])
        squares = np.einsum("id,id->i", rows, rows, dtype=np.float64)
        weights = self._scorer.query_weights(rows)
        return floats, weights_for(weights, metric=self._metric, squared_norms=squares)

    def _row_terms(self) -> dict[str, np.ndarray]:
        """Give the rows' factors, scales and shifts; they are computed after every change."""
        if self._metric == "inner_product" and self.row_bytes == (self.n_bits + 7) // 8:
            return {}
        if self._terms is None:
            packed = self._packed
            parts = [
                row_terms_for(self._scorer.side(packed[chunk]), metric=self._metric)
                for chunk in _chunks(len(packed))
            ]
            self._terms = {
                name: np.concatenate([part[name] for part in parts]) for name in parts[0]
            }
        return self._terms

    def _scan(self, weights: QueryWeights, *, k: int, allowed: np.ndarray | None) -> Hits:
        return top_scores(
            weights,
            self._packed,
            k=k,
            **self._row_terms(),
            allowed=allowed,
            labels=self._rows.store.ids,
            n_threads=_n_threads(),
        )

    def _scan_fast(self, weights: QueryWeights, *, k: int, n_candidates: int) -> Hits:
        if self._fast_scan is None:
            self._fast_scan = FastScan(self._packed, n_bits=self.n_bits)
        size = max(1, _MAX_BYTES // (n_candidates * self.row_bytes))
        parts = []
        for start in range(0, len(weights.weights), size):
            some = _queries(weights, slice(start, start + size))
            rows = self._fast_scan.candidates(some.weights, n_candidates=n_candidates)
            parts.append(self._rank(some, rows, k=k))
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def _rank(self, weights: QueryWeights, rows: np.ndarray, *, k: int) -> Hits:
        """Keep the k best of (q, m) candidate rows; -1 stands where there is none."""
        terms = {name: values[rows] for name, values in self._row_terms().items()}
        found = score_pairs(weights, self._packed[rows], **terms, n_threads=_n_threads())
        scores, ids = highest(found, self._rows.store.ids[rows], k=k)
        # FAISS finds nothing for a query whose weights are all 0: it has no scale to round to.
        short = np.flatnonzero((rows < 0).any(axis=1))
        if len(short):
            scores[short], ids[short] = self._scan(_queries(weights, short), k=k, allowed=None)
        return scores, ids

    def _within(
        self, weights: QueryWeights, *, least: float, allowed: np.ndarray | None
    ) -> RangeHits:
        ids, all_terms = self._rows.store.ids, self._row_terms()
        hits = [(np.empty(0, np.int64), np.empty(0, np.float32), ids[:0])]
        for start in range(0, len(weights.weights), _RANGE_QUERIES):
            some = _queries(weights, slice(start, start + _RANGE_QUERIES))
            for chunk in _chunks(len(ids)):
                terms = {name: values[chunk] for name, values in all_terms.items()}
                scores = score_rows(some, self._packed[chunk], **terms, n_threads=_n_threads())
                near = scores.astype(np.float64) >= least
                owners, rows = np.nonzero(near if allowed is None else near & allowed[chunk])
                hits.append((owners + start, -scores[owners, rows], ids[chunk][rows]))
        owners, scores, found = (np.concatenate(parts) for parts in zip(*hits, strict=True))
        owners, scores, found = sort_range((owners, scores, found))
        return owners, -scores, found


def _chunks(n_rows: int) -> list[slice]:
    starts = range(0, n_rows, _CHUNK_ROWS)
    return [slice(start, min(start + _CHUNK_ROWS, n_rows)) for start in starts]


def _queries(weights: QueryWeights, some: slice | np.ndarray) -> QueryWeights:
    return QueryWeights(weights.weights[some], weights.bias[some], weights.base[some])


def _n_threads() -> int:
    """Return FAISS's number of threads, which the whole index keeps to."""
    return int(load_faiss().omp_get_max_threads())


def _check_radius(radius: Any) -> float:
    is_number = isinstance(radius, int | float | np.number) and not isinstance(radius, bool)
    if not is_number or not math.isfinite(radius):
        raise ConfigError(f"radius must be a finite number, got {radius!r}")
    return float(radius)
