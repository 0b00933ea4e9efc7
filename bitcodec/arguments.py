"""Arguments of searches, checked at the door."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from bitcodec.batches import check_finite, to_float32
from bitcodec.errors import ConfigError, ShapeError, ValueRangeError

_LARGEST_ID = int(np.iinfo(np.int64).max)


def check_count(value: Any, *, name: str, smallest: int = 1) -> int:
    """Return `value` as an int.

    Raises:
        ConfigError: it is not an integer or smaller than `smallest`.
    """
    try:
        count = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        count = None
    if count is None or count < smallest:
        raise ConfigError(f"{name} must be an integer of at least {smallest}, got {value!r}")
    return count


def check_packed(packed: Any, *, n_bits: int, row_bytes: int) -> np.ndarray:
    """Return packed rows whose every axis and pad bit is as it must be.

    Args:
        packed: (..., row_bytes) uint8.
        n_bits: bits of one code.
        row_bytes: ceil(n_bits / 8), and side bytes after them, if there are any.

    Returns:
        The same rows as a numpy array.

    Raises:
        ShapeError: the width or the dtype is wrong.
        ValueRangeError: a spare bit of a row's last byte of bits is set.
    """
    rows = np.asarray(packed)
    code_bytes = (n_bits + 7) // 8
    if rows.ndim == 0 or rows.shape[-1] != row_bytes or rows.dtype != np.uint8:
        raise ShapeError(
            f"packed rows must be (n, {row_bytes}) uint8, got {rows.shape} {rows.dtype}: "
            f"these are codes of {n_bits} bits"
        )
    if n_bits % 8 and (rows[..., code_bytes - 1] >> (n_bits % 8)).any():
        raise ValueRangeError(
            f"packed rows of {n_bits} bits must leave the {8 * code_bytes - n_bits} high bits of "
            f"their last byte 0, got a row with one set: pack with the least significant bit first"
        )
    return rows


def check_packed_rows(packed: Any, *, n_bits: int, row_bytes: int) -> np.ndarray:
    """Return (n, row_bytes) packed rows, checked as by `check_packed`.

    Raises:
        ShapeError: the array is not two-dimensional, or its width or dtype is wrong.
        ValueRangeError: a spare bit of a row's last byte of bits is set.
    """
    rows = np.asarray(packed)
    if rows.ndim != 2:
        raise ShapeError(
            f"packed rows must be two-dimensional, (n, {row_bytes}), got {rows.shape}: "
            f"give one row as (1, {row_bytes})"
        )
    return check_packed(rows, n_bits=n_bits, row_bytes=row_bytes)


def as_queries(queries: Any, *, n_dims: int) -> np.ndarray:
    """Return float queries as (..., d) float32.

    Args:
        queries: (..., d) array or tensor of floats.
        n_dims: the d that the codec was fitted on.

    Raises:
        ShapeError: the width is wrong.
        ValueRangeError: a value is not a finite float.
    """
    given = queries if hasattr(queries, "detach") else np.asarray(queries)
    if given.ndim == 0 or given.shape[-1] != n_dims:
        raise ShapeError(
            f"queries must be (n, {n_dims}), got {tuple(given.shape)}: this codec was fitted on "
            f"{n_dims} dimensions"
        )
    rows = to_float32(given).reshape(-1, n_dims)
    check_finite(rows, part="queries")
    return rows.cpu().numpy().reshape(tuple(given.shape))


def as_ids(ids: Any, *, name: str = "ids") -> np.ndarray:
    """Return ids as (n,) int64.

    Raises:
        ShapeError: they are not one-dimensional or not integers.
        ValueRangeError: an unsigned id does not fit into 63 bits.
    """
    values = np.asarray(ids)
    if values.shape == (0,):
        return np.empty(0, dtype=np.int64)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise ShapeError(
            f"{name} must be a one-dimensional array of 64-bit integers, "
            f"got {values.shape} {values.dtype}: keep a table from your keys to integers"
        )
    if values.dtype.kind == "u" and int(values.max()) > _LARGEST_ID:
        raise ValueRangeError(f"{name} must be below 2**63, got {int(values.max())}")
    return values.astype(np.int64)


def check_new_ids(
    ids: Any, *, n_rows: int, existing: Callable[[], np.ndarray], next_id: int
) -> np.ndarray:
    """Return ids that may be added to an index.

    Args:
        ids: (n_rows,) integers, or None for consecutive ones from `next_id`.
        n_rows: rows to be added.
        existing: gives the (n,) int64 ids of the index; called only where they matter.
        next_id: one more than the largest id that the index has ever held.

    Returns:
        (n_rows,) int64.

    Raises:
        ShapeError: the ids have the wrong length or type.
        ValueRangeError: an id is negative, given twice or already in the index.
    """
    if ids is None:
        return _consecutive_ids(n_rows, next_id=next_id)
    new = as_ids(ids)
    if len(new) != n_rows:
        raise ShapeError(f"ids must be one a row, ({n_rows},), got ({len(new)},)")
    if len(new) and new.min() < 0:
        raise ValueRangeError(f"ids must be 0 or more, got {new.min()}: -1 stands for 'none'")
    check_distinct(new)
    if len(new) and new.min() < next_id:
        _refuse_known(new, existing())
    return new


def check_distinct(ids: np.ndarray) -> None:
    """Refuse an id that is given twice.

    Raises:
        ValueRangeError: `ids`, (n,) int64, repeat one; the message names it.
    """
    ordered = np.sort(ids)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        raise ValueRangeError(f"ids must differ from each other, got {repeated[0]} twice")


def check_filter(allowed: Any, *, n_rows: int) -> np.ndarray:
    """Return a filter as (n_rows,) bool or as (m,) int64 ids.

    Raises:
        ShapeError: a mask of the wrong length, or neither a mask nor ids.
        ValueRangeError: an unsigned id does not fit into 63 bits.
    """
    values = np.asarray(allowed)
    if values.dtype != np.bool_:
        return as_ids(values, name="filter")
    if values.shape != (n_rows,):
        raise ShapeError(
            f"a filter mask must have one value a row, ({n_rows},), got {values.shape}: "
            f"its order is that of the index's `ids`"
        )
    return values


def _consecutive_ids(n_rows: int, *, next_id: int) -> np.ndarray:
    if next_id + n_rows - 1 > _LARGEST_ID:
        raise ValueRangeError(
            f"the ids from {next_id} on would exceed {_LARGEST_ID}: give smaller ids yourself"
        )
    return np.arange(n_rows, dtype=np.int64) + next_id if n_rows else np.empty(0, dtype=np.int64)


def _refuse_known(new: np.ndarray, existing: np.ndarray) -> None:
    known = new[np.isin(new, existing)]
    if len(known):
        raise ValueRangeError(
            f"ids must be new to the index, got {known[0]} which it holds "
            f"({len(known)} such): remove it first or choose another"
        )
