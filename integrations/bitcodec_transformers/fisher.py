"""How much a language model minds errors of a layer's states: the Fisher matrix."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from bitcodec.errors import ValueRangeError
from bitcodec_transformers.causal import OpenBlock, TokenProgress
from bitcodec_transformers.forward import PaddedBatch
from bitcodec_transformers.manifest import HarvestSettings
from bitcodec_transformers.models import LanguageModel


def sensitivity(
    documents: Iterable[Any],
    *,
    model: LanguageModel,
    layer: int,
    context_length: int = 256,
    drop_first: int = 1,
    massive: float = 10.0,
    median_norm: float | None = None,
    batch_tokens: int = 512,
    max_tokens: int | None = None,
    seed: int = 0,
    progress: Callable[[TokenProgress], None] | None = None,
) -> np.ndarray:
    """Measure how the model's predictions change with the states of a layer.

    The mean over rows of g gᵀ, where g is the gradient, with respect to the row, of the summed
    cross-entropy of the window's predictions. The targets are drawn from the model's own
    predictions, at every position: with them the mean is the Fisher information matrix F of the
    predictions, which the text's own tokens would only stand in for (Kunstner, Balles, Hennig,
    arXiv 1905.12558). For a small error ε of one row, KL(original || spliced), summed over the
    window's predictions, is about ½ εᵀ F ε.

    The layers after the block compute and differentiate in the model's dtype; the cross-entropy
    is taken in float32, and products of gradients are summed in float64. On
    SmolLM2-135M at layer 15 a gradient in bfloat16 is off by 4% of its length (median over rows;
    the trace of F by .2%); in float16 small gradients may become zero.

    Memory holds the activations after the block and some float32 copies of a batch's logits.

    Args:
        documents: as for `harvest`.
        model: a causal language model with its head.
        layer: the block, from 0.
        context_length: tokens per window, special tokens included.
        drop_first: rows at window positions below this do not count.
        massive: a row is massive, and does not count, when its norm exceeds this many times the
            median.
        median_norm: the layer's median norm; by default as in `splice`.
        batch_tokens: tokens the model reads at once, padding included.
        max_tokens: stop after so many next tokens of the text, as in `splice`.
        seed: of the drawn targets, which also depend on `batch_tokens`.
        progress: called after every batch.

    Returns:
        (d, d) float64, positive semidefinite; in squared nats per squared unit of the states.

    Raises:
        ConfigError: a setting is out of range, the layer is beyond the model, or the model has no
            language-model head or is in training mode.
        ValueRangeError: there is no row to count, or the model gives NaN or infinity.
    """
    settings = HarvestSettings(
        layers=(layer,),
        context_length=context_length,
        drop_first=drop_first,
        massive=massive,
        batch_tokens=batch_tokens,
    )
    block = OpenBlock(model, settings, median_norm=median_norm)
    generator = torch.Generator(model.model.device).manual_seed(seed)
    total = torch.zeros((model.n_dims, model.n_dims), dtype=torch.float64)
    n_rows = 0
    with _frozen(model.model):
        for batch in block.batches(documents, max_tokens=max_tokens, progress=progress):
            gradients = _gradients(block, batch, generator)
            total += gradients.T @ gradients
            n_rows += len(gradients)
    _check_total(total, n_rows, layer=layer)
    return (total / n_rows).numpy()


def _gradients(block: OpenBlock, batch: PaddedBatch, generator: torch.Generator) -> torch.Tensor:
    """Give the gradients of a batch's free rows, (n, d) float64 on the CPU."""
    leaves: list[torch.Tensor] = []

    def watch(states: torch.Tensor) -> torch.Tensor:
        leaves.append(states.detach().requires_grad_())
        return leaves[0].clone()  # the next block may write into its input, not into a leaf

    with torch.enable_grad():
        logits = block.logits(batch, watch)
        predictions = logits[batch.mask.bool().to(logits.device)].float()
        probabilities = predictions.detach().softmax(dim=1)
        targets = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        loss = nn.functional.cross_entropy(predictions, targets, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaves)
    return gradient[block.free_rows(leaves[0], batch)].cpu().double()


@contextlib.contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Let no weight ask for gradients, so that the layers before the block record nothing."""
    asking = [weight for weight in network.parameters() if weight.requires_grad]
    try:
        for weight in asking:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in asking:
            weight.requires_grad_(True)


def _check_total(total: torch.Tensor, n_rows: int, *, layer: int) -> None:
    if n_rows == 0:
        raise ValueRangeError(
            f"layer {layer}: every row is massive against the median norm: give more text, or a "
            "larger massive"
        )
    if not torch.isfinite(total).all():
        raise ValueRangeError(
            f"layer {layer}: a gradient holds NaN or infinity: load the model with "
            "dtype='bfloat16' or 'float32'"
        )
