"""A report's features, put together from what was counted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitcodec.firing_texts import FiringTexts, TokenIndex, firing_rows, told_by
from bitcodec.pairs import StrongestPairs, largest_columns
from bitcodec.passages import TextRows
from bitcodec.report import ReportSettings
from bitcodec.report_features import Coactive, Context, CounterExample, Feature, Flag, Nearest
from bitcodec.row_meter import RowMeter
from bitcodec.statistics import BitStatistics, log2_of

MIN_FIRINGS = 20
"""Rows in which a feature must be on, and off, for what tells it to be said: shares of fewer are
noise."""
_BLOCK = 512


@dataclass(frozen=True, eq=False)
class Measured:
    """What the features of a report are made from."""

    meter: RowMeter
    """Has seen all rows."""
    codes: np.ndarray
    """(n, ceil(h / 8)) uint8, the rows' bits."""
    statistics: BitStatistics
    """Counts of these rows' bits."""
    pairs: StrongestPairs
    """Partners of every feature."""
    weight: np.ndarray
    """(h, d) float32, decoder rows in units of the codec's scales."""
    rows: TextRows | None
    """The rows in their texts."""
    settings: ReportSettings
    """Of the report."""


def feature_reports(measured: Measured) -> tuple[Feature, ...]:
    """Put together all features, in order."""
    near, cosines = nearest_rows(measured.weight, k=measured.settings.n_neighbours)
    parts = zip(_numbers(measured), _texts(measured), _told(measured), strict=True)
    features = []
    for feature, (numbers, texts, told) in enumerate(parts):
        nearest = tuple(map(Nearest, near[feature].tolist(), cosines[feature].tolist()))
        coactive = _coactive(measured, feature)
        features.append(
            Feature(
                feature=feature,
                **numbers,
                nearest=nearest,
                coactive=coactive,
                flags=_flags(numbers["activity"], nearest, coactive, measured.settings),
                **_text_fields(texts),
                **told,
                top=_contexts(measured, feature, measured.meter.top.of(feature)),
                random=_contexts(measured, feature, measured.meter.random.of(feature)),
                counter=_counter_examples(measured, feature, texts),
            )
        )
    return tuple(features)


def _numbers(measured: Measured) -> Iterator[dict[str, Any]]:
    """Yield the fields of each feature that follow from its count and its decoder row."""
    statistics = measured.statistics
    columns = {
        "n_on": statistics.counts,
        "activity": statistics.activity,
        "activity_standard_error": statistics.activity_standard_errors,
        "entropy_bits": statistics.entropies(),
        "entropy_standard_error": statistics.entropy_standard_errors,
        "mean_burstiness": statistics.mean_burstiness,
        "firing_burstiness": log2_of(1 - statistics.activity),
        "price_on_bits": 0 - log2_of(statistics.activity),
        "decoder_norm": np.linalg.norm(measured.weight.astype(np.float64), axis=1),
    }
    for numbers in zip(*(column.tolist() for column in columns.values()), strict=True):
        yield dict(zip(columns, numbers, strict=True))


def _text_fields(texts: FiringTexts | None) -> dict[str, Any]:
    """Return the fields of a feature that tell of its tokens and documents."""
    return {
        "activity_clustered_error": texts.clustered_error if texts else None,
        "tokens": texts.tokens if texts else (),
        "n_tokens": texts.n_tokens if texts else None,
        "token_entropy_bits": texts.token_entropy_bits if texts else None,
        "n_documents": texts.n_documents if texts else None,
        "document_entropy_bits": texts.document_entropy_bits if texts else None,
    }


