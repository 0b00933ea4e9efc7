"""Entropies of sets of codes, with what their few rows cost taken back, and standard errors.

The sum of the bits' entropies is too low where rows are few, the more so where they come in
clusters. Leaving out one cluster after the other tells by how much (Quenouille's jackknife).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from bitcodec.errors import ShapeError, ValueRangeError
from bitcodec.statistics import binary_entropy


@dataclass(frozen=True, eq=False)
class ClusterCounts:
    """How often each bit is on in each cluster of rows."""

    n_rows: np.ndarray
    """(c,) int64 rows of each cluster."""
    counts: np.ndarray
    """(c, h) int64 rows of it in which each bit is on."""

    @classmethod
    def of(cls, bits: np.ndarray, clusters: np.ndarray, *, n_clusters: int) -> Self:
        """Count bits.

        Args:
            bits: (n, h), values 0 or 1.
            clusters: (n,) int64 below `n_clusters`.
            n_clusters: c; clusters without rows count nothing.
        """
        counts = np.zeros((n_clusters, bits.shape[1]), dtype=np.int64)
        np.add.at(counts, clusters, bits)
        return cls(np.bincount(clusters, minlength=n_clusters), counts)


@dataclass(frozen=True, eq=False)
class Jackknifed:
    """An estimate and what leaving out each cluster makes of it."""

    plain: float
    """The estimate of all rows."""
    left_out: np.ndarray
    """(c,) the same without each cluster."""

    @property
    def value(self) -> float:
        """The estimate without its bias of order 1 / c."""
        n = len(self.left_out)
        return float(n * self.plain - (n - 1) * self.left_out.mean())

    @property
    def error(self) -> float:
        """Its standard error."""
        n = len(self.left_out)
        return float(np.sqrt((n - 1) / n * np.square(self.left_out - self.left_out.mean()).sum()))

    def __sub__(self, other: Jackknifed) -> Jackknifed:
        """Return the difference of two estimates from the same clusters."""
        if len(self.left_out) != len(other.left_out):
            raise ShapeError(
                f"the clusters must be the same, got {len(self.left_out)} and {len(other.left_out)}"
            )
        return Jackknifed(self.plain - other.plain, self.left_out - other.left_out)


def set_entropy(counted: ClusterCounts) -> Jackknifed:
    """Estimate the sum of the bits' entropies of the rows that clusters are drawn from, in bits.

    Raises:
        ValueRangeError: fewer than two clusters have rows, which tell no error.
    """
    if np.count_nonzero(counted.n_rows) < 2:
        raise ValueRangeError("entropies need rows of at least two documents or questions, got one")
    total, n_rows = counted.counts.sum(axis=0), counted.n_rows.sum()
    left = (total - counted.counts) / (n_rows - counted.n_rows)[:, None]
    return Jackknifed(float(binary_entropy(total / n_rows).sum()), binary_entropy(left).sum(axis=1))


def mean_of(values: np.ndarray, clusters: np.ndarray, *, n_clusters: int) -> Jackknifed:
    """Estimate the mean of values that come in clusters.

    Args:
        values: (n,) floats.
        clusters: (n,) int64 below `n_clusters`.
        n_clusters: c, of which at least two have rows.
    """
    sums = np.bincount(clusters, weights=values, minlength=n_clusters)
    n_rows = np.bincount(clusters, minlength=n_clusters)
    return Jackknifed(float(values.mean()), (sums.sum() - sums) / (n_rows.sum() - n_rows))
