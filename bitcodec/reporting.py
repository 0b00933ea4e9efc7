"""Measuring a report: one pass over the hidden states, then counts over their codes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from bitcodec.bits import unpack
from bitcodec.coactivation import phi_coefficient
from bitcodec.coder import PackedCoder
from bitcodec.entropy_tree import entropy_tree
from bitcodec.errors import ShapeError
from bitcodec.evaluation import figures
from bitcodec.feature_reports import Measured, feature_reports
from bitcodec.groups import GroupStatistics
from bitcodec.histograms import distributions
from bitcodec.model import BinaryAutoencoder
from bitcodec.pairs import StrongestPairs, strongest_pairs
from bitcodec.passages import TextRows
from bitcodec.range_coding import compress, learn_context
from bitcodec.report import (
    CodecFacts,
    Entropy,
    Feature,
    Pair,
    Passage,
    PositionGroup,
    Report,
    ReportSettings,
    Rows,
    SurprisingBit,
    WorstRow,
)
from bitcodec.row_meter import RowMeter
from bitcodec.row_texts import RowTexts, check_aligned
from bitcodec.statistics import BitStatistics, burstiness, row_prices, self_information

ARCHIVE_ROWS = 2**17
"""Rows that an archive's context table is learned on."""
_PARTNERS = 16
"""Partners of each feature among which the tree and the strongest pairs are sought."""


@dataclass(frozen=True, eq=False)
class Subject:
    """The codec that is reported on."""

    model: BinaryAutoencoder
    """The autoencoder."""
    coder: PackedCoder
    """Its coder."""
    counted: BitStatistics
    """Counts of the bits on the rows of its fit."""
    facts: CodecFacts
    """What the report says of it."""


def measure_report(
    subject: Subject,
    batches: Iterable[tuple[torch.Tensor, np.ndarray]],
    *,
    texts: RowTexts | None,
    settings: ReportSettings,
    on_rows: Callable[[int], None] | None = None,
) -> Report:
    """Measure a report.

    Args:
        subject: the codec.
        batches: (b, d) float32 hidden states, checked, with their (b, row_bytes) codes; read once.
        texts: the origin of the rows.
        settings: how to measure.
        on_rows: called with the number of rows done after each batch.

    Raises:
        ShapeError: there are no rows, or not as many as in `texts`.
        ValueRangeError: the rows do not differ.
    """
    meter = RowMeter(
        subject.model, subject.coder, n_contexts=settings.n_contexts, seed=settings.seed
    )
    for hidden, packed in batches:
        meter.update(hidden, packed)
        if on_rows is not None:
            on_rows(meter.n_rows)
    if meter.n_rows == 0:
        raise ShapeError("hidden has no rows: pass at least two hidden states to report on")
    if texts is not None:
        check_aligned(texts, meter.n_rows)
    return _assemble(subject, meter, texts, settings)


def _assemble(
    subject: Subject, meter: RowMeter, texts: RowTexts | None, settings: ReportSettings
) -> Report:
    codes, n_bits = meter.codes, subject.model.n_bits
    statistics = BitStatistics.empty(n_bits).update(codes)
    prices = row_prices(codes, statistics.activity)
    n_on = np.bitwise_count(codes).sum(axis=1, dtype=np.int64)
    evaluation = figures(subject.coder, meter.distortion, statistics, counted=subject.counted)
    pairs = strongest_pairs(
        codes, n_bits=n_bits, k=max(_PARTNERS, settings.n_neighbours), min_count=settings.min_count
    )
    measured = Measured(
        meter=meter,
        codes=codes,
        statistics=statistics,
        pairs=pairs,
        weight=subject.model.decoder_weight.detach().cpu().numpy(),
        rows=None if texts is None else TextRows(texts, width=settings.width),
        settings=settings,
    )
    features, errors = feature_reports(measured), meter.errors
    worst = np.argsort(-errors, kind="stable")[: settings.n_worst]
    shown = _shown(features) | set(worst.tolist())
    rows, passages = _rows(measured, shown, prices=prices, errors=errors, n_on=n_on)
    return Report(
        codec=subject.facts,
        settings=settings,
        evaluation=evaluation,
        fvu_per_dimension=tuple(meter.distortion.fvu_per_dimension().tolist()),
        entropy=_entropy(
            statistics,
            pairs,
            prices=prices,
            coder_bits=evaluation.code_bits,
            archive_bits=_archive_bits(codes, n_bits=n_bits) if settings.measure_archive else None,
        ),
        distributions=distributions(statistics, prices=prices, n_on=n_on, errors=errors),
        positions=_positions(measured),
        features=features,
        pairs=_pairs(pairs, settings.n_pairs),
        worst_rows=tuple(_worst_row(measured, int(row)) for row in worst),
        rows=rows,
        passages=passages,
    )


