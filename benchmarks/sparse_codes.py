"""What it costs to store activations: which features are on, and how strongly.

Which are on is coded as our own codes are, with probabilities of the same training rows. Values are
rounded to whole multiples of a step and coded feature by feature with probabilities counted on the
training rows; those that round to 0 count as off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

import constriction
import numpy as np

from benchmarks.sparse_methods import SparseRows
from bitcodec.bits import pack
from bitcodec.range_coding import ProbabilityTable, Table, compress, learn_context
from bitcodec.statistics import BitStatistics

N_GROUPS = 32
"""Groups of features of like mean, whose counts stand in for those of a rare feature."""
PRIOR_WEIGHT = 16.0
"""How many values of its own weigh as much as those of a feature's group."""
ESCAPE_BITS = 24
"""Bits of the excess of a value beyond what training rows held; constriction's most."""


Coding = Literal["independent", "context"]
"""Whether features are coded each by itself, or each knowing others; the latter takes minutes."""


def quantise(rows: SparseRows, step: float) -> SparseRows:
    """Round values to whole multiples of a step; what rounds to 0 is off.

    Args:
        rows: activations.
        step: above 0, in the unit of the values.

    Returns:
        Activations whose values are the multiples, 1, 2, ...
    """
    levels = np.rint(rows.values / step).astype(np.float32)
    kept = levels > 0
    bits = np.unpackbits(rows.packed, axis=1, bitorder="little", count=rows.n_features)
    bits[bits.astype(bool)] = kept
    return SparseRows(pack(bits), rows.columns[kept], levels[kept], rows.n_features)


def rescaled(rows: SparseRows, step: float) -> SparseRows:
    """Return quantised activations in their own unit."""
    return dataclasses.replace(rows, values=rows.values * np.float32(step))


def without_values(rows: SparseRows, means: np.ndarray) -> SparseRows:
    """Return activations with each feature's mean, (h,), in place of its values."""
    return dataclasses.replace(rows, values=means[rows.columns].astype(np.float32))


def mean_values(rows: SparseRows) -> np.ndarray:
    """Return the mean value of each feature where it is on, (h,) float64; 0 where it never is."""
    sums = np.bincount(rows.columns, weights=rows.values, minlength=rows.n_features)
    means: np.ndarray = sums / np.maximum(rows.counts, 1)
    return means


@dataclass(frozen=True)
class ValueTable:
    """Probabilities of the quantised values of each feature.

    A feature's probabilities are its counts on training rows plus those of its group, scaled to
    weigh `PRIOR_WEIGHT` values, plus a little for what was never seen. The last level is an
    escape, after which the excess is coded plainly.
    """

    probabilities: np.ndarray
    """(h, levels + 1) float32: of the values 1, 2, ..., and of the escape."""

    @classmethod
    def learn(cls, rows: SparseRows) -> Self:
        """Count quantised training rows."""
        n_levels = int(rows.values.max(initial=1))
        cells = rows.columns.astype(np.int64) * (n_levels + 1) + rows.values.astype(np.int64) - 1
        counts = np.bincount(cells, minlength=rows.n_features * (n_levels + 1))
        counts = counts.reshape(rows.n_features, n_levels + 1).astype(np.float64)
        priors = np.empty_like(counts)
        for group in np.array_split(np.argsort(mean_values(rows), kind="stable"), N_GROUPS):
            shared = counts[group].sum(axis=0) + 1 / (n_levels + 1)
            priors[group] = shared / shared.sum()
        smoothed = counts + PRIOR_WEIGHT * priors
        return cls((smoothed / smoothed.sum(axis=1, keepdims=True)).astype(np.float32))

    def encode(self, rows: SparseRows) -> bytes:
        """Code the values of quantised rows; which features are on is known to the decoder."""
        encoder, escape = constriction.stream.queue.RangeEncoder(), self.probabilities.shape[1]
        for feature, values in _by_feature(rows):
            levels = np.minimum(values, escape)
            encoder.encode((levels - 1).astype(np.int32), self._model(feature))
            excess = (values[levels == escape] - escape).astype(np.int32)
            if len(excess):
                encoder.encode(excess, constriction.stream.model.Uniform(2**ESCAPE_BITS))
        coded: bytes = encoder.get_compressed().tobytes()
        return coded

    def decode(self, data: bytes, rows: SparseRows) -> np.ndarray:
        """Return the values that `encode` was given, (m,) float32, in the order of the rows.

        Args:
            data: what `encode` returned.
            rows: the same rows; their values are not looked at.
        """
        decoder, escape = (
            constriction.stream.queue.RangeDecoder(np.frombuffer(data, np.uint32)),
            self.probabilities.shape[1],
        )
        found = np.empty(len(rows.columns), np.float32)
        order = np.argsort(rows.columns, kind="stable")
        ends = np.cumsum(rows.counts)
        for feature in np.flatnonzero(rows.counts):
            places = order[ends[feature] - rows.counts[feature] : ends[feature]]
            values = decoder.decode(self._model(int(feature)), len(places)) + 1
            escaped = values == escape
            if escaped.any():
                values[escaped] += decoder.decode(
                    constriction.stream.model.Uniform(2**ESCAPE_BITS), int(escaped.sum())
                )
            found[places] = values
        return found

    def _model(self, feature: int) -> Any:
        return constriction.stream.model.Categorical(self.probabilities[feature], perfect=False)


def _by_feature(rows: SparseRows) -> Iterator[tuple[int, np.ndarray]]:
    """Yield features that are on somewhere with their values, int64 in the order of the rows."""
    order = np.argsort(rows.columns, kind="stable")
    ends = np.cumsum(rows.counts)
    for feature in np.flatnonzero(rows.counts):
        places = order[ends[feature] - rows.counts[feature] : ends[feature]]
        yield int(feature), rows.values[places].astype(np.int64)


def learn_table(rows: SparseRows, coding: Coding) -> Table:
    """Return probabilities of features being on, learned on training rows."""
    if coding == "context":
        return learn_context(rows.packed, n_bits=rows.n_features)
    return ProbabilityTable.from_statistics(statistics_of(rows))


def statistics_of(rows: SparseRows) -> BitStatistics:
    """Return how often features are on."""
    return BitStatistics(n_rows=len(rows.packed), counts=rows.counts)


def support_bytes(rows: SparseRows, table: Table) -> int:
    """Return the bytes that say which features are on."""
    return len(compress(rows.packed, table, embed_table=False))
