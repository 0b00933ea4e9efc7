"""Methods whose code of a row is features that are on or off, some with values.

Judges of features, for example those of `bitcodec report`, want only what is on: `on_features`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from benchmarks.quantisers import Standardisation
from bitcodec import BitCodec
from bitcodec.bits import pack, row_bytes
from bitcodec.config import Refine
from bitcodec.normal_equations import NormalEquations

CHUNK_ROWS = 4096
"""Rows whose activations are in memory at once."""
RIDGE_ROWS = 65_536
"""Training rows that the decoder of random features is learned on."""
SEED = 0
"""Of the random directions."""
Rows = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Method:
    """A map from hidden states to features, and back."""

    activations: Rows
    """Takes (n, d) float32 hidden states, gives (n, h) float32: 0 where a feature is off, 1 or,
    of a method with values, how strongly it is on."""
    decode: Rows
    """Takes activations, gives (n, d) float32."""
    n_features: int
    """h."""
    has_values: bool
    """Whether the values of what is on must be stored too."""


@dataclass(frozen=True)
class SparseRows:
    """Activations of many rows, without their zeros."""

    packed: np.ndarray
    """(n, ceil(h / 8)) uint8, what is on, least significant bit first."""
    columns: np.ndarray
    """(m,) int32, the features that are on, row by row, ascending in each."""
    values: np.ndarray
    """(m,) float32, their values."""
    n_features: int
    """h."""

    @classmethod
    def of(cls, method: Method, rows: np.ndarray) -> Self:
        """Compute the activations of (n, d) float32 rows."""
        parts = [cls.from_dense(method.activations(part)) for part in blocks(rows)]
        return cls(
            np.concatenate([part.packed for part in parts]),
            np.concatenate([part.columns for part in parts]),
            np.concatenate([part.values for part in parts]),
            method.n_features,
        )

    @classmethod
    def from_dense(cls, activations: np.ndarray) -> Self:
        """Take (n, h) float32 activations."""
        on = activations > 0
        columns = np.nonzero(on)[1].astype(np.int32)
        return cls(pack(on), columns, activations[on], activations.shape[1])

    def dense(self) -> np.ndarray:
        """Return (n, h) float32 activations."""
        bits = np.unpackbits(self.packed, axis=1, bitorder="little", count=self.n_features)
        activations = bits.astype(np.float32)
        activations[bits.astype(bool)] = self.values
        return activations

    @property
    def counts(self) -> np.ndarray:
        """(h,) int64, rows in which each feature is on."""
        counts: np.ndarray = np.bincount(self.columns, minlength=self.n_features)
        return counts


def on_features(method: Method, rows: np.ndarray) -> np.ndarray:
    """Return which features are on, whatever the method.

    Args:
        method: any method of this benchmark.
        rows: (n, d) float32 hidden states.

    Returns:
        (n, ceil(h / 8)) uint8, least significant bit first, as a codec's packed rows: what judges
        of features, `FeatureSets` and reports take.
    """
    packed = [pack(method.activations(part) > 0) for part in blocks(rows)]
    return np.concatenate([np.empty((0, row_bytes(method.n_features)), np.uint8), *packed])


def of_codec(codec: BitCodec, *, refine: Refine) -> Method:
    """Return a codec without side bytes as a method."""

    def activations(rows: np.ndarray) -> np.ndarray:
        return codec.encode_bits(rows, refine=refine).astype(np.float32)

    def decode(bits: np.ndarray) -> np.ndarray:
        return codec.decode(pack(bits > 0))

    return Method(activations, decode, n_features=codec.n_bits_, has_values=False)


def random_signs(train: np.ndarray, *, n_features: int, activity: float) -> Method:
    """Return the floor: on which side of random hyperplanes a row lies, decoded by regression.

    Args:
        train: (m, d) float32.
        n_features: h.
        activity: the share of the training rows in which each feature is on.
    """
    standard = Standardisation.of(train)
    learned = torch.from_numpy(standard.apply(train[:RIDGE_ROWS]))
    generator = torch.Generator().manual_seed(SEED)
    directions = torch.randn(train.shape[1], n_features, generator=generator)
    sample = learned[:CHUNK_ROWS] @ directions
    thresholds = sample.quantile(1 - activity, dim=0)

    def bits_of(rows: torch.Tensor) -> torch.Tensor:
        return (rows @ directions > thresholds).float()

    sums = NormalEquations.empty(
        n_bits=n_features, n_dims=train.shape[1], device=torch.device("cpu")
    )
    for part in learned.split(CHUNK_ROWS):
        sums.update(bits_of(part), part)
    weight, bias = (solved.float() for solved in sums.solve(penalty=1.0))
    return Method(
        lambda rows: bits_of(torch.from_numpy(standard.apply(rows))).numpy(),
        lambda bits: standard.undo((torch.from_numpy(bits) @ weight + bias).numpy()),
        n_features=n_features,
        has_values=False,
    )


def blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield rows in blocks of `CHUNK_ROWS`."""
    for start in range(0, len(rows), CHUNK_ROWS):
        yield rows[start : start + CHUNK_ROWS]
