"""Measuring what a coder does to hidden states, as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from bitcodec.coder import PackedCoder
from bitcodec.errors import ShapeError
from bitcodec.metrics import DistortionMeter, Evaluation
from bitcodec.statistics import BitStatistics


def evaluate_coder(
    coder: PackedCoder,
    batches: Iterable[torch.Tensor],
    *,
    encode: Callable[[torch.Tensor, int], np.ndarray],
    counted: BitStatistics,
) -> Evaluation:
    """Measure rate and distortion.

    Args:
        coder: decodes.
        batches: (b, d) float32, checked; read once.
        encode: maps a batch and the number of its first row to packed rows.
        counted: the statistics that an entropy coder knows.

    Raises:
        ShapeError: there are no rows.
        ValueRangeError: the rows do not differ.
    """
    meter = DistortionMeter(coder.mean)
    statistics = BitStatistics.empty(coder.n_bits)
    for batch in batches:
        packed = encode(batch, meter.n_rows)
        statistics.update(packed[:, : coder.code_bytes])
        meter.update(batch.cpu().numpy(), coder.decode(packed))
    if meter.n_rows == 0:
        raise ShapeError("hidden has no rows: pass at least two hidden states to evaluate")
    return figures(coder, meter, statistics, counted=counted)


def figures(
    coder: PackedCoder, meter: DistortionMeter, statistics: BitStatistics, *, counted: BitStatistics
) -> Evaluation:
    """Gather what was measured.

    Args:
        coder: of the codec.
        meter: has seen all rows, at least one.
        statistics: of their bits.
        counted: the statistics that an entropy coder knows.

    Raises:
        ValueRangeError: the rows do not differ.
    """
    code_bits = statistics.code_bits(counted)
    return Evaluation(
        n_rows=meter.n_rows,
        n_dims=len(coder.mean),
        n_bits=coder.n_bits,
        fvu=meter.fvu,
        fvu_total=meter.fvu_total,
        cosine=meter.cosine,
        l2_ratio=meter.l2_ratio,
        entropy_bits=statistics.entropy_bits,
        bytes_per_vector=float(coder.row_bytes),
        code_bits=code_bits,
        coded_bytes_per_vector=code_bits / 8 + (coder.row_bytes - coder.code_bytes),
        float16_bytes_per_vector=2.0 * len(coder.mean),
    )
