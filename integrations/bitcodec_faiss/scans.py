"""How an asymmetric index finds the best rows of float queries: by one class a factory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from bitcodec.bits import unpack
from bitcodec.protocol import ScoringCodec
from bitcodec.ranking import Hits, highest
from bitcodec.rescoring import DEFAULT_OVERSAMPLE
from bitcodec.scoring import QueryWeights, score_pairs, top_scores
from bitcodec.search_results import MISSING_ID
from bitcodec.similarity import Metric, row_terms_for
from bitcodec_faiss.backend import load_faiss
from bitcodec_faiss.fast_scan import FastScan
from bitcodec_faiss.flat import FlatStore
from bitcodec_faiss.ivf import SCAN_BELOW, IvfStore
from bitcodec_faiss.rows import Rows

CHUNK_ROWS = 1 << 16
"""Rows taken at a time where something is computed for each."""

_MAX_BYTES = 1 << 26
"""Bytes of candidates' rows held at a time."""


class Scan(Protocol):
    """One way of searching rows that do not change meanwhile."""

    terms: dict[str, np.ndarray]
    """The rows' factors, scales and shifts, in the order of the store's ids."""

    def search(
        self,
        weights: QueryWeights,
        *,
        k: int,
        allowed: np.ndarray | None,
        effort: int | None,
    ) -> Hits:
        """Find the k best allowed rows of some queries.

        Args:
            weights: of q queries, adapted to the metric.
            k: hits a query.
            allowed: (n,) bool in the order of the store's ids; None allows every row.
            effort: the kind's search parameter; None for its default.

        Returns:
            (q, k) float32 similarities and (q, k) int64 ids, the best first, ties by id.
        """

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield all rows in turn: their numbers, and their packed bits."""


class ExactScan:
    """All rows of a flat store.

    Args:
        rows: of the index.
        codec: that made them.
        metric: of the scores.
    """

    def __init__(self, rows: Rows, codec: ScoringCodec, *, metric: Metric) -> None:
        assert isinstance(rows.store, FlatStore)
        self._packed, self._ids = rows.store.packed, rows.store.ids
        self.terms = terms_of(rows, codec, metric=metric)

    def search(
        self,
        weights: QueryWeights,
        *,
        k: int,
        allowed: np.ndarray | None,
        effort: int | None,
    ) -> Hits:
        """Find the k best allowed rows; see `Scan`."""
        return top_scores(
            weights,
            self._packed,
            k=k,
            **self.terms,
            allowed=allowed,
            labels=self._ids,
            n_threads=n_threads(),
        )

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield chunks of rows; see `Scan`."""
        for rows in _chunks(len(self._ids)):
            yield rows, self._packed[rows]


