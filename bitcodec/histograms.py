"""How features and rows are spread, counted between edges."""

from __future__ import annotations

import math

import numpy as np

from bitcodec.report import Distributions, Histogram
from bitcodec.statistics import BitStatistics, log2_of

_BINS = 40


def distributions(
    statistics: BitStatistics, *, prices: np.ndarray, n_on: np.ndarray, errors: np.ndarray
) -> Distributions:
    """Gather the distributions of a report.

    Args:
        statistics: counts of the features on the report's rows, at least one.
        prices: (n,) float, bits of each row.
        n_on: (n,) integers, features that are on in each row.
        errors: (n,) float, squared error of each row.
    """
    p, n, counts = statistics.activity, statistics.n_rows, statistics.counts
    on, off = log2_of(1 - p), log2_of(p)
    cells = np.concatenate([on, off]), np.concatenate([counts, n - counts])
    logarithms = log2_of(errors) / math.log2(10)
    least = math.floor(math.log2(1 / n)) if n > 1 else -1
    return Distributions(
        log10_activity=histogram(off / math.log2(10), _edges(-math.ceil(math.log10(n)) or -1, 0.1)),
        firing_price_bits=histogram(-off, np.linspace(0, -least, -2 * least + 1), weights=counts),
        burstiness=histogram(cells[0], _edges(least, 0.5), weights=cells[1]),
        row_price_bits=histogram(prices, _spread(prices)),
        row_n_on=histogram(n_on, _whole(n_on)),
        row_log10_error=histogram(logarithms, _edges_around(logarithms, 0.1)),
    )


def histogram(
    values: np.ndarray, edges: np.ndarray, *, weights: np.ndarray | None = None
) -> Histogram:
    """Count values between edges; the last bin includes both of its edges.

    Args:
        values: (m,) float, may be infinite.
        edges: (k + 1,) float, ascending.
        weights: (m,) integers, how often each value counts; None means once.
    """
    times = np.ones(len(values), dtype=np.int64) if weights is None else weights
    place = np.searchsorted(edges, values, side="right") - 1
    place[values == edges[-1]] = len(edges) - 2
    inside = (place >= 0) & (place < len(edges) - 1)
    counts = np.zeros(len(edges) - 1, dtype=np.int64)
    np.add.at(counts, place[inside], times[inside])
    return Histogram(
        edges=tuple(round(edge, 6) for edge in edges.tolist()),
        counts=tuple(counts.tolist()),
        n_outside=int(times[~inside].sum()),
    )


def _edges(least: float, step: float) -> np.ndarray:
    """Return edges from `least`, a whole number below 0, up to 0."""
    return np.linspace(least, 0, round(-least / step) + 1)


def _edges_around(values: np.ndarray, step: float) -> np.ndarray:
    """Return edges at multiples of a step around the finite values."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return np.array([-step, 0.0])
    first, last = math.floor(finite.min() / step), math.floor(finite.max() / step) + 1
    return np.arange(first, last + 1) * step


def _spread(values: np.ndarray) -> np.ndarray:
    low, high = math.floor(values.min()), math.ceil(values.max())
    return np.linspace(low, max(high, low + 1), _BINS + 1)


def _whole(values: np.ndarray) -> np.ndarray:
    """Return edges of bins of whole numbers, each of as many."""
    low, high = int(values.min()), int(values.max()) + 1
    step = max(1, math.ceil((high - low) / _BINS))
    return np.arange(low, high + step, step, dtype=np.float64)
