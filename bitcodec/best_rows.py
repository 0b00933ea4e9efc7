"""For every feature the few rows of least score, found as a stream."""

from __future__ import annotations

from typing import Self

import numpy as np

from bitcodec.errors import ShapeError


class BestRows:
    """Keep the k rows of least score of every feature.

    The result depends on the scores alone, not on how the rows were cut into parts or in which
    order parts were merged; equal scores are ordered by row.

    Args:
        n_features: h.
        k: rows kept of each feature.

    Attributes:
        rows: (h, k) int64, by score ascending; -1 where there are fewer.
        scores: (h, k) float64; infinity where there are fewer.
        values: (h, k) float64, what was told of each row beside its score.
    """

    def __init__(self, n_features: int, k: int) -> None:
        self.rows = np.full((n_features, k), -1, dtype=np.int64)
        self.scores = np.full((n_features, k), np.inf)
        self.values = np.full((n_features, k), np.nan)

    def offer(
        self, scores: np.ndarray, wanted: np.ndarray, *, values: np.ndarray, first_row: int
    ) -> None:
        """Consider rows that follow each other.

        Args:
            scores: (n, h) float, or (n, 1) where a row has the same for every feature.
            wanted: (n, h) bool, the rows to be considered for each feature.
            values: (n, h) float, what to keep beside each score.
            first_row: number of the first; rows are to be offered in ascending order.
        """
        if self.rows.shape[1] == 0:
            return
        # Most rows are no match for those already kept: sort only what is left.
        row, feature = np.nonzero(wanted & (scores < self.scores[:, -1]))
        score = np.broadcast_to(scores, wanted.shape)[row, feature].astype(np.float64)
        self._take(feature, score, row + first_row, values[row, feature])

    def merge(self, other: BestRows) -> Self:
        """Add the rows that another kept, of other rows of the same data.

        Raises:
            ShapeError: the numbers of features or rows differ.
        """
        if other.rows.shape != self.rows.shape:
            raise ShapeError(f"cannot merge rows of {other.rows.shape} into {self.rows.shape}")
        feature, place = np.nonzero(other.rows >= 0)
        kept = (part[feature, place] for part in (other.scores, other.rows, other.values))
        self._take(feature, *kept)
        return self

    def of(self, feature: int) -> list[tuple[int, float]]:
        """Return a feature's rows with their values, least score first."""
        rows, values = self.rows[feature].tolist(), self.values[feature].tolist()
        return [(row, value) for row, value in zip(rows, values, strict=True) if row >= 0]

    def _take(
        self, feature: np.ndarray, score: np.ndarray, row: np.ndarray, value: np.ndarray
    ) -> None:
        touched = np.unique(feature)
        index, place = np.nonzero(self.rows[touched] >= 0)
        old = touched[index], place
        feature = np.concatenate([old[0], feature])
        score = np.concatenate([self.scores[old], score])
        row = np.concatenate([self.rows[old], row])
        value = np.concatenate([self.values[old], value])
        order = np.lexsort((row, score, feature))
        rank = _places(feature[order])
        order, rank = order[rank < self.rows.shape[1]], rank[rank < self.rows.shape[1]]
        target = feature[order], rank
        self.rows[target], self.scores[target] = row[order], score[order]
        self.values[target] = value[order]


def _places(sorted_values: np.ndarray) -> np.ndarray:
    """Return the place of each value among its equals, for values in ascending order."""
    firsts = np.searchsorted(sorted_values, sorted_values, side="left")
    return np.arange(len(sorted_values)) - firsts


def random_keys(rows: np.ndarray, *, seed: int) -> np.ndarray:
    """Return a uniform random number of each row that depends on the row's number and seed alone.

    The rows of least keys among any are a uniform sample of them, whatever their order and however
    they are cut into parts; different features draw on the same keys and so share rows, which
    makes what is shown smaller and no sample less fair.

    Args:
        rows: (n,) integers.
        seed: any integer.

    Returns:
        (n,) float64 in [0, 1): the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        start = _mixed(np.array([seed % 2**64], dtype=np.uint64))
        mixed = _mixed(start + (rows.astype(np.uint64) + np.uint64(1)) * golden)
    keys: np.ndarray = (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
    return keys


def _mixed(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = state ^ (state >> np.uint64(31))
    return mixed
