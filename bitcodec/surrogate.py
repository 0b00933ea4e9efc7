"""The step function and the gradients that stand in for its derivative.

The step is 1 where a logit is >= 0 (arXiv 2509.20997, section 3; its code steps at > 0). Its
derivative is 0 almost everywhere, so training multiplies the incoming gradient by a surrogate:

- `sigmoid`: s(1 - s) / T with s = sigmoid(logit / T), the derivative at the saved input;
- `clipped`: 1 / (2 T) where |logit| <= T, else 0: the derivative of a ramp of the same height
  (Hubara et al. 2016, binarised networks);
- `gumbel`: logistic noise of width T is added to the logit before the step, and the gradient is
  `sigmoid`'s there: straight-through Gumbel-sigmoid (Jang et al. 2017, Maddison et al. 2017), so
  that training sees samples of Bernoulli(sigmoid(logit / T)). Codes are made without noise;
- `identity`: 1, the straight-through estimator;
- `published`: what the paper's code computes, g * (1 - g) of the incoming gradient g itself, which
  for the small gradients of training is nearly `identity`. For comparison only.
"""

from __future__ import annotations

from typing import Any

import torch

from bitcodec.config import Surrogate
from bitcodec.parallel import n_processes, own_rows


def step(
    logits: torch.Tensor,
    *,
    surrogate: Surrogate = "sigmoid",
    temperature: float | torch.Tensor = 1.0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Threshold logits at 0, with a surrogate gradient.

    Args:
        logits: (n, h) float.
        surrogate: how gradients pass, see the module's docstring.
        temperature: T, in units of the logits; a number, or () float on their device.
        generator: of `gumbel`'s noise, on the logits' device.

    Returns:
        (n, h) of the logits' dtype, values 0 or 1; step(0) = 1.
    """
    if surrogate == "gumbel":
        logits = logits + temperature * _logistic(logits, generator)
        surrogate = "sigmoid"
    bits: torch.Tensor = _Step.apply(logits, surrogate, temperature)  # type: ignore[no-untyped-call]
    return bits


def slope(
    logits: torch.Tensor, *, surrogate: Surrogate, temperature: float | torch.Tensor
) -> torch.Tensor:
    """Return what each logit's gradient is multiplied by, where that does not depend on it.

    Args:
        logits: (n, h) float.
        surrogate: not "published", whose factor is the gradient's own.
        temperature: T, in units of the logits.

    Returns:
        (n, h) float, at least 0; for "gumbel" without its noise.
    """
    if surrogate == "identity":
        return torch.ones_like(logits)
    if surrogate == "clipped":
        return (logits.abs() <= temperature) / (2 * temperature)
    sigmoid = (logits / temperature).sigmoid()
    return sigmoid * (1 - sigmoid) / temperature


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, surrogate: Surrogate, temperature: float | torch.Tensor
    ) -> torch.Tensor:
        ctx.surrogate, ctx.temperature = surrogate, temperature
        ctx.save_for_backward(logits)
        return (logits >= 0).to(logits.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[torch.Tensor, None, None]:
        gradient: torch.Tensor = gradients[0]
        if ctx.surrogate == "published":
            return gradient * (1 - gradient), None, None
        (logits,) = ctx.saved_tensors
        if ctx.surrogate != "sigmoid":
            factor = slope(logits, surrogate=ctx.surrogate, temperature=ctx.temperature)
            return gradient * factor, None, None
        sigmoid = (logits / ctx.temperature).sigmoid_()
        # One pass over memory for g * s * (1 - s), where writing it out takes three.
        product = torch.ops.aten.sigmoid_backward(gradient, sigmoid)
        return product.div_(ctx.temperature), None, None


def _logistic(like: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    # Each process draws for the whole minibatch: so the noise of a row does not depend on how many
    # processes there are.
    shape = (len(like) * n_processes(), *like.shape[1:])
    uniform = torch.empty(shape, dtype=torch.float32, device=like.device).uniform_(
        generator=generator
    )
    return torch.logit(own_rows(uniform), eps=1e-6).to(like.dtype)
