"""The step function and the gradients that stand in for its derivative.

The step is 1 where a logit is >= 0 (arXiv 2509.20997, section 3). Its derivative is 0 almost
everywhere, so training multiplies the incoming gradient by a surrogate instead:

- `sigmoid`: s(1 - s) / T with s = sigmoid(logit / T), the derivative at the saved input;
- `identity`: 1, the straight-through estimator;
- `published`: what the paper's code computes, g * (1 - g) of the incoming gradient g itself, which
  for the small gradients of training is nearly `identity`. For comparison only.
"""

from __future__ import annotations

from typing import Any

import torch

from bitcodec.config import Surrogate


def step(
    logits: torch.Tensor, *, surrogate: Surrogate = "sigmoid", temperature: float = 1.0
) -> torch.Tensor:
    """Threshold logits at 0, with a surrogate gradient.

    Args:
        logits: (n, h) float.
        surrogate: how gradients pass, see the module's docstring.
        temperature: T of the sigmoid surrogate, in units of the logits.

    Returns:
        (n, h) of the logits' dtype, values 0 or 1; step(0) = 1.
    """
    bits: torch.Tensor = _Step.apply(logits, surrogate, temperature)  # type: ignore[no-untyped-call]
    return bits


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, surrogate: Surrogate, temperature: float
    ) -> torch.Tensor:
        ctx.surrogate, ctx.temperature = surrogate, temperature
        ctx.save_for_backward(logits)
        return (logits >= 0).to(logits.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[torch.Tensor, None, None]:
        gradient: torch.Tensor = gradients[0]
        if ctx.surrogate == "identity":
            return gradient, None, None
        if ctx.surrogate == "published":
            return gradient * (1 - gradient), None, None
        (logits,) = ctx.saved_tensors
        sigmoid = (logits / ctx.temperature).sigmoid_()
        # One pass over memory for g * s * (1 - s), where writing it out takes three.
        slope = torch.ops.aten.sigmoid_backward(gradient, sigmoid)
        return slope.div_(ctx.temperature), None, None
