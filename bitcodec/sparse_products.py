"""Products of bits that are mostly off, on the CPU: sums of the rows that they choose.

Where one bit in twenty is on, that takes a quarter of the time of a product of matrices.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from bitcodec import sparse_kernels
from bitcodec.errors import ShapeError
from bitcodec.threads import row_parts, run

DENSE_SHARE = 8
"""With more than one bit on in so many, a product of matrices is as fast."""
MIN_ROWS = 512
"""Rows that are worth a thread's while."""
_LOOP_DTYPES = (torch.float32, torch.float64)


def runs_loops(device: torch.device) -> bool:
    """Say whether this module's loops are for tensors of a device."""
    return device.type == "cpu"


def reconstruct(bits: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return b D + c, in the way that is fastest for these bits.

    Args:
        bits: (n, h) of 0 and 1, of the weights' dtype or, under autocast, of autocast's.
        weight: D, (h, d) floats.
        bias: c, (d,) of the same dtype.

    Returns:
        (n, d) of the weights' dtype; under autocast, where a product makes it, of autocast's.

    Raises:
        ShapeError: the shapes do not fit.
    """
    (_, n_bits), (n_weights, n_dims) = bits.shape, weight.shape
    if n_bits != n_weights or bias.shape != (n_dims,):
        raise ShapeError(
            f"bits, weight and bias must be (n, h), (h, d) and (d,), got {tuple(bits.shape)}, "
            f"{tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    if runs_loops(bits.device) and weight.dtype == bias.dtype and weight.dtype in _LOOP_DTYPES:
        small = as_bytes(bits)
        if np.count_nonzero(small.numpy()) * DENSE_SHARE <= small.numel():
            total: torch.Tensor = _SumOfRows.apply(bits, small, weight, bias)  # type: ignore[no-untyped-call]
            return total
    return torch.addmm(bias, bits, weight)


class _SumOfRows(torch.autograd.Function):
    """b D + c; summed in the weights' precision, whatever that of the bits."""

    @staticmethod
    def forward(
        ctx: Any, bits: torch.Tensor, small: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(small, weight)
        ctx.dtype = bits.dtype
        total = weight.new_empty(len(bits), weight.shape[1])
        out, on = total.numpy(), small.numpy()
        terms, first = weight.detach().numpy(), bias.detach().numpy()
        run(
            lambda part: sparse_kernels.sum_rows(on[part], terms, first, out[part]),
            parts_of(len(out)),
        )
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,), (small, weight) = gradients, ctx.saved_tensors
        of_bits = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_bits = gradient.to(ctx.dtype) @ weight.to(ctx.dtype).T
        if ctx.needs_input_grad[2]:
            of_weight = torch.empty_like(weight)
            out, rows, words = of_weight.numpy(), gradient.contiguous().numpy(), pack_columns(small)
            run(
                lambda part: sparse_kernels.sum_columns(words, part.start, rows, out[part]),
                parts_of(len(out)),
            )
        if ctx.needs_input_grad[3]:
            of_bias = gradient.sum(dim=0)
        return of_bits, None, of_weight, of_bias


def are_few(codes: np.ndarray, *, n_bits: int) -> np.ndarray:
    """Say of which packed rows, (n, ceil(h / 8)) uint8, few enough of h bits are on: (n,) bool."""
    counts: np.ndarray = np.bitwise_count(codes).sum(axis=1, dtype=np.int64)
    return DENSE_SHARE * counts <= n_bits


def decode_rows(codes: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> torch.Tensor:
    """Return b D + c of packed rows, for each row the same whatever is beside it.

    Args:
        codes: (n, ceil(h / 8)) uint8, few of them on; strided and read-only ones will do.
        weight: D, (h, d) float32.
        bias: c, (d,) float32.

    Returns:
        (n, d) float32.
    """
    total = torch.empty(len(codes), weight.shape[1])
    out = total.numpy()

    def decode(part: slice) -> None:
        rows = np.array(codes[part], order="C")  # loops are compiled for one kind of array
        sparse_kernels.sum_packed_rows(rows, weight, bias, out[part])

    run(decode, row_parts(len(codes), n_threads=torch.get_num_threads(), min_rows=MIN_ROWS))
    return total


def as_bytes(bits: torch.Tensor) -> torch.Tensor:
    """Return (n, h) int8 of 0 and 1, of (n, h) numbers that are 0 or not."""
    return bits.detach().bool().view(torch.int8)


def pack_columns(bits: torch.Tensor) -> np.ndarray:
    """Return (ceil(n / 64), h) uint64 words of 64 rows each, of (n, h) int8."""
    on = bits.numpy()
    words = np.empty((-(-len(on) // 64), on.shape[1]), dtype=np.uint64)
    run(
        lambda part: sparse_kernels.pack_columns(on[64 * part.start : 64 * part.stop], words[part]),
        parts_of(len(words)),
    )
    return words


def parts_of(n_rows: int) -> list[slice]:
    """Cut rows into one part for each of torch's threads."""
    return row_parts(n_rows, n_threads=torch.get_num_threads())
