"""The compiled loops of search-based encoding on the CPU.

Arrays are float32 except bits (uint8); a row at a time, all buffers of size h. See
`bitcodec.refine` for what is searched.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bitcodec.compiling import compiler

_compiled = compiler(reorder_sums=True)

DENSE_SHARE = 8
"""Rows with more than h / DENSE_SHARE bits on are decoded by a product, others by summing rows."""
SEGMENT = 128
"""Gains over which one vectorised maximum runs."""
DOUBTFUL_SHARE = 0.01
"""Rows that seem to save less than this share of their objective are compared with their start in
float64; float32 errs by far less."""
REPAIR_MARGIN = 1e-4
"""Share of the first loss that a repair must save, well above float32's rounding."""
FLIPS_PER_BIT = 8
"""Searches stop after this many flips times h: rounding must not make one endless."""


class Tables(NamedTuple):
    """What a search needs of the decoder, float32."""

    weight: np.ndarray
    """D, (h, d)."""
    bias: np.ndarray
    """c, (d,)."""
    prices: np.ndarray
    """(h,) for all rows in (1, h), or those of each row, (n, h)."""
    half_norms: np.ndarray
    """|D_j|^2 / 2, (h,)."""
    gram: np.ndarray
    """G, (h, h)."""


@_compiled
def sum_residuals(
    rows: np.ndarray,
    bits: np.ndarray,
    tables: Tables,
    residuals: np.ndarray,
    is_dense: np.ndarray,
) -> None:
    """Fill in z - c - bD by summing the on rows of D; leave dense rows, and say so."""
    n_bits = bits.shape[1]
    on = np.empty(n_bits, np.int64)
    for i in range(len(rows)):
        n_on = 0
        for j in range(n_bits):
            on[n_on] = j
            n_on += bits[i, j]
        is_dense[i] = n_on > n_bits // DENSE_SHARE
        if not is_dense[i]:
            _copy(residuals[i], rows[i])
            _subtract(residuals[i], tables.bias)
            for j in on[:n_on]:
                _subtract(residuals[i], tables.weight[j])


@_compiled
def _copy(to: np.ndarray, values: np.ndarray) -> None:
    """Copy in a loop: numba is four times slower at assigning to a slice."""
    for k in range(len(to)):
        to[k] = values[k]


@_compiled
def _subtract(total: np.ndarray, term: np.ndarray) -> None:
    for k in range(len(total)):
        total[k] -= term[k]


@_compiled
def search(
    rows: np.ndarray,
    bits: np.ndarray,
    residuals: np.ndarray,
    products: np.ndarray,
    tables: Tables,
    n_passes: int,
) -> None:
    """Search each row from its bits, which are replaced."""
    n_bits = bits.shape[1]
    signs, gains = np.empty(n_bits, np.float32), np.empty(n_bits, np.float32)
    trial_signs, trial_gains = np.empty_like(signs), np.empty_like(gains)
    for i in range(len(bits)):
        price = tables.prices[i % len(tables.prices)]
        _start(bits[i], products[i], price, tables.half_norms, signs, gains)
        saved = _descend(gains, signs, tables.gram, -1, 0.0)[0]
        for _ in range(n_passes):
            more = _repair_pass(gains, signs, tables.gram, trial_gains, trial_signs)
            saved += more
            if more == 0:
                break
        if saved > 0:
            _keep_if_better(rows[i], bits[i], residuals[i], signs, tables, price, saved)


@_compiled
def _start(
    bits: np.ndarray,
    products: np.ndarray,
    price: np.ndarray,
    half_norms: np.ndarray,
    signs: np.ndarray,
    gains: np.ndarray,
) -> None:
    """Fill in signs and gains, in loops of few arrays each: more would not be vectorised."""
    half = np.float32(0.5)
    for j in range(len(bits)):
        signs[j] = np.float32(1) - np.float32(2) * np.float32(bits[j])
    for j in range(len(bits)):
        gains[j] = products[j] - half * price[j]
    for j in range(len(bits)):
        gains[j] = signs[j] * gains[j] - half_norms[j]


