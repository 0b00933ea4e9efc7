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

from bitcodec import sparse_kernels
from bitcodec.bit_products import whole_product
from bitcodec.parallel import n_processes, of_all_processes, sum_over_processes
from bitcodec.sparse_products import pack_columns, parts_of, runs_loops
from bitcodec.threads import run


@dataclass(frozen=True)
class _Compared:
    """Every bit compared with the chosen ones."""

    total: torch.Tensor
    """() float, the sum of their absolute covariances."""
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
            columns: (m,) int64 on the device of the bits; None for all.
        """
        precise = torch.promote_types(bits.dtype, torch.float32)
        small = bits.to(torch.int8)
        compare = _compare_by_loops if runs_loops(bits.device) else _compare_by_products
        found = compare(small, columns, precise)
        ctx.save_for_backward(small, columns, found.signs, found.centre, found.activity)
        ctx.dtype = bits.dtype
        return found.total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the gradient by the bits, (n, h) of their dtype."""
        small, columns, signs, centre, activity = ctx.saved_tensors
        fill = _slopes_by_loops if runs_loops(small.device) else _slopes_by_products
        slopes = fill(small, columns, signs, centre, activity, gradients[0] / len(small))
        return slopes.to(ctx.dtype), None


def _compare_by_loops(
    small: torch.Tensor, columns: torch.Tensor | None, dtype: torch.dtype
) -> _Compared:
    n_rows = len(small) * n_processes()
    words = of_all_processes(torch.from_numpy(pack_columns(small).view(np.int64))).numpy()
    words = words.view(np.uint64)
    counts = np.bitwise_count(words).sum(axis=0, dtype=np.int64)
    which = np.arange(len(counts)) if columns is None else columns.numpy()
    chosen, chosen_counts = (words, counts) if columns is None else (words[:, which], counts[which])
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
    return _Compared(
        total=torch.tensor(sums[:, 0].sum() / n_rows**2, dtype=dtype),
        signs=torch.from_numpy(signs),
        centre=torch.from_numpy(sums[:, 1] / n_rows).to(dtype),
        activity=torch.from_numpy(counts / n_rows).to(dtype),
    )


def _compare_by_products(
    small: torch.Tensor, columns: torch.Tensor | None, dtype: torch.dtype
) -> _Compared:
    n, chosen = len(small) * n_processes(), _chosen(small, columns)
    counts = small.sum(dim=0, dtype=dtype)
    matrix = whole_product(small.T, chosen).to(dtype)
    sum_over_processes(counts, matrix)
    # v, in whole numbers that float32 holds for up to 4,096 rows.
    matrix.mul_(n).addr_(counts, _chosen(counts, columns), alpha=-1)
    if columns is None:
        matrix.fill_diagonal_(0)
    else:
        matrix[columns, torch.arange(len(columns), device=small.device)] = 0
    total: torch.Tensor = torch.linalg.vector_norm(matrix, ord=1) / n**2
    signs, activity = matrix.sign_(), counts / n
    centre = signs @ _chosen(activity, columns)
    return _Compared(total, signs.to(torch.int8), centre, activity)


def _slopes_by_loops(
    small: torch.Tensor,
    columns: torch.Tensor | None,
    signs: torch.Tensor,
    centre: torch.Tensor,
    activity: torch.Tensor,
    scale: torch.Tensor,
) -> torch.Tensor:
    slopes = torch.empty(small.shape, dtype=centre.dtype)
    on, out, by_column = small.numpy(), slopes.numpy(), signs
    which, column_centre, factor = np.arange(len(signs)), centre[:0], 2.0
    if columns is not None:  # or the signs are symmetric, and both sums alike
        which, by_column, factor = columns.numpy(), signs.T.contiguous(), 1.0
        column_centre = activity @ signs.to(activity.dtype)

    def fill(part: slice) -> None:
        sparse_kernels.fill_slopes(
            on[part],
            which,
            signs.numpy(),
            by_column.numpy(),
            centre.numpy(),
            column_centre.numpy(),
            factor * float(scale),
            out[part],
        )

    run(fill, parts_of(len(out)))
    return slopes


def _slopes_by_products(
    small: torch.Tensor,
    columns: torch.Tensor | None,
    signs: torch.Tensor,
    centre: torch.Tensor,
    activity: torch.Tensor,
    scale: torch.Tensor,
) -> torch.Tensor:
    slopes = whole_product(_chosen(small, columns), signs.T).to(centre.dtype).sub_(centre)
    if columns is None:  # the signs are symmetric, and both sums alike
        return slopes.mul_(2 * scale)
    of_columns = whole_product(small, signs).to(centre.dtype)
    slopes[:, columns] += of_columns.sub_(activity @ signs.to(activity.dtype))
    return slopes.mul_(scale)


def _chosen(values: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
    return values if columns is None else values[..., columns]
