"""AsymmetricIndex: nearest rows by the scores of float queries."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np

from bitcodec.arguments import as_queries, check_count
from bitcodec.errors import ConfigError
from bitcodec.protocol import Codec, ScoringCodec, as_scoring_codec
from bitcodec.ranking import RangeHits, from_similarity, sort_range
from bitcodec.scoring import QueryWeights, score_rows
from bitcodec.search_results import RangeResult, SearchResult
from bitcodec.similarity import Metric, check_metric, weights_for
from bitcodec_faiss.backend import limit_threads
from bitcodec_faiss.index_files import IndexHeader
from bitcodec_faiss.packed_index import PackedIndex
from bitcodec_faiss.scans import CandidateScan, ExactScan, ListScan, Scan, n_threads, some_of
from bitcodec_faiss.store import Kind, parse_factory

_SCANS: dict[str, type[ExactScan | ListScan]] = {
    "Flat": ExactScan,
    "FastScan": CandidateScan,
    "IVF": ListScan,
}
_EFFORTS = {"oversample": "FastScan", "nprobe": "IVF"}
"""Search parameters and the kind that takes each."""

_RANGE_QUERIES = 64
"""Queries scored at a time in a range search."""


class AsymmetricIndex(PackedIndex):
    """Search packed codes by inner products, cosines or distances of float queries.

    Rows stay packed: a query becomes one weight a bit, and tables of sums score the bytes.

    | factory | search | filter | range | remove |
    |---|---|---|---|---|
    | Flat | exact, ties by id | exact | exact | yes |
    | FastScan | exact scores of candidates | exact | exact | yes |
    | IVF<lists> | exact scores in `nprobe` lists | exact there | exact | yes |

    "Exact" is the score that the codec gives a row, to float32's rounding; the row itself is an
    estimate of its hidden state. "FastScan" takes candidates from FAISS's fast scan, which rounds
    its tables to 8 bits and sees neither the side bytes nor the metric, then scores them exactly:
    it may miss neighbours, the fewer the larger `oversample` is, and more in "l2" and "cosine"
    where norms vary. It holds a second copy of the bits in memory, made at the first search after
    a change and not saved. Filtered and range searches, and queries for which it finds too few
    candidates, scan all rows.

    "IVF<lists>" searches the lists whose centroids point most in a query's direction, all of them
    where a filter allows few rows or fewer than k are found. Lists are made of bits, as a
    `HammingIndex` makes them, from the first rows added or by `train`; dense codes suit them.

    Args:
        codec: a fitted `bitcodec.BitCodec`, or anything with the attributes of `ScoringCodec`.
        factory: `"Flat"`, `"FastScan"` or `"IVF<lists>"`.
        metric: `"inner_product"`, `"cosine"` or `"l2"`, the squared distance. The cosine of a
            zero vector is 0; estimated distances may fall below 0.

    Raises:
        ConfigError: an unknown factory or metric, or a codec that cannot score.
        NotFittedError: the codec is not fitted.
        MissingExtraError: FAISS is not installed, or too old.
    """

    def __init__(
        self, codec: ScoringCodec, *, factory: str = "Flat", metric: Metric = "inner_product"
    ) -> None:
        super().__init__(codec, factory=factory)
        self._scorer = as_scoring_codec(codec)
        self._metric: Metric = check_metric(metric)
        self.metric = self._metric
        self._made_scan: Scan | None = None

    def search(
        self,
        queries: Any,
        *,
        k: int = 10,
        filter: Any = None,
        n_threads: int | None = None,
        oversample: int | None = None,
        nprobe: int | None = None,
    ) -> SearchResult:
        """Find the k nearest rows of float queries.

        Args:
            queries: (..., d) hidden states.
            k: hits a query, at least 1; may exceed the number of rows.
            filter: (m,) integer ids that may be found (unknown ones match nothing), or (n,) bool
                in the order of `ids`; None allows every row.
            n_threads: threads of the scan; by default as FAISS has it.
            oversample: FastScan only: candidates a hit, by default 10.
            nprobe: IVF only: lists searched, by default the root of their number; all of them make
                the result exact.

        Returns:
            (..., k) float32 scores and ids, the nearest first, ties by id; where fewer than k rows
            match, id -1 and the infinity that is farthest.

        Raises:
            ShapeError: the width of the queries or the filter is wrong.
            ValueRangeError: a query is not finite, or the index is empty.
            ConfigError: k, `n_threads` or a search parameter is out of range, or belongs to
                another kind.
            MismatchError: the codec has changed since the index was made.
        """
        n_hits = check_count(k, name="k")
        effort = self._check_effort(oversample=oversample, nprobe=nprobe)
        floats, weights = self._weigh(queries)
        allowed = self._rows.allowed(filter)
        with limit_threads(n_threads):
            scores, ids = self._scan.search(weights, k=n_hits, allowed=allowed, effort=effort)
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
        if header.metric == "hamming":
            raise ConfigError("it holds a HammingIndex: load it with HammingIndex.load")
        return cls(
            as_scoring_codec(codec), factory=header.factory, metric=check_metric(header.metric)
        )

    @staticmethod
    def _kind(factory: Any) -> Kind:
        if factory in ("Flat", "FastScan"):
            return Kind(name="Flat", size=0)
        if isinstance(factory, str) and factory.startswith("IVF"):
            return parse_factory(factory)
        raise ConfigError(f'factory must be "Flat", "FastScan" or "IVF<lists>", got {factory!r}')

    @property
    def _stored_bytes(self) -> int:
        """Bytes of a row that FAISS holds: lists are made by the bits alone."""
        return (self.n_bits + 7) // 8 if self._scan_kind == "IVF" else self.row_bytes

    @property
    def _scan_kind(self) -> str:
        return self.factory.rstrip("0123456789")

    @property
    def _scan(self) -> Scan:
        """The way to search, made at the first search after a change."""
        if self._made_scan is None:
            make = _SCANS[self._scan_kind]
            self._made_scan = make(self._rows, self._scorer, metric=self._metric)
        return self._made_scan

    def _forget_derived(self) -> None:
        self._made_scan = None

    def _check_effort(self, **given: Any) -> int | None:
        """Return the search parameter that is given, None for its default."""
        for name, value in given.items():
            if value is not None and self._scan_kind != _EFFORTS[name]:
                raise ConfigError(
                    f"{name} is a parameter of {_EFFORTS[name]}, this index is {self._scan_kind}: "
                    "leave it"
                )
        chosen = {name: value for name, value in given.items() if value is not None}
        return next((check_count(value, name=name) for name, value in chosen.items()), None)

    def _weigh(self, queries: Any) -> tuple[np.ndarray, QueryWeights]:
        self._check_codec()
        self._refuse_empty()
        floats = as_queries(queries, n_dims=self._scorer.n_dims_)
        rows = floats.reshape(-1, floats.shape[-1])
        squares = np.einsum("id,id->i", rows, rows, dtype=np.float64)
        weights = self._scorer.query_weights(rows)
        return floats, weights_for(weights, metric=self._metric, squared_norms=squares)

    def _within(
        self, weights: QueryWeights, *, least: float, allowed: np.ndarray | None
    ) -> RangeHits:
        ids, scan = self._rows.store.ids, self._scan
        hits = [(np.empty(0, np.int64), np.empty(0, np.float32), ids[:0])]
        for start in range(0, len(weights.weights), _RANGE_QUERIES):
            some = some_of(weights, slice(start, start + _RANGE_QUERIES))
            for rows, packed in scan.blocks():
                terms = {name: values[rows] for name, values in scan.terms.items()}
                scores = score_rows(some, packed, **terms, n_threads=n_threads())
                near = scores.astype(np.float64) >= least
                owners, places = np.nonzero(near if allowed is None else near & allowed[rows])
                hits.append((owners + start, -scores[owners, places], ids[rows][places]))
        owners, scores, found = (np.concatenate(parts) for parts in zip(*hits, strict=True))
        owners, scores, found = sort_range((owners, scores, found))
        return owners, -scores, found


def _check_radius(radius: Any) -> float:
    is_number = isinstance(radius, int | float | np.number) and not isinstance(radius, bool)
    if not is_number or not math.isfinite(radius):
        raise ConfigError(f"radius must be a finite number, got {radius!r}")
    return float(radius)
