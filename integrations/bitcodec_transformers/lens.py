"""What directions in a model's states say of its next token: the logit lens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from bitcodec.errors import ShapeError, ValueRangeError
from bitcodec_transformers.causal import check_causal
from bitcodec_transformers.models import LanguageModel

_NORM_NAMES = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
_BLOCK_DIRECTIONS = 256
"""Directions whose logits over the whole vocabulary are in memory at once."""


@dataclass(frozen=True, eq=False)
class LogitLens:
    """The tokens that directions make more and less likely."""

    promoted: np.ndarray
    """(n, k) int64, token ids of the largest changes, the largest first."""
    promoted_logits: np.ndarray
    """(n, k) float32, their changes."""
    suppressed: np.ndarray
    """(n, k) int64, token ids of the smallest changes, the smallest first."""
    suppressed_logits: np.ndarray
    """(n, k) float32, their changes."""
    gain: bool
    """Whether the gain of a final norm was applied; a model without such a norm has none."""


def logit_lens(
    model: LanguageModel, directions: np.ndarray | torch.Tensor, *, k: int = 10
) -> LogitLens:
    """Multiply directions in the residual stream by the unembedding.

    With g the gain of the final norm and U the rows of the unembedding, a direction v changes the
    logits by (g v) Uᵀ; of this the mean over the vocabulary is taken away, because a softmax does
    not see it. A final LayerNorm also takes the mean of v away. What the norm divides by depends
    on the row: divided by the root mean square of the row's final state these numbers are logits,
    as far as the layers between pass the direction on unchanged (nostalgebraist, "interpreting
    GPT: the logit lens", 2020).

    Args:
        model: a causal language model with its head.
        directions: (n, d) floats in the units of the hidden states. A codec's decoder rows live
            in standardised coordinates: `codec.query_weights(np.eye(d)).weights.T` has its scale
            in it.
        k: tokens to name at either end.

    Returns:
        Tokens and changes, a line a direction.

    Raises:
        ConfigError: the model has no language-model head.
        ShapeError: the directions are not (n, d).
        ValueRangeError: k is not between 1 and the size of the vocabulary, or a value is not
            finite.
    """
    check_causal(model)
    unembedding = model.model.get_output_embeddings().weight.detach()
    rows = torch.as_tensor(directions).to(unembedding.device, torch.float32)
    _check(rows, n_dims=unembedding.shape[1], k=k, n_tokens=len(unembedding))
    norm = final_norm(model.model)
    lens = _Ends(n=len(rows), k=k)
    for start in range(0, len(rows), _BLOCK_DIRECTIONS):
        block = _through_norm(rows[start : start + _BLOCK_DIRECTIONS], norm)
        lens.fill(start, block @ unembedding.float().T)
    return LogitLens(
        lens.top, lens.top_logits, lens.bottom, lens.bottom_logits, gain=norm is not None
    )


def logit_changes(
    model: LanguageModel, directions: np.ndarray | torch.Tensor, token_ids: np.ndarray
) -> np.ndarray:
    """Return what directions do to the logits of some tokens, as `logit_lens` has it.

    Args:
        model: a causal language model with its head.
        directions: (n, d) floats, as in `logit_lens`.
        token_ids: (t,) integers.

    Returns:
        (n, t) float32 changes of the logits, less the change's mean over the whole vocabulary.

    Raises:
        As `logit_lens`; ValueRangeError too for a token that the model does not have.
    """
    check_causal(model)
    unembedding = model.model.get_output_embeddings().weight.detach().float()
    rows = torch.as_tensor(directions).to(unembedding.device, torch.float32)
    _check(rows, n_dims=unembedding.shape[1], k=1, n_tokens=len(unembedding))
    tokens = torch.as_tensor(token_ids, dtype=torch.int64, device=unembedding.device)
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < len(unembedding):
        raise ValueRangeError(
            f"token_ids must be between 0 and {len(unembedding) - 1}, got {int(tokens.min())} to "
            f"{int(tokens.max())}"
        )
    chosen = unembedding[tokens] - unembedding.mean(dim=0)
    changes: np.ndarray = (_through_norm(rows, final_norm(model.model)) @ chosen.T).cpu().numpy()
    return changes


def final_norm(model: Any) -> nn.Module | None:
    """Find the norm between a model's last block and its head, None where there is none.

    Args:
        model: a transformers model with a language-model head.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    for name in _NORM_NAMES:
        norm = getattr(decoder, name, None)
        if norm is not None and getattr(norm, "weight", None) is not None:
            return norm if isinstance(norm, nn.Module) else None
    return None


def _through_norm(directions: torch.Tensor, norm: nn.Module | None) -> torch.Tensor:
    """Apply what of a norm is linear: its centring, if it has one, and its gain."""
    if norm is None:
        return directions
    if isinstance(norm, nn.LayerNorm):
        directions = directions - directions.mean(dim=1, keepdim=True)
    gain = norm.weight
    assert isinstance(gain, torch.Tensor)
    return directions * gain.detach().float()


class _Ends:
    """The largest and smallest changes of every direction, filled in block by block."""

    def __init__(self, *, n: int, k: int) -> None:
        self.top, self.bottom = np.empty((n, k), np.int64), np.empty((n, k), np.int64)
        self.top_logits, self.bottom_logits = np.empty((2, n, k), np.float32)

    def fill(self, start: int, logits: torch.Tensor) -> None:
        """Take the logits (b, v) of the directions from `start` on."""
        logits = logits - logits.mean(dim=1, keepdim=True)
        here = slice(start, start + len(logits))
        top = logits.topk(self.top.shape[1], dim=1)
        bottom = logits.topk(self.top.shape[1], dim=1, largest=False)
        self.top[here], self.top_logits[here] = top.indices.cpu(), top.values.cpu()
        self.bottom[here], self.bottom_logits[here] = bottom.indices.cpu(), bottom.values.cpu()


def _check(rows: torch.Tensor, *, n_dims: int, k: int, n_tokens: int) -> None:
    if rows.ndim != 2 or rows.shape[1] != n_dims:
        raise ShapeError(
            f"directions must be (n, {n_dims}), the width of the model's states, got "
            f"{tuple(rows.shape)}"
        )
    if not 1 <= k <= n_tokens:
        raise ValueRangeError(f"k must be between 1 and {n_tokens} tokens, got {k}")
    if not torch.isfinite(rows).all():
        raise ValueRangeError("directions must be finite: a value is NaN or infinite")
