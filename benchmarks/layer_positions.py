"""Entropy of the codes at a place in the context, over documents."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.jackknife import ClusterCounts, Jackknifed, mean_of, set_entropy
from bitcodec import BitCodec
from bitcodec.bits import unpack
from bitcodec.statistics import binary_entropy, row_prices
from bitcodec_transformers import HarvestRows

BLOCK = 8
"""Consecutive positions of a block."""
STARTS = (1, 9, 17, 25, 33, 49, 65, 97, 129, 161, 193)
"""First positions of the blocks. All have as many rows, as near to each other, so that their
entropies err alike."""
PLATEAU = 3
"""Last blocks whose mean is taken for the end of a rise."""
RESAMPLES = 200


def chosen_rows(rows: HarvestRows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose the rows in the blocks of all documents that reach the last block's end.

    Only the first window of a document counts.

    Returns:
        (n,) int64 row numbers, (n,) the block of each, (n,) the document of each from 0.
    """
    first = first_windows(rows.document, rows.position)
    position, document = rows.position[first], rows.document[first]
    longest = np.zeros(document.max() + 1, dtype=np.int64)
    np.maximum.at(longest, document, position)
    reaches = longest[document] >= STARTS[-1] + BLOCK - 1
    block = np.searchsorted(STARTS, position, side="right") - 1
    inside = (block >= 0) & (position < np.array(STARTS)[block] + BLOCK)
    kept = reaches & inside
    _, numbers = np.unique(document[kept], return_inverse=True)
    return first[kept], block[kept], numbers


def first_windows(document: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return the rows of each document's first window: those before its positions begin anew.

    >>> first_windows(np.array([0, 0, 0, 0, 1]), np.array([1, 3, 1, 2, 1]))
    array([0, 1, 4])
    """
    window = np.cumsum(np.diff(position, prepend=position[:1] - 1) <= 0)
    _, starts, place = np.unique(document, return_index=True, return_inverse=True)
    return np.flatnonzero(window == window[starts][place])


def entropy_by_position(
    codec: BitCodec, packed: np.ndarray, block: np.ndarray, document: np.ndarray
) -> dict[str, Any]:
    """Measure the codes of some rows, block by block.

    Args:
        codec: whose activities price the codes.
        packed: (n, row_bytes) of the chosen rows.
        block: (n,) the block of each.
        document: (n,) the document of each, from 0; documents are independent of each other.

    Returns:
        For every block the entropy of its set of codes, and the mean bits a code takes by the
        codec's activities, with standard errors; and how fast the entropy rises.
    """
    n_documents = int(document.max()) + 1
    prices = row_prices(packed, codec.statistics_.activity)
    bits = unpack(packed, n_bits=codec.n_bits_)
    counted, priced = [], []
    for number in range(len(STARTS)):
        here = block == number
        counted.append(ClusterCounts.of(bits[here], document[here], n_clusters=n_documents))
        priced.append(mean_of(prices[here], document[here], n_clusters=n_documents))
    entropies = [set_entropy(counts) for counts in counted]
    rise = entropies[-1] - entropies[0]
    return {
        "documents": n_documents,
        "positions": [start + (BLOCK - 1) / 2 for start in STARTS],
        "rows": [int(counts.n_rows.sum()) for counts in counted],
        "entropy_bits": _figures(entropies),
        "code_bits": _figures(priced),
        "rise_bits": [rise.value, rise.error],
        "saturation": saturation(counted),
    }


def saturation(counted: list[ClusterCounts]) -> dict[str, Any]:
    """Find where 90% of the rise from the first block to the plateau is reached.

    Returns:
        The position, interpolated between blocks, and the middle 95% of it over resamples of
        the documents; None where the entropy does not rise.
    """
    n = len(counted[0].n_rows)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    weights = np.concatenate([np.ones((1, n)), drawn])
    curves = np.stack([_weighted_entropies(counts, weights) for counts in counted], axis=1)
    places = np.array([_crossing(curve) for curve in curves])
    resampled = places[1:][~np.isnan(places[1:])]
    if np.isnan(places[0]) or len(resampled) < RESAMPLES / 2:
        return {"position": None, "rising_resamples": len(resampled) / RESAMPLES}
    return {
        "position": float(places[0]),
        "interval": np.quantile(resampled, [0.025, 0.975]).tolist(),
        "rising_resamples": len(resampled) / RESAMPLES,
    }


def _weighted_entropies(counts: ClusterCounts, weights: np.ndarray) -> np.ndarray:
    """Return (r,) entropies when cluster c counts weights[r, c] times."""
    activity = (weights @ counts.counts) / (weights @ counts.n_rows)[:, None]
    entropies: np.ndarray = binary_entropy(np.clip(activity, 0, 1)).sum(axis=1)
    return entropies


def _crossing(curve: np.ndarray, share: float = 0.9) -> float:
    """Return the position at which a curve first reaches a share of its rise, NaN if it falls."""
    goal = curve[-PLATEAU:].mean()
    if goal <= curve[0]:
        return float("nan")
    level = curve[0] + share * (goal - curve[0])
    place = int(np.argmax(curve >= level))
    middles = np.array(STARTS) + (BLOCK - 1) / 2
    before, after = curve[place - 1], curve[place]
    part = (level - before) / (after - before)
    return float(middles[place - 1] + part * (middles[place] - middles[place - 1]))


def _figures(estimates: list[Jackknifed]) -> list[list[float]]:
    return [[estimate.value, estimate.error] for estimate in estimates]