def nearest_rows(weight: np.ndarray, *, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find for each row the k others of largest cosine, a block of rows at a time.

    Args:
        weight: (h, d) float; the cosine with a row of zeros is 0.
        k: neighbours, at most h - 1 are found.

    Returns:
        (h, k) int64 and (h, k) float64, largest first.
    """
    norms = np.linalg.norm(weight, axis=1, keepdims=True)
    unit = np.divide(weight, norms, out=np.zeros_like(weight), where=norms > 0)
    k = min(k, len(weight) - 1)
    near, cosines = np.empty((len(weight), k), np.int64), np.empty((len(weight), k))
    for start in range(0, len(weight), _BLOCK):
        block = slice(start, start + _BLOCK)
        product = unit[block] @ unit.T
        product[np.arange(len(product)), np.arange(start, start + len(product))] = -np.inf
        near[block] = largest_columns(product, k)
        cosines[block] = np.take_along_axis(product, near[block], axis=1).clip(-1, 1)
    return near, cosines


def _told(measured: Measured) -> Iterator[dict[str, Any]]:
    """Yield what the token and what the document tells of each feature."""
    n_bits, rows = measured.statistics.n_bits, measured.rows
    shares = np.full((2, n_bits), np.nan)
    if rows is not None:
        least = measured.settings.min_token_count
        for index, name in enumerate(("token_id", "document")):
            keys = rows.columns[name]
            shares[index] = told_by(keys, measured.codes, n_bits=n_bits, min_rows=least)
    on, n_rows = measured.statistics.counts, measured.statistics.n_rows
    shares[:, np.minimum(on, n_rows - on) < MIN_FIRINGS] = np.nan
    for token, document in shares.T.tolist():
        yield {
            "token_share": None if math.isnan(token) else token,
            "document_share": None if math.isnan(document) else document,
        }


def _texts(measured: Measured) -> Iterator[FiringTexts | None]:
    n_bits = measured.statistics.n_bits
    if measured.rows is None:
        yield from [None] * n_bits
        return
    index = TokenIndex(
        measured.rows,
        n_sampled=measured.settings.n_contexts // 2,
        seed=measured.settings.seed,
    )
    yield from map(index.describe, firing_rows(measured.codes, n_bits=n_bits))


def _coactive(measured: Measured, feature: int) -> tuple[Coactive, ...]:
    pairs = measured.pairs
    k = measured.settings.n_neighbours
    partners = zip(
        pairs.by_phi[feature, :k].tolist(),
        pairs.phi[feature, :k].tolist(),
        pairs.n_both[feature, :k].tolist(),
        strict=True,
    )
    return tuple(Coactive(*partner) for partner in partners if partner[0] >= 0)


def _flags(
    activity: float,
    nearest: Sequence[Nearest],
    coactive: Sequence[Coactive],
    settings: ReportSettings,
) -> tuple[Flag, ...]:
    alike = max([x.cosine for x in nearest] + [x.phi for x in coactive], default=0.0)
    said: dict[Flag, bool] = {
        "dead": activity == 0,
        "always_on": activity == 1,
        "dense": settings.dense_activity <= activity < 1,
        "duplicate": alike >= settings.duplicate_similarity,
    }
    return tuple(flag for flag, true in said.items() if true)


def _contexts(
    measured: Measured, feature: int, found: Sequence[tuple[int, float]]
) -> tuple[Context, ...]:
    return tuple(Context(row, margin, _on_around(measured, feature, row)) for row, margin in found)


def _counter_examples(
    measured: Measured, feature: int, texts: FiringTexts | None
) -> tuple[CounterExample, ...]:
    """Half of the same token, where there are any, the rest nearest to being on."""
    same = list(texts.without) if texts else []
    n_nearest = measured.settings.n_contexts - len(same)
    near = [item for item in measured.meter.nearest.of(feature) if item[0] not in same][:n_nearest]
    return tuple(
        [
            CounterExample(row, None, _on_around(measured, feature, row), "same_token")
            for row in same
        ]
        + [
            CounterExample(row, margin, _on_around(measured, feature, row), "nearest")
            for row, margin in near
        ]
    )


def _on_around(measured: Measured, feature: int, row: int) -> tuple[int, ...]:
    around = np.array([row]) if measured.rows is None else measured.rows.around(row)
    on = measured.codes[around, feature // 8] >> (feature % 8) & 1
    return tuple(around[on > 0].tolist())