class CandidateScan(ExactScan):
    """Candidates by FAISS's fast scan, scored exactly.

    Filtered searches, and queries for which it finds too few candidates, scan all rows.

    Args:
        rows: of the index.
        codec: that made them.
        metric: of the scores.
    """

    def __init__(self, rows: Rows, codec: ScoringCodec, *, metric: Metric) -> None:
        super().__init__(rows, codec, metric=metric)
        self._n_bits = codec.n_bits_
        self._fast_scan: FastScan | None = None

    def search(
        self,
        weights: QueryWeights,
        *,
        k: int,
        allowed: np.ndarray | None,
        effort: int | None,
    ) -> Hits:
        """Rank `effort` candidates a hit; see `Scan`."""
        n_queries = len(weights.weights)
        n_candidates = k * (DEFAULT_OVERSAMPLE if effort is None else effort)
        if allowed is not None or n_queries == 0 or n_candidates >= len(self._ids):
            return super().search(weights, k=k, allowed=allowed, effort=None)
        if self._fast_scan is None:
            self._fast_scan = FastScan(self._packed, n_bits=self._n_bits)
        size = max(1, _MAX_BYTES // (n_candidates * self._packed.shape[1]))
        parts = []
        for start in range(0, n_queries, size):
            some = some_of(weights, slice(start, start + size))
            rows = self._fast_scan.candidates(some.weights, n_candidates=n_candidates)
            parts.append(self._rank(some, rows, k=k))
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def _rank(self, weights: QueryWeights, rows: np.ndarray, *, k: int) -> Hits:
        """Keep the k best of (q, m) candidate rows; -1 stands where there is none."""
        terms = {name: values[rows] for name, values in self.terms.items()}
        found = score_pairs(weights, self._packed[rows], **terms, n_threads=n_threads())
        scores, ids = highest(found, self._ids[rows], k=k)
        # FAISS finds nothing for a query whose weights are all 0: it has no scale to round to.
        short = np.flatnonzero((rows < 0).any(axis=1))
        if len(short):
            scores[short], ids[short] = super().search(
                some_of(weights, short), k=k, allowed=None, effort=None
            )
        return scores, ids


class ListScan:
    """Some lists of an IVF, their rows scored exactly.

    Lists are FAISS's, around centroids of bits. Those searched have the centroids whose decoded
    vectors, less the codec's mean, point most in the direction of the query; for distances the
    mean is taken off the query too. Queries that find fewer rows than match search all lists.

    Args:
        rows: of the index.
        codec: that made them.
        metric: of the scores.
    """

    def __init__(self, rows: Rows, codec: ScoringCodec, *, metric: Metric) -> None:
        assert isinstance(rows.store, IvfStore)
        self._store, self._starts = rows.store, rows.store.starts()
        self.terms = terms_of(rows, codec, metric=metric)
        self._bits = unpack(rows.store.centroids, n_bits=codec.n_bits_).T.astype(np.float32)
        lengths, shares = _decoded_centroids(codec, self._bits)
        self._lengths = np.where(lengths > 0, lengths, 1)
        self._shares = shares if metric == "l2" else np.zeros_like(shares)

    def search(
        self,
        weights: QueryWeights,
        *,
        k: int,
        allowed: np.ndarray | None,
        effort: int | None,
    ) -> Hits:
        """Search `effort` lists; see `Scan`."""
        n_probe = self._store.n_probe(effort)
        n_rows = int(self._starts[-1])
        n_match = n_rows if allowed is None else int(np.count_nonzero(allowed))
        everything = np.arange(self._store.n_lists)[None]
        if n_match <= max(k, SCAN_BELOW * n_rows):
            lists = np.repeat(everything, len(weights.weights), axis=0)
            return self._scan(weights, lists, k=k, allowed=allowed)
        scores, ids = self._scan(weights, self._nearest(weights, n_probe), k=k, allowed=allowed)
        short = np.flatnonzero(ids[:, -1] < 0)
        if len(short):
            lists = np.repeat(everything, len(short), axis=0)
            some = some_of(weights, short)
            scores[short], ids[short] = self._scan(some, lists, k=k, allowed=allowed)
        return scores, ids

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield the lists; see `Scan`."""
        for number, (start, stop) in enumerate(zip(self._starts, self._starts[1:], strict=False)):
            if start < stop:
                yield slice(start, stop), self._store.list_codes(number)

    def _nearest(self, weights: QueryWeights, n_probe: int) -> np.ndarray:
        """Return the lists to search for each query, (q, n_probe), those without rows last."""
        products = weights.weights @ self._bits + weights.bias[:, None]
        closeness = (products - self._shares) / self._lengths
        closeness[:, np.diff(self._starts) == 0] = -np.inf
        order: np.ndarray = np.argsort(-closeness, axis=1, kind="stable")[:, :n_probe]
        return order

    def _scan(
        self, weights: QueryWeights, lists: np.ndarray, *, k: int, allowed: np.ndarray | None
    ) -> Hits:
        """Find the k best allowed rows in (q, m) lists of each query."""
        scores = np.full((len(lists), k), -np.inf, dtype=np.float32)
        ids = np.full((len(lists), k), MISSING_ID, dtype=np.int64)
        for asking, numbers in self._tasks(lists):
            spans = [slice(self._starts[number], self._starts[number + 1]) for number in numbers]
            found = top_scores(
                some_of(weights, asking),
                _joined([self._store.list_codes(number) for number in numbers]),
                k=k,
                **{name: _joined([row[s] for s in spans]) for name, row in self.terms.items()},
                allowed=None if allowed is None else _joined([allowed[s] for s in spans]),
                labels=_joined([self._store.list_ids(number) for number in numbers]),
                n_threads=n_threads(),
            )
            both = zip((scores[asking], ids[asking]), found, strict=True)
            scores[asking], ids[asking] = highest(*(np.concatenate(p, axis=1) for p in both), k=k)
        return scores, ids

    def _tasks(self, lists: np.ndarray) -> Iterator[tuple[np.ndarray, list[int]]]:
        """Yield queries with lists to search for all of them, until every query has had its own.

        A search in many small parts costs more than one in few: so it goes query by query, with
        lists joined up to `CHUNK_ROWS` rows, or list by list, whichever are fewer.
        """
        sizes = np.diff(self._starts)
        wanted = np.unique(lists)
        wanted = wanted[sizes[wanted] > 0]
        if len(lists) < len(wanted):
            for query, own in enumerate(lists):
                filled = own[sizes[own] > 0]
                parts = np.cumsum(sizes[filled]) // CHUNK_ROWS
                for part in np.unique(parts):
                    yield np.array([query]), filled[parts == part].tolist()
            return
        order = np.argsort(lists, axis=None, kind="stable")
        cuts = np.searchsorted(lists.ravel()[order], np.append(wanted, self._store.n_lists))
        for number, start, stop in zip(wanted, cuts, cuts[1:], strict=False):
            members = order[start:stop]
            yield members[lists.ravel()[members] == number] // lists.shape[1], [int(number)]


def _decoded_centroids(codec: ScoringCodec, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the length of each decoded centroid less the mean, and its product with the mean.

    Decoding is what the weights of unit vectors say of it; they are asked for some at a time.

    Args:
        codec: of the rows.
        bits: (h, n) float32, those of the centroids.

    Returns:
        (n,) float64 each.
    """
    squares, products = np.zeros(bits.shape[1]), np.zeros(bits.shape[1])
    size = max(1, _MAX_BYTES // (4 * max(codec.n_dims_, codec.n_bits_)))
    for start in range(0, codec.n_dims_, size):
        axes = np.arange(start, min(start + size, codec.n_dims_))
        units = np.zeros((len(axes), codec.n_dims_), dtype=np.float32)
        units[np.arange(len(axes)), axes] = 1
        told = codec.query_weights(units)
        decoded = (told.weights @ bits + told.bias[:, None]).astype(np.float64)
        squares += np.square(decoded).sum(axis=0)
        products += told.base.astype(np.float64) @ decoded
    return np.sqrt(squares), products


def terms_of(rows: Rows, codec: ScoringCodec, *, metric: Metric) -> dict[str, np.ndarray]:
    """Return the factors, scales and shifts of all rows, in the order of the store's ids."""
    if metric == "inner_product" and codec.row_bytes_ == (codec.n_bits_ + 7) // 8:
        return {}
    ids = rows.store.ids
    parts = [
        row_terms_for(codec.side(rows.whole(np.arange(some.start, some.stop), ids)), metric=metric)
        for some in _chunks(len(rows))
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def some_of(weights: QueryWeights, some: slice | np.ndarray) -> QueryWeights:
    """Return the weights of some queries."""
    return QueryWeights(weights.weights[some], weights.bias[some], weights.base[some])


def n_threads() -> int:
    """Return FAISS's number of threads, which the whole index keeps to."""
    return int(load_faiss().omp_get_max_threads())


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _chunks(n_rows: int) -> list[slice]:
    starts = range(0, n_rows, CHUNK_ROWS)
    return [slice(start, min(start + CHUNK_ROWS, n_rows)) for start in starts]
