"""What hidden states must be before anything is computed with them."""

from __future__ import annotations

import math
from typing import NoReturn

import numpy as np
import torch

from bitcodec.errors import ShapeError, ValueRangeError

NOISE = 16 * torch.finfo(torch.float32).eps
"""Standard deviation, as a share of the median dimension's, below which a dimension is a constant
and float32's rounding: of what a model computes, each value is rounded to about eps of the others.
"""


def to_float32(rows: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Give rows as a float32 tensor, a tensor's on the device where it is.

    Raises:
        ValueRangeError: the values are not floating point.
    """
    check_floating(rows)
    if isinstance(rows, torch.Tensor):
        return rows.detach().to(torch.float32)
    with np.errstate(over="ignore"):  # an overflow becomes infinite and is reported as such
        return torch.from_numpy(np.array(rows, dtype=np.float32, order="C"))


def check_floating(rows: np.ndarray | torch.Tensor) -> None:
    """Raise unless an array holds float16, bfloat16, float32 or float64.

    Raises:
        ValueRangeError: it does not.
    """
    if isinstance(rows, torch.Tensor):
        is_floating = rows.dtype.is_floating_point
    else:
        is_floating = rows.dtype.kind == "f"
    if not is_floating:
        raise ValueRangeError(
            f"hidden must be float16, bfloat16, float32 or float64, got {rows.dtype}: pass the "
            "hidden states themselves, or convert them if these whole numbers are meant"
        )


def check_finite(
    rows: torch.Tensor,
    *,
    first_row: int = 0,
    part: str = "hidden",
    first_row_of_part: int = 0,
) -> None:
    """Raise unless every value is finite.

    Args:
        rows: (b, d) float32.
        first_row: the number that the first row has in the whole source.
        part: the name of the file or batch that the rows are from.
        first_row_of_part: the number that the first row has there.

    Raises:
        ValueRangeError: a value is NaN or infinite; the message names the first such row.
    """
    # A sum is finite only if every term is; the exact test runs only where the sum overflows.
    if math.isfinite(rows.sum()) or torch.isfinite(rows).all():
        return
    _refuse(rows, first_row=first_row, part=part, first_row_of_part=first_row_of_part)


def finite_float32(rows: np.ndarray | torch.Tensor, *, first_row: int = 0) -> torch.Tensor:
    """Give checked rows as a float32 tensor to be read, not written to.

    It shares the memory of the rows where nothing must be converted.

    Args:
        rows: (b, d) floats.
        first_row: the number that the first row has in the whole source.

    Raises:
        ValueRangeError: the values are not floating point, or one is not finite.
    """
    if isinstance(rows, torch.Tensor):
        tensor = to_float32(rows)
        check_finite(tensor, first_row=first_row)
        return tensor
    array = np.asarray(rows)
    flags = array.flags
    if array.dtype != np.float32 or not (flags.c_contiguous and flags.writeable):
        tensor = to_float32(array)
        array = tensor.numpy()
    else:
        tensor = torch.from_numpy(array)
    if not np.isfinite(array).all():
        _refuse(tensor, first_row=first_row, part="hidden", first_row_of_part=0)
    return tensor


def _refuse(rows: torch.Tensor, *, first_row: int, part: str, first_row_of_part: int) -> NoReturn:
    row = int((~torch.isfinite(rows)).any(dim=1).nonzero()[0])
    kind = "NaN" if torch.isnan(rows[row]).any() else "infinity"
    raise ValueRangeError(
        f"row {first_row + row} holds {kind} (row {first_row_of_part + row} of {part}): drop or "
        "repair such rows (massive activations that overflowed float16 are the usual cause: "
        "harvest in bfloat16 or float32)"
    )


def two_dimensional(shape: tuple[int, ...], name: str) -> tuple[int, int]:
    """Return a shape as rows and width.

    Args:
        shape: of an array.
        name: of the array, for messages.

    Raises:
        ShapeError: it is not (n, d) with d at least 1.
    """
    if len(shape) != 2:
        raise ShapeError(f"{name} must be (n, d), got {shape}: one hidden state a row")
    if shape[1] <= 0 or shape[0] < 0:
        raise ShapeError(f"{name} must have at least one dimension, got {shape}")
    return int(shape[0]), int(shape[1])
