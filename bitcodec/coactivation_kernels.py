"""The loop that counts which bits are on together, for codes whose bits are mostly off."""

from __future__ import annotations

import numpy as np

from bitcodec.compiling import compiler

_compiled = compiler(reorder_sums=False)


@_compiled
def add_pairs(bits: np.ndarray, first: int, both: np.ndarray) -> None:
    """Add to `both` the rows in which features first, first + 1, ... and any feature are on.

    Takes time in the square of the bits that are on; nothing is spent on those that are off.

    Args:
        bits: (n, h) uint8, values 0 or 1.
        first: the feature of `both`'s first row.
        both: (b, h) int64, changed.
    """
    on = np.empty(bits.shape[1], np.int64)
    for row in range(bits.shape[0]):
        n_on = 0
        for feature in range(bits.shape[1]):
            if bits[row, feature]:
                on[n_on] = feature
                n_on += 1
        for left in on[:n_on]:
            if first <= left < first + len(both):
                for right in on[:n_on]:
                    both[left - first, right] += 1
