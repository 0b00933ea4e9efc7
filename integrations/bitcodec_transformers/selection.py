"""Which candidate rows are kept, and the last check before they are written."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from bitcodec.errors import ValueRangeError
from bitcodec_transformers.manifest import MassivePolicy
from bitcodec_transformers.windows import RowTable

_CHUNK_ROWS = 8192


def median_norms(norms: Mapping[int, np.ndarray]) -> dict[int, float]:
    """Take the median norm of each layer.

    Args:
        norms: for each layer (n,), n at least 1.

    Returns:
        One number per layer.
    """
    return {layer: float(np.median(values)) for layer, values in norms.items()}


def massive_rows(
    norms: Mapping[int, np.ndarray], medians: Mapping[int, float], *, massive: float
) -> dict[int, np.ndarray]:
    """Mark massive rows: norm above `massive` times the layer's median.

    Args:
        norms: for each layer (n,).
        medians: for each layer its median norm.
        massive: the factor.

    Returns:
        For each layer (n,) bool.
    """
    return {layer: values > massive * medians[layer] for layer, values in norms.items()}


def select_rows(
    norms: Mapping[int, np.ndarray],
    medians: Mapping[int, float],
    rows: RowTable,
    *,
    massive: float,
    policy: MassivePolicy,
) -> tuple[np.ndarray, dict[int, int]]:
    """Select the rows that are massive in no layer.

    Args:
        norms: for each layer (n,).
        medians: for each layer its median norm.
        rows: n rows, to name one in the error.
        massive: the factor, see `massive_rows`.
        policy: `"keep"` selects all rows, `"refuse"` makes a massive row an error.

    Returns:
        Indices of the selected rows, ascending, and the number of massive rows per layer.

    Raises:
        ValueRangeError: a row is massive and the policy is `"refuse"`.
    """
    marked = massive_rows(norms, medians, massive=massive)
    if policy == "refuse":
        _refuse_massive(marked, norms, medians, rows, massive=massive)
    n_massive = {layer: int(mask.sum()) for layer, mask in marked.items()}
    if policy == "keep":
        return np.arange(len(rows)), n_massive
    return np.flatnonzero(~np.logical_or.reduce(list(marked.values()))), n_massive


def check_finite(
    hidden: Mapping[int, torch.Tensor],
    norms: Mapping[int, np.ndarray],
    rows: RowTable,
    *,
    first_row: int = 0,
) -> None:
    """Refuse NaN and infinity, as float16 overflow makes them.

    Args:
        hidden: for each layer (n, d) in the dtype to be written.
        norms: for each layer (n,), norms before the conversion to that dtype.
        rows: n rows, to name one in the error.
        first_row: number of the first row, for the error.

    Raises:
        ValueRangeError: a value is not finite; the message names layer and row and the way out.
    """
    for layer, states in hidden.items():
        bad = _first_bad_row(states)
        if bad is None:
            continue
        place = f"layer {layer}, row {first_row + bad} ({_place(rows, bad)})"
        if not np.isfinite(norms[layer][bad]):
            raise ValueRangeError(
                f"{place}: the model itself gave NaN or infinity: load it with dtype='bfloat16' "
                "or 'float32'"
            )
        name = str(states.dtype).removeprefix("torch.")
        raise ValueRangeError(
            f"{place} does not fit {name}, whose largest value is "
            f"{torch.finfo(states.dtype).max:.6g}: use dtype='bfloat16' or 'float32', or "
            "massive_policy='drop'"
        )


def _refuse_massive(
    marked: Mapping[int, np.ndarray],
    norms: Mapping[int, np.ndarray],
    medians: Mapping[int, float],
    rows: RowTable,
    *,
    massive: float,
) -> None:
    for layer, mask in marked.items():
        if mask.any():
            first = int(np.argmax(mask))
            raise ValueRangeError(
                f"layer {layer}: {mask.sum()} of {len(mask)} rows have norms above {massive:g} "
                f"times the median {medians[layer]:.4g}, the first {norms[layer][first]:.4g} "
                f"({_place(rows, first)}): use massive_policy='drop' or 'keep'"
            )


def _first_bad_row(states: torch.Tensor) -> int | None:
    for begin in range(0, len(states), _CHUNK_ROWS):
        finite = torch.isfinite(states[begin : begin + _CHUNK_ROWS]).all(dim=1)
        if not finite.all():
            return begin + int(torch.argmin(finite.to(torch.uint8)))
    return None


def _place(rows: RowTable, row: int) -> str:
    return f"document {rows.document[row]}, characters {rows.start[row]} to {rows.end[row]}"
