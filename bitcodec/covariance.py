"""The sum of absolute covariances of bits, and its gradient.

The absolute covariance of bits i and j is |v_ij| / n^2, with v_ij = n (rows with both) - (rows with
i) (rows with j). Its derivative by bit i of a row is sign(v_ij) (b_j - p_j) / n, and the same with
i and j exchanged: products of whole numbers. On the CPU loops over packed columns make them, 64
rows at a time; elsewhere products of matrices of one byte a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from bitcodec import sparse_kernels
from bitcodec.bit_products import whole_product
from bitcodec.parallel import gather_rows, n_processes, sum_over_processes
from bitcodec.sparse_products import as_bytes, pack_columns, parts_of, runs_loops
from bitcodec.threads import run


@dataclass(frozen=True)
class _Compared:
    """Every bit compared with the chosen ones: what the gradient of their covariances takes."""

    signs: torch.Tensor
    """(h, m) int8, signs of the covariances; 0 where a bit meets itself."""
    centre: torch.Tensor
    """(h,) float, sum over the chosen bits of sign and activity."""
    activity: torch.Tensor
    """(h,) float, means of the bits over the minibatch of all processes."""


class AbsoluteCovariance(torch.autograd.Function):
    """Sum over i != j, j in some columns, of |cov(b_i, b_j)|.

    With all columns the gradient takes one product, since the matrix is symmetric.
    """

    @staticmethod
    def forward(ctx: Any, bits: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
        """Return the sum, () float of at least float32.

        Args:
            ctx: torch's.
            bits: (n, h) float, values 0 or 1.
            columns: (m,) int64 on the device of the bits, each once; None for all.
        """
        precise = torch.promote_types(bits.dtype, torch.float32)
        small = as_bytes(bits)
        compare = _compare_by_loops if runs_loops(bits.device) else _compare_by_products
        total, found = compare(small, columns, precise)
        ctx.save_for_backward(small, columns, found.signs, found.centre, found.activity)
        ctx.dtype = bits.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the gradient by the bits, (n, h) of their dtype."""
        small, columns, *found = ctx.saved_tensors
        slopes = _slopes_by_loops if runs_loops(small.device) else _slopes_by_products
        slope = slopes(small, columns, _Compared(*found), gradients[0] / len(small))
        return slope.to(ctx.dtype), None


def _compare_by_loops(
    small: torch.Tensor, columns: torch.Tensor | None, dtype: torch.dtype
) -> tuple[torch.Tensor, _Compared]:
    """Compare the bits of all processes, each of which does so for itself.

    Args:
        small: (n, h) int8 of 0 and 1, this process's rows.
        columns: as `AbsoluteCovariance` takes them.
        dtype: of the floats that are returned.

    Returns:
        The sum of absolute covariances, (), and what its gradient takes.
    """
    n_rows = len(small) * n_processes()
    words = gather_rows(torch.from_numpy(pack_columns(small).view(np.int64))).numpy()
    words = words.view(np.uint64)
    counts = np.bitwise_count(words).sum(axis=0, dtype=np.int64)
    which = np.arange(len(counts)) if columns is None else columns.numpy()
    chosen = words if columns is None else np.ascontiguousarray(words[:, which])
    chosen_counts = counts[which]
    signs = np.empty((len(counts), len(which)), dtype=np.int8)
    sums = np.empty((len(counts), 2), dtype=np.int64)

    def compare(part: slice) -> None:
        sparse_kernels.compare_pairs(
            words, chosen, counts, chosen_counts, n_rows, part.start, signs[part], sums[part]
        )

    run(compare, parts_of(len(signs)))
    # A bit with itself: v = c (n - c), of sign 1 unless it never changes.
    place = np.arange(len(which))
    sums[which, 0] -= chosen_counts * (n_rows - chosen_counts)
    sums[which, 1] -= signs[which, place] * chosen_counts
    signs[which, place] = 0
    total = torch.tensor(sums[:, 0].sum(dtype=np.float64) / n_rows**2, dtype=dtype)
    return total, _Compared(
        signs=torch.from_numpy(signs),
        centre=torch.from_numpy(sums[:, 1] / n_rows).to(dtype),
        activity=torch.from_numpy(counts / n_rows).to(dtype),
    )


def _compare_by_products(
    small: torch.Tensor, columns: torch.Tensor | None, dtype: torch.dtype
) -> tuple[torch.Tensor, _Compared]:
    """Do what `_compare_by_loops` does by a product of matrices."""
    n = len(small) * n_processes()
    counts = small.sum(dim=0)
    matrix = whole_product(small.T, _chosen(small, columns)).long()
    sum_over_processes(counts, matrix)
    matrix.mul_(n).sub_(counts[:, None] * _chosen(counts, columns))  # v
    if columns is None:
        matrix.fill_diagonal_(0)
    else:
        matrix[columns, torch.arange(len(columns), device=small.device)] = 0
    signs, activity = matrix.sign().to(torch.int8), counts.to(dtype) / n
    return matrix.abs_().sum().to(dtype) / n**2, _Compared(
        signs=signs,
        centre=signs.to(dtype) @ _chosen(activity, columns),
        activity=activity,
    )


def _slopes_by_loops(
    small: torch.Tensor, columns: torch.Tensor | None, found: _Compared, scale: torch.Tensor
) -> torch.Tensor:
    """Return the gradient by the bits.

    Args:
        small: (n, h) int8 of 0 and 1, this process's rows.
        columns: as `AbsoluteCovariance` takes them.
        found: of the comparison.
        scale: () float, what the gradient of n times the sum is multiplied by.
    """
    signs, centre = found.signs, found.centre
    slopes = torch.empty(small.shape, dtype=centre.dtype)
    if columns is None:  # the signs are symmetric, and both sums of `fill_slopes` alike
        chosen, by_column = torch.arange(len(signs)), signs
        column_centre, factor = centre[:0], 2 * float(scale)
    else:
        chosen, by_column = columns, signs.T.contiguous()
        column_centre, factor = found.activity @ signs.to(centre.dtype), float(scale)
    on, out = small.numpy(), slopes.numpy()

    def fill(part: slice) -> None:
        sparse_kernels.fill_slopes(
            on[part],
            chosen.numpy(),
            signs.numpy(),
            by_column.numpy(),
            centre.numpy(),
            column_centre.numpy(),
            factor,
            out[part],
        )

    run(fill, parts_of(len(out)))
    return slopes


def _slopes_by_products(
    small: torch.Tensor, columns: torch.Tensor | None, found: _Compared, scale: torch.Tensor
) -> torch.Tensor:
    """Do what `_slopes_by_loops` does by products of matrices."""
    signs, centre = found.signs, found.centre
    slopes = whole_product(_chosen(small, columns), signs.T).to(centre.dtype).sub_(centre)
    if columns is None:  # the signs are symmetric, and both sums alike
        return slopes.mul_(2 * scale)
    of_columns = whole_product(small, signs).to(centre.dtype)
    slopes[:, columns] += of_columns.sub_(found.activity @ signs.to(centre.dtype))
    return slopes.mul_(scale)


def _chosen(values: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
    return values if columns is None else values[..., columns]
