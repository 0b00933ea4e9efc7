"""The compiled loops of context coding: a binary arithmetic coder, and the logits it follows.

Everything is integers, so that encoder and decoder agree on every machine. A logit is counted in
`bitcodec.context_table.UNIT`; a probability is a whole number of 65,536ths.

The coder keeps an interval of 64-bit numbers, low to high, both ends in it; an on bit takes its
lower part. Leading bytes on which both ends agree are put out, so that nothing is carried (the
coder of Mahoney's PAQ, with twice its digits).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bitcodec.compiling import compiler

_compiled = compiler(reorder_sums=False)

WHOLE = np.uint64(2**64 - 1)
_PROBABILITY_BITS, _BYTE, _TOP = np.uint64(16), np.uint64(8), np.uint64(56)
_ONE, _LOW_BYTE, _ONE_TOP_BYTE = np.uint64(1), np.uint64(255), np.uint64(2**56)


class Weights(NamedTuple):
    """What the kernels need of a table."""

    bias: np.ndarray
    """(h,) int32."""
    within: np.ndarray
    """(h, h) int8: row j is added to a row's logits once its bit j is on."""
    across: np.ndarray
    """(h, h) int8: row j is added where bit j of the row before is on."""
    on: np.ndarray
    """(2 m + 1,) uint64: 65,536 times the probability of each logit from -m to m."""


@_compiled
def encode_rows(
    bits: np.ndarray, before: np.ndarray, weights: Weights, interval: np.ndarray, out: np.ndarray
) -> int:
    """Code rows, each in the context of the one above it.

    Args:
        bits: (n, h) uint8.
        before: (h,) uint8, the row before the first.
        weights: the table.
        interval: (2,) uint64, low and high, changed in place.
        out: uint8, room for two bytes a bit and eight more.

    Returns:
        The bytes put out.
    """
    low, high, size = interval[0], interval[1], 0
    logits = np.empty(bits.shape[1], np.int32)
    for i in range(len(bits)):
        _start(logits, before if i == 0 else bits[i - 1], weights)
        for j in range(len(logits)):
            middle = _middle(low, high, logits[j], weights.on)
            if bits[i, j]:
                high = middle
                _add(logits[j:], weights.within[j, j:])
            else:
                low = middle + _ONE
            while (low ^ high) < _ONE_TOP_BYTE:
                out[size] = high >> _TOP
                size += 1
                low, high = low << _BYTE, (high << _BYTE) | _LOW_BYTE
    interval[0], interval[1] = low, high
    return size


@_compiled
def decode_rows(
    data: np.ndarray,
    before: np.ndarray,
    weights: Weights,
    interval: np.ndarray,
    place: int,
    bits: np.ndarray,
) -> int:
    """Decode rows; after the end of the data, zeros are read.

    Args:
        data: uint8, what was put out for all rows.
        before: (h,) uint8, the row before the first.
        weights: the table.
        interval: (3,) uint64, low, high and the eight bytes before `place`, changed in place.
        place: the next byte to be read.
        bits: (n, h) uint8, to be filled.

    Returns:
        The next byte to be read.
    """
    low, high, value = interval[0], interval[1], interval[2]
    logits = np.empty(bits.shape[1], np.int32)
    for i in range(len(bits)):
        _start(logits, before if i == 0 else bits[i - 1], weights)
        for j in range(len(logits)):
            middle = _middle(low, high, logits[j], weights.on)
            on = value <= middle
            bits[i, j] = on
            if on:
                high = middle
                _add(logits[j:], weights.within[j, j:])
            else:
                low = middle + _ONE
            while (low ^ high) < _ONE_TOP_BYTE:
                low, high = low << _BYTE, (high << _BYTE) | _LOW_BYTE
                value, place = (value << _BYTE) | _read(data, place), place + 1
    interval[0], interval[1], interval[2] = low, high, value
    return place


@_compiled
def _start(logits: np.ndarray, before: np.ndarray, weights: Weights) -> None:
    for j in range(len(logits)):
        logits[j] = weights.bias[j]
    for j in range(len(before)):
        if before[j]:
            _add(logits, weights.across[j])


@_compiled
def _add(logits: np.ndarray, weights: np.ndarray) -> None:
    for j in range(len(logits)):
        logits[j] += weights[j]


@_compiled
def _middle(low: np.uint64, high: np.uint64, logit: int, on: np.ndarray) -> np.uint64:
    """Return the end of the part of an on bit, at least `low` and below `high`."""
    most = len(on) // 2
    p = on[min(max(logit, -most), most) + most]
    middle: np.uint64 = low + ((high - low) >> _PROBABILITY_BITS) * p
    return middle


@_compiled
def _read(data: np.ndarray, place: int) -> np.uint64:
    return np.uint64(data[place]) if place < len(data) else np.uint64(0)
