"""Orders in which the features of a row may be switched off, and what that does to the row."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np

from bitcodec import BitCodec
from bitcodec.bits import pack
from bitcodec.metrics import DistortionMeter
from bitcodec.statistics import burstiness
from bitcodec_transformers import feature_directions

Order = Literal[
    "most bursty", "longest decoder row", "largest error rise", "random", "least bursty"
]
ORDERS: tuple[Order, ...] = get_args(Order)


@dataclass(frozen=True, eq=False)
class RowOrders:
    """Codes of some rows, and what each feature that is on scores in every order."""

    codec: BitCodec
    """Where the codes come from; it has no side bytes."""
    hidden: np.ndarray
    """(n, d) float32."""
    bits: np.ndarray
    """(n, h) bool."""
    scale: np.ndarray
    """(d,) standard deviations: FVU and lengths are measured in these units."""

    @classmethod
    def of(cls, codec: BitCodec, hidden: np.ndarray, *, scale: np.ndarray) -> Self:
        """Encode rows with the codec's own search effort."""
        return cls(codec, hidden, codec.encode_bits(hidden).astype(bool), scale)

    def scores(self, order: Order) -> np.ndarray:
        """Return (n, h) floats; of the features that are on the highest go first."""
        if order in ("most bursty", "least bursty"):
            sign = 1 if order == "most bursty" else -1
            return sign * burstiness(self.bits, self.codec.statistics_.activity)
        if order == "longest decoder row":
            lengths = np.linalg.norm(self._directions, axis=1)
            return np.broadcast_to(lengths, self.bits.shape)
        if order == "largest error rise":
            return self.error_rises()
        return np.random.default_rng(0).random(self.bits.shape)

    def error_rises(self) -> np.ndarray:
        """Return by how much the squared error of a standardised row rises without each feature.

        With r the residual, taking v away leaves r + v: the rise is |v|^2 + 2 <r, v>, exact for
        one feature removed alone.

        Returns:
            (n, h) float32; of features that are off it means nothing.
        """
        directions = self._directions
        residual = (self.hidden - self._decoded(self.bits)) / self.scale
        rises: np.ndarray = np.square(directions).sum(axis=1) + 2 * residual @ directions.T
        return rises

    def without(self, order: Order, count: int) -> np.ndarray:
        """Return (n, d) float32, the rows decoded without their first `count` features on."""
        if count == 0:
            return self._decoded(self.bits)
        scores = np.where(self.bits, self.scores(order), -np.inf)
        count = min(count, self.codec.n_bits_)
        first = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        left = self.bits.copy()
        np.put_along_axis(left, first, False, axis=1)
        return self._decoded(left)

    def _decoded(self, bits: np.ndarray) -> np.ndarray:
        return self.codec.decode(pack(bits))

    @functools.cached_property
    def _directions(self) -> np.ndarray:
        """(h, d) decoder rows in standardised coordinates."""
        directions = feature_directions(self.codec, range(self.codec.n_bits_))
        scaled: np.ndarray = directions / self.scale
        return scaled


class Removal:
    """Replacements for `splice` that share the codes of the rows they are given in turn.

    Args:
        codec: a fitted codec without side bytes.
        scale: (d,) the units of lengths.
    """

    def __init__(self, codec: BitCodec, *, scale: np.ndarray) -> None:
        self._codec, self._scale = codec, scale
        self._known: tuple[bytes, RowOrders] | None = None

    def replacement(self, order: Order, count: int) -> Any:
        """Return a map of (n, d) states to those decoded without so many of their features."""

        def replace(hidden: np.ndarray) -> np.ndarray:
            return self._orders(hidden).without(order, count)

        return replace

    def _orders(self, hidden: np.ndarray) -> RowOrders:
        key = hidden.tobytes()
        if self._known is None or self._known[0] != key:
            self._known = key, RowOrders.of(self._codec, hidden, scale=self._scale)
        return self._known[1]


def error_curves(orders: RowOrders, *, counts: Sequence[int]) -> dict[str, list[float]]:
    """Return the FVU of all rows by order and number of features removed."""
    curves: dict[str, list[float]] = {}
    for order in ORDERS:
        curves[order] = []
        for count in counts:
            meter = DistortionMeter(orders.hidden.mean(axis=0))
            meter.update(orders.hidden, orders.without(order, count))
            curves[order].append(float(meter.fvu))
    return curves


def rank_agreement(orders: RowOrders, documents: np.ndarray) -> dict[str, dict[str, float]]:
    """Compare each order with that of the exact rise of the error, among a row's features on.

    Args:
        orders: rows with at least two features on count.
        documents: (n,) the document of each row, the unit of the standard errors.

    Returns:
        By order the mean rank correlation (Spearman), the share of rows whose first feature is the
        one whose removal raises the error most, and that share by chance, one in the number on.
    """
    rises = orders.error_rises()
    result: dict[str, dict[str, float]] = {}
    for order in ORDERS:
        if order == "largest error rise":
            continue
        scores = orders.scores(order)
        rows = [
            _agreement(scores[row, on], rises[row, on])
            for row, on in enumerate(orders.bits)
            if on.sum() >= 2
        ]
        kept = documents[orders.bits.sum(axis=1) >= 2]
        table = np.array(rows)
        names = ("correlation", "first_is_most_important", "by_chance")
        result[order] = dict(zip(names, table.mean(axis=0).tolist(), strict=True)) | {
            "correlation_error": clustered_error(table[:, 0], kept),
            "first_is_most_important_error": clustered_error(table[:, 1], kept),
        }
    return result


def clustered_error(values: np.ndarray, clusters: np.ndarray) -> float:
    """Return the standard error of a mean whose values come in clusters.

    >>> clustered_error(np.array([0.0, 0.0, 2.0, 2.0]), np.array([1, 1, 2, 2]))
    1.0
    """
    names, index = np.unique(clusters, return_inverse=True)
    sums = np.bincount(index, weights=values - values.mean())
    correction = len(names) / max(len(names) - 1, 1)
    return float(np.sqrt(correction * np.square(sums).sum()) / len(values))


def _agreement(scores: np.ndarray, rises: np.ndarray) -> tuple[float, float, float]:
    first, most = scores.argmax(), rises.argmax()
    correlation = np.corrcoef(np.stack([_ranks(scores), _ranks(rises)]))[0, 1]
    return float(correlation), float(first == most), 1 / len(scores)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return (n,) ranks, equal values sharing theirs."""
    _, place, times = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (times.cumsum() - (times - 1) / 2)[place]
    return ranks