@_compiled
def _descend(
    gains: np.ndarray, signs: np.ndarray, gram: np.ndarray, held: int, held_gain: float
) -> tuple[float, float]:
    """Flip the best bit until none pays; return the sum of gains and the held bit's gain.

    The held bit's own entry of `gains` is -infinity meanwhile, so its gain is followed apart.
    """
    total = 0.0
    for _ in range(FLIPS_PER_BIT * len(gains)):
        k = _best(gains)
        if k < 0:
            break
        gain = gains[k]
        total += gain
        if held >= 0:
            held_gain -= signs[held] * signs[k] * gram[k, held]
        _add_flip(gains, signs, gram[k], signs[k])
        gains[k] = -gain
        signs[k] = -signs[k]
    return total, held_gain


@_compiled
def _best(gains: np.ndarray) -> int:
    """Return the first bit of the highest gain, or -1 where no gain is positive.

    Positive floats are ordered as their bit patterns are, and maxima of integers vectorise.
    """
    patterns = gains.view(np.int32)
    highest, place = np.int32(0), -1
    for start in range(0, len(patterns), SEGMENT):
        top = _maximum(patterns[start : start + SEGMENT])
        if top > highest:
            highest, place = top, start
    if place >= 0:
        while patterns[place] != highest:
            place += 1
    return place


@_compiled
def _maximum(patterns: np.ndarray) -> np.int32:
    highest = np.int32(0)
    for j in range(len(patterns)):
        highest = max(highest, patterns[j])
    return highest


@_compiled
def _add_flip(gains: np.ndarray, signs: np.ndarray, gram_row: np.ndarray, sign: float) -> None:
    """Take a flip off the gains; arrays that overlapped would not be vectorised."""
    for j in range(len(gains)):
        gains[j] -= signs[j] * sign * gram_row[j]


@_compiled
def _repair_pass(
    gains: np.ndarray,
    signs: np.ndarray,
    gram: np.ndarray,
    trial_gains: np.ndarray,
    trial_signs: np.ndarray,
) -> float:
    """Turn each on bit off, search around it, keep what saves; return the sum of gains."""
    total = 0.0
    for i in range(len(gains)):
        if signs[i] > 0:
            continue
        loss = gains[i]
        _copy(trial_gains, gains)
        _copy(trial_signs, signs)
        _add_flip(trial_gains, trial_signs, gram[i], signs[i])
        trial_gains[i], trial_signs[i] = -np.inf, 1
        gained, back = _descend(trial_gains, trial_signs, gram, i, np.float64(-loss))
        if loss + gained > REPAIR_MARGIN * abs(loss):
            _copy(gains, trial_gains)
            _copy(signs, trial_signs)
            gains[i] = back
            total += loss + gained + _descend(gains, signs, gram, -1, 0.0)[0]
    return total


@_compiled
def _keep_if_better(
    row: np.ndarray,
    bits: np.ndarray,
    residual: np.ndarray,
    signs: np.ndarray,
    tables: Tables,
    price: np.ndarray,
    saved: float,
) -> None:
    """Replace a row's bits, unless float64 finds them worse."""
    scale = 0.0
    for k in range(len(residual)):
        scale += residual[k] * residual[k]
    for j in range(len(bits)):
        scale += bits[j] * abs(price[j])
    found = np.empty_like(bits)
    for j in range(len(bits)):
        found[j] = signs[j] < 0
    certain = 2 * saved > DOUBTFUL_SHARE * scale
    if certain or (
        _row_objective(row, found, tables, price) <= _row_objective(row, bits, tables, price)
    ):
        _copy(bits, found)


@_compiled
def _row_objective(row: np.ndarray, bits: np.ndarray, tables: Tables, price: np.ndarray) -> float:
    residual = np.empty(len(row), np.float64)
    _copy(residual, row)
    _subtract(residual, tables.bias)
    total = 0.0
    for j in range(len(bits)):
        if bits[j]:
            _subtract(residual, tables.weight[j])
            total += price[j]
    for k in range(len(residual)):
        total += residual[k] * residual[k]
    return total