def _entropy(
    statistics: BitStatistics,
    pairs: StrongestPairs,
    *,
    prices: np.ndarray,
    coder_bits: float,
    archive_bits: float | None,
) -> Entropy:
    tree = entropy_tree(pairs)
    return Entropy(
        sum_bits=statistics.entropy_bits,
        sum_bits_corrected=float(statistics.entropies(correction="miller-madow").sum()),
        sum_standard_error=float(prices.std()) / math.sqrt(len(prices)),
        tree_bits=tree.entropy_bits,
        n_tree_edges=len(tree.edges),
        coder_bits=coder_bits,
        archive_bits=archive_bits,
    )


def _archive_bits(codes: np.ndarray, *, n_bits: int) -> float:
    """Return the bits a row takes in an archive with a context table of its own."""
    table = learn_context(codes[:ARCHIVE_ROWS], n_bits=n_bits)
    return 8 * len(compress(codes, table)) / len(codes)


def _positions(measured: Measured) -> tuple[PositionGroup, ...]:
    if measured.rows is None:
        return ()
    position = measured.rows.columns["position"]
    doubling = np.frexp(position)[
        1
    ]  # 0, 1, 2-3, 4-7, ...: each group has its number of binary digits
    counted = GroupStatistics.empty(measured.statistics.n_bits).update(measured.codes, doubling)
    return tuple(
        PositionGroup(
            first=2 ** (int(digits) - 1) if digits else 0,
            last=2 ** int(digits) - 1,
            n_rows=(group := counted.groups[digits]).n_rows,
            sum_bits=float(group.entropies(correction="miller-madow").sum()),
            error=float(measured.meter.errors[doubling == digits].mean()),
        )
        for digits in np.unique(doubling).tolist()
    )


def _pairs(pairs: StrongestPairs, n_pairs: int) -> tuple[Pair, ...]:
    edges, bits, both = pairs.edges()
    edges, both = edges[:n_pairs], both[:n_pairs]
    counts = pairs.statistics.counts
    phi = phi_coefficient(pairs.statistics.n_rows, counts[edges[:, 0]], counts[edges[:, 1]], both)
    columns = (edges[:, 0], edges[:, 1], both, phi, bits[:n_pairs])
    return tuple(map(Pair, *(column.tolist() for column in columns)))


def _worst_row(measured: Measured, row: int) -> WorstRow:
    activity = measured.statistics.activity
    bits = unpack(measured.codes[row : row + 1], n_bits=len(activity))
    bursts, prices = burstiness(bits, activity)[0], self_information(bits, activity)[0]
    order = np.argsort(-bursts, kind="stable")[: measured.settings.n_neighbours]
    return WorstRow(
        row=row,
        error=float(measured.meter.errors[row]),
        cosine=float(measured.meter.cosines[row]),
        surprising=tuple(
            SurprisingBit(int(j), bool(bits[0, j]), float(prices[j]), float(bursts[j]))
            for j in order
            if np.isfinite(bursts[j])
        ),
    )


def _shown(features: Iterable[Feature]) -> set[int]:
    return {
        context.row
        for feature in features
        for context in (*feature.top, *feature.random, *feature.counter)
    }


def _rows(
    measured: Measured,
    shown: set[int],
    *,
    prices: np.ndarray,
    errors: np.ndarray,
    n_on: np.ndarray,
) -> tuple[Rows, tuple[Passage, ...]]:
    """Return the rows that are shown and those in the texts around them."""
    passages: tuple[Passage, ...] = ()
    if measured.rows is None:
        row, places = np.array(sorted(shown), dtype=np.int64), [()] * 5
    else:
        passages, table = measured.rows.passages(shown)
        row = table[:, 0]
        texts = (measured.rows.columns[name][row] for name in ("position", "token_id"))
        places = [tuple(column.tolist()) for column in (*table[:, 1:].T, *texts)]
    own = (row, prices[row], errors[row], n_on[row])
    return Rows(*(tuple(column.tolist()) for column in own), *places), passages
