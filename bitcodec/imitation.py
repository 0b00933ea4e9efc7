"""Pulling the encoder towards codes that were found by search, so that one linear pass finds them.

Each bit is a logistic regression of the searched bit on the hidden state, which begins at the
encoder as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from bitcodec.model import BinaryAutoencoder
from bitcodec.parallel import take_from_first

MINIBATCH = 256
"""Rows of one step."""
LEARNING_RATE = 3e-3
"""Adam's largest rate; it decays linearly."""
SHARPNESS = 4.0
"""Scale of the logits at the start; the regression finds its own."""


def pull_encoder(
    model: BinaryAutoencoder,
    searched: Iterable[tuple[torch.Tensor, torch.Tensor]],
    *,
    n_rows: int,
) -> None:
    """Fit a one-stage encoder to given codes, in one pass.

    Args:
        model: its encoder is changed in place.
        searched: pairs of bits (n, h) and z (n, d), float32 on the model's device; several
            processes see the same, and go on with what the first one learned.
        n_rows: rows in all of them, for the decay of the rate.
    """
    weights = [model.encoder_weight, model.encoder_bias]
    with torch.no_grad():
        for weight in weights:
            weight.mul_(SHARPNESS)
    adam = torch.optim.Adam(weights, lr=LEARNING_RATE, fused=True)
    n_seen = 0
    sample = model.encoder_weight.new_empty(0, model.n_dims)
    for bits, standardised in searched:
        sample = sample if len(sample) else standardised
        for wanted, rows in zip(bits.split(MINIBATCH), standardised.split(MINIBATCH), strict=True):
            adam.param_groups[0]["lr"] = LEARNING_RATE * max(0.01, 1 - n_seen / n_rows)
            adam.zero_grad(set_to_none=True)
            with torch.enable_grad():
                loss = torch.nn.functional.binary_cross_entropy_with_logits(
                    model.logits(rows), wanted, reduction="sum"
                ) / len(rows)
            loss.backward()
            adam.step()
            n_seen += len(rows)
    with torch.no_grad():  # back to logits of unit spread, which changes no code
        spread = model.logits(sample).std(dim=0).clamp(min=1e-6)
        model.encoder_weight.div_(spread[:, None])
        model.encoder_bias.div_(spread)
    take_from_first(weight.data for weight in weights)
