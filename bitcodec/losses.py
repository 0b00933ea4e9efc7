"""The terms of the training loss, each a function of one minibatch.

L = fvu + beta * entropy / d + gamma * covariance / h^2. With z standardised to unit variance the
weights do not depend on the width or the scale of the data. Where several processes train together,
entropy and covariance are those of the whole minibatch.
"""

from __future__ import annotations

from typing import Any

import torch

from bitcodec.covariance import AbsoluteCovariance
from bitcodec.parallel import mean_over_processes, n_processes


def fraction_of_variance_unexplained(
    standardised: torch.Tensor, reconstructed: torch.Tensor
) -> torch.Tensor:
    """Mean squared error of data that has unit variance in every dimension.

    Args:
        standardised: (n, d) float, mean 0 and variance 1 per dimension over the whole data.
        reconstructed: (n, d) float.

    Returns:
        () float; predicting 0 everywhere gives 1 in expectation.
    """
    return torch.nn.functional.mse_loss(reconstructed, standardised)


def entropy(bits: torch.Tensor) -> torch.Tensor:
    """Sum over the bits of the entropy of their minibatch mean, in bits.

    H = sum_j H2(p_j) with p_j the mean of bit j over the minibatch (arXiv 2509.20997, section 3).

    Args:
        bits: (n, h) float, values 0 or 1.

    Returns:
        () float in [0, h], exactly 0 where every bit is constant. The derivative log2((1 - p)/p)
        is taken with p at least half a count away from 0 and 1, where it would be infinite.
    """
    precise = torch.promote_types(bits.dtype, torch.float32)
    # The backward of a mean would divide (n, h) numbers, that of a sum is a view.
    activity = mean_over_processes(bits.sum(dim=0, dtype=precise) / len(bits))
    margin = 0.5 / (len(bits) * n_processes())
    terms: torch.Tensor = _BinaryEntropy.apply(activity, margin)  # type: ignore[no-untyped-call]
    return terms.sum()


def covariance(
    bits: torch.Tensor,
    *,
    n_columns: int | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Sum over pairs of different bits of the absolute covariance over the minibatch.

    C = sum over i != j of |cov(b_i, b_j)|, exactly or from a random sample of columns j without
    replacement, scaled by h / n_columns: the mean over samples is the exact value, and the cost is
    n * h * n_columns instead of n * h^2.

    Args:
        bits: (n, h) float, values 0 or 1.
        n_columns: columns j to sample; None, or h and above, for the exact sum.
        generator: randomness for the sample, on the CPU.

    Returns:
        () float, at least 0.
    """
    columns = draw_columns(bits.shape[1], n_columns=n_columns, generator=generator)
    return covariance_with(bits, None if columns is None else columns.to(bits.device))


def draw_columns(
    n_bits: int, *, n_columns: int | None, generator: torch.Generator | None = None
) -> torch.Tensor | None:
    """Draw columns for `covariance_with`: (n_columns,) int64 on the CPU, None for all of them."""
    if n_columns is None or n_columns >= n_bits:
        return None
    return torch.randperm(n_bits, generator=generator)[:n_columns]


def covariance_with(bits: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
    """Return what `covariance` does, () float, for columns that were drawn before.

    Args:
        bits: (n, h) float, values 0 or 1.
        columns: (m,) int64 on the device of the bits; None for all.
    """
    total: torch.Tensor = AbsoluteCovariance.apply(bits, columns)  # type: ignore[no-untyped-call]
    scale = 1.0 if columns is None else bits.shape[1] / len(columns)
    return scale * total


class _BinaryEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, activity: torch.Tensor, margin: float) -> torch.Tensor:
        ctx.margin = margin
        ctx.save_for_backward(activity)
        return _entropy_of(activity) + _entropy_of(1 - activity)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[torch.Tensor, None]:
        (activity,) = ctx.saved_tensors
        inside = activity.clamp(ctx.margin, 1 - ctx.margin)
        return gradients[0] * torch.log2((1 - inside) / inside), None


def _entropy_of(activity: torch.Tensor) -> torch.Tensor:
    return -torch.xlogy(activity, activity) / torch.log(torch.tensor(2.0))


def published_entropy(bits: torch.Tensor) -> torch.Tensor:
    """Sum of the bits' entropies as the code of arXiv 2509.20997 computes it.

    It adds 1e-10 inside the logarithms; the paper's formula, and `entropy`, do not.

    Args:
        bits: (n, h) float, values 0 or 1.
    """
    p = bits.float().mean(dim=0)
    terms = p * torch.log2(p + 1e-10) + (1 - p) * torch.log2(1 - p + 1e-10)
    return -terms.sum()


def published_covariance(bits: torch.Tensor) -> torch.Tensor:
    """Sum of absolute covariances as the code of arXiv 2509.20997 computes it.

    It divides by n - 1 where `covariance` divides by n, and takes the whole (h, h) matrix.

    Args:
        bits: (n, h) float, values 0 or 1.
    """
    rows, n_rows = bits.float().T, len(bits)
    centred = rows - rows.sum(dim=1, keepdim=True) / n_rows
    # torch.cov computes this, too, but it waits for the device to compare the divisor with 0.
    matrix = centred @ centred.T / (n_rows - 1)
    return matrix.abs().sum() - matrix.diagonal().abs().sum()
