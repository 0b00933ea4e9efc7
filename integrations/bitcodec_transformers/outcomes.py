"""What a splice found, and the sums over windows that it is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch

from bitcodec.errors import ValueRangeError
from bitcodec_transformers.forward import PaddedBatch

_CHUNK_VALUES = 2**24
"""Logits turned into float32 at once."""


@dataclass(frozen=True)
class SpliceOutcome:
    """What the model lost when the rows of a layer were replaced."""

    cross_entropy: float
    """Mean of -ln p of the next token, in nats."""
    cross_entropy_error: float | None
    """Standard error of the rise of the cross-entropy over the original run's, in nats: from the
    spread of the windows, taken as independent. None for a single window."""
    recovered: float
    """Share of the loss by zeros that is avoided: (zeros - this) / (zeros - original). 1 is as
    good as the original, 0 as bad as zeros; may lie outside."""
    kl: float
    """Mean Kullback-Leibler divergence KL(original || spliced) of the next token, in nats."""
    top1_agreement: float
    """Share of tokens for which both runs have the same likeliest next token."""


@dataclass(frozen=True)
class SpliceReport:
    """Replacements at one layer, compared with the original and with zeros on the same tokens."""

    layer: int
    """The block whose output was replaced, from 0."""
    n_windows: int
    """Windows read."""
    n_tokens: int
    """Next tokens predicted: all tokens of the windows but the first of each."""
    n_replaced: int
    """Rows replaced."""
    n_massive: int
    """Rows left as they are for their norm."""
    median_norm: float
    """The layer's median norm, from which massive rows were told."""
    cross_entropy_original: float
    """Mean of -ln p of the next token when nothing is replaced, in nats."""
    zeros: SpliceOutcome
    """What came of putting zeros in place of the rows."""
    outcomes: dict[str, SpliceOutcome]
    """What came of each replacement, by its name."""

    @property
    def cross_entropy_zero(self) -> float:
        """Mean of -ln p of the next token when the rows are zeros, in nats."""
        return self.zeros.cross_entropy


@dataclass(frozen=True, eq=False)
class WindowSums:
    """Sums over the predicted tokens of each window: five aligned columns, (w,) float64."""

    n_tokens: np.ndarray
    """The number of tokens."""
    loss: np.ndarray
    """-ln p of the next token, in nats."""
    loss_original: np.ndarray
    """The same in the original run."""
    kl: np.ndarray
    """KL(original || spliced), in nats."""
    agreed: np.ndarray
    """1 where both runs have the same likeliest token."""

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Put the windows of several batches one after another."""
        names = [entry.name for entry in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def compare(spliced: torch.Tensor, original: torch.Tensor, batch: PaddedBatch) -> WindowSums:
    """Sum up, window by window, how the predictions of two runs differ.

    Args:
        spliced: (b, t, vocabulary) logits of any float dtype; computed with in float32.
        original: as `spliced`.
        batch: the b windows that both runs read.

    Returns:
        b windows; the state at position k predicts token k + 1.
    """
    places = batch.mask[:, 1:].nonzero().to(spliced.device)
    token_ids = batch.token_ids.to(spliced.device)
    sums = torch.zeros((len(fields(WindowSums)), len(batch.mask)), dtype=torch.float64)
    with torch.inference_mode():
        for chunk in places.split(max(1, _CHUNK_VALUES // spliced.shape[-1])):
            window, position = chunk.unbind(1)
            pair = spliced[window, position], original[window, position]
            values = _token_values(*pair, token_ids[window, position + 1])
            sums.index_add_(1, window.cpu(), values.cpu().double())
    return WindowSums(*sums.numpy())


def report(
    sums: Mapping[str, WindowSums],
    zeros: WindowSums,
    *,
    layer: int,
    n_replaced: int,
    n_massive: int,
    median_norm: float,
) -> SpliceReport:
    """Turn sums into what the caller is told.

    Args:
        sums: for each replacement, the windows in the same order.
        zeros: those of the run with zeros.
        layer: the block.
        n_replaced: rows replaced.
        n_massive: rows left alone.
        median_norm: of the layer.

    Returns:
        The report.

    Raises:
        ValueRangeError: nothing was replaced, a loss is not finite, or zeros cost nothing.
    """
    n_tokens = float(zeros.n_tokens.sum())
    original = zeros.loss_original.sum() / n_tokens
    if n_replaced == 0:
        raise ValueRangeError(
            f"layer {layer}: no row was left to replace, {n_massive} are massive against the "
            f"median norm {median_norm:.4g}: give more text, or a larger massive"
        )
    _check_finite("the original run", original)
    outcomes = {name: _outcome(name, each, zeros=zeros) for name, each in sums.items()}
    return SpliceReport(
        layer=layer,
        n_windows=len(zeros.n_tokens),
        n_tokens=int(n_tokens),
        n_replaced=n_replaced,
        n_massive=n_massive,
        median_norm=median_norm,
        cross_entropy_original=float(original),
        zeros=_outcome("zeros", zeros, zeros=zeros),
        outcomes=outcomes,
    )


def _token_values(
    spliced: torch.Tensor, original: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Give the columns of `WindowSums`, (5, n) float32, of (n, vocabulary) logits."""
    ours, theirs = (torch.log_softmax(logits.float(), dim=-1) for logits in (spliced, original))
    # Before the softmax, whose rounding makes ties.
    agreed = spliced.argmax(dim=-1) == original.argmax(dim=-1)
    kl = (theirs.exp() * (theirs - ours)).sum(dim=-1)
    losses = (-part.gather(1, targets[:, None])[:, 0] for part in (ours, theirs))
    return torch.stack([torch.ones_like(kl), *losses, kl, agreed.float()])


def _outcome(name: str, sums: WindowSums, *, zeros: WindowSums) -> SpliceOutcome:
    n_tokens = sums.n_tokens.sum()
    cross_entropy, kl = sums.loss.sum() / n_tokens, sums.kl.sum() / n_tokens
    _check_finite(f"the run with {name!r}", cross_entropy + kl)
    by_zeros = (zeros.loss.sum() - zeros.loss_original.sum()) / n_tokens
    if by_zeros == 0:
        raise ValueRangeError(
            "zeros in place of the rows changed no prediction, so there is no loss to recover: "
            "give longer texts or a smaller drop_first"
        )
    return SpliceOutcome(
        cross_entropy=float(cross_entropy),
        cross_entropy_error=_error_of_rise(sums),
        recovered=float((zeros.loss.sum() - sums.loss.sum()) / n_tokens / by_zeros),
        kl=float(kl),
        top1_agreement=float(sums.agreed.sum() / n_tokens),
    )


def _error_of_rise(sums: WindowSums) -> float | None:
    """Give the standard error of a mean per token where windows, not tokens, are drawn.

    The linearised ratio estimator (Cochran, Sampling Techniques, 3rd ed., chapter 6); with
    windows of one length it is the usual standard error of the windows' means.
    """
    n_windows, n_tokens = len(sums.n_tokens), sums.n_tokens.sum()
    if n_windows < 2:
        return None
    rises = sums.loss - sums.loss_original
    deviations = rises - rises.sum() / n_tokens * sums.n_tokens
    spread = np.square(deviations).sum() * n_windows / (n_windows - 1)
    return float(np.sqrt(spread) / n_tokens)


def _check_finite(run: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueRangeError(
            f"the logits of {run} hold NaN or infinity: load the model with dtype='bfloat16' or "
            "'float32'"
        )
