"""Transform coding as textbooks have it: principal components, uniform steps, an entropy coder.

At high rates it comes within a quarter of a bit a dimension of the Gaussian bound (Gish and Pierce
1968), and below it where components are not Gaussian.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import constriction
import numpy as np

from benchmarks.quantisers import Encoded, Fit, Fitted, standardised
from benchmarks.rivals import FLOAT_BYTES

RATES = (100, 200, 400, 800, 1200, 2300)
"""Bits of a vector."""
LARGEST = 127
"""Steps from 0 to the outermost level."""
SAMPLE_ROWS = 16_384
"""Training rows on which the step that gives a rate is sought."""
BLOCK_ROWS = 1024


def transforms() -> dict[str, Fit]:
    """Return transform coding at several rates, by name."""
    return {f"KLT {bits}": standardised(partial(fit_transform, bits)) for bits in RATES}


def fit_transform(bits: int, train: np.ndarray) -> Fitted:
    """Learn the components and the step at which they cost so many bits a vector.

    Args:
        bits: of a vector, by the entropies of the levels; the measured rate is the coder's.
        train: (m, d) float32.
    """
    covariance = np.cov(train.T.astype(np.float64))
    components = np.linalg.eigh(covariance)[1].astype(np.float32)
    rotated = train @ components
    step = find_step(rotated[:: max(1, len(rotated) // SAMPLE_ROWS)], bits)
    levels = to_levels(rotated, step)
    counts = np.stack([np.bincount(column, minlength=2 * LARGEST + 1) for column in levels.T])
    centres = cell_means(rotated, levels, counts, step)
    models = [categorical(row) for row in counts]

    def encode(rows: np.ndarray) -> Encoded:
        found = to_levels(rows @ components, step)
        blocks = [found[at : at + BLOCK_ROWS] for at in range(0, len(found), BLOCK_ROWS)]
        coded = [(encode_block(block, models), len(block)) for block in blocks]
        return Encoded(coded, sum(words.nbytes for words, _ in coded) / len(rows))

    def decode(kept: Encoded) -> np.ndarray:
        found = np.concatenate(
            [decode_block(words, n_rows, models) for words, n_rows in kept.codes]
        )
        approximate = np.take_along_axis(centres, found.T, axis=1).T.astype(np.float32)
        restored: np.ndarray = approximate @ components.T
        return restored

    shared = components.nbytes + FLOAT_BYTES * (centres.size + counts.size)
    return Fitted(encode, decode, shared_bytes=shared)


def find_step(rotated: np.ndarray, bits: int) -> float:
    """Return the step at which the levels' entropies sum to so many bits."""
    low, high = 1e-3, 1e2
    for _ in range(24):
        step = float(np.sqrt(low * high))
        if entropy(to_levels(rotated, step)) > bits:
            low = step
        else:
            high = step
    return step


def to_levels(rotated: np.ndarray, step: float) -> np.ndarray:
    """Round to levels, (n, d) int32 from 0 to 254."""
    return np.clip(np.rint(rotated / step), -LARGEST, LARGEST).astype(np.int32) + LARGEST


def entropy(levels: np.ndarray) -> float:
    """Return the sum over the columns of their levels' entropies, in bits."""
    total = 0.0
    for column in levels.T:
        counts = np.bincount(column)
        p = counts[counts > 0] / len(column)
        total -= float((p * np.log2(p)).sum())
    return total


def cell_means(
    rotated: np.ndarray, levels: np.ndarray, counts: np.ndarray, step: float
) -> np.ndarray:
    """Return what each level of each component is decoded to, (d, 255) float64."""
    middles = step * (np.arange(2 * LARGEST + 1) - LARGEST)
    sums = [
        np.bincount(column, weights=values, minlength=len(middles))
        for column, values in zip(levels.T, rotated.T, strict=True)
    ]
    return np.where(counts > 0, np.stack(sums) / np.maximum(counts, 1), middles)


def categorical(counts: np.ndarray) -> Any:
    """Return a model of a component's levels; none is impossible."""
    smoothed = counts + 0.01
    return constriction.stream.model.Categorical(smoothed / smoothed.sum(), perfect=False)


def encode_block(levels: np.ndarray, models: list[Any]) -> np.ndarray:
    """Code a block component by component; return the words."""
    encoder = constriction.stream.queue.RangeEncoder()
    for column, model in zip(levels.T, models, strict=True):
        encoder.encode(np.ascontiguousarray(column), model)
    words: np.ndarray = encoder.get_compressed()
    return words


def decode_block(words: np.ndarray, n_rows: int, models: list[Any]) -> np.ndarray:
    """Return the levels of a block, (n_rows, d) int32."""
    decoder = constriction.stream.queue.RangeDecoder(words)
    return np.stack([decoder.decode(model, n_rows) for model in models], axis=1)
