"""The compiled loops of products and counts of bits that are mostly off, on the CPU.

Bits are int8 of 0 and 1. A word is 64 rows of one bit: row r of bit j is bit r % 64 of word
(r // 64, j), and rows beyond the last are 0. Loops take what one thread is to do.
"""

from __future__ import annotations

import numpy as np

from bitcodec.compiling import compiler

_compiled = compiler(reorder_sums=False)

MAX_SMALL_SUM = 127
"""Signs that an int8 can add up."""


@_compiled
def sum_rows(bits: np.ndarray, weight: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    """Fill each row of `out` with c and the rows of D whose bits are on.

    Args:
        bits: (n, h) int8.
        weight: D, (h, d) floats, as those that follow.
        bias: c, (d,).
        out: (n, d), filled in.
    """
    on = np.empty(bits.shape[1] + 1, np.int32)
    for row in range(len(bits)):
        n_on = 0
        for bit in range(bits.shape[1]):
            on[n_on] = bit
            n_on += bits[row, bit]
        _sum_terms(on[:n_on], weight, bias, out[row])


@_compiled
def sum_packed_rows(
    codes: np.ndarray, weight: np.ndarray, bias: np.ndarray, out: np.ndarray
) -> None:
    """Fill each row of `out` with c and the rows of D whose bits are on.

    Args:
        codes: (n, ceil(h / 8)) uint8, least significant bit first; what is beyond h bits is not
            looked at.
        weight: D, (h, d) floats, as those that follow.
        bias: c, (d,).
        out: (n, d), filled in.
    """
    n_bits = len(weight)
    on = np.empty(8 * codes.shape[1] + 1, np.int32)
    for row in range(len(codes)):
        n_on = 0
        for place in range(codes.shape[1]):
            byte = codes[row, place]
            if byte != 0:
                for bit in range(8 * place, min(8 * place + 8, n_bits)):
                    on[n_on] = bit
                    n_on += (byte >> (bit - 8 * place)) & 1
        _sum_terms(on[:n_on], weight, bias, out[row])


@_compiled
def sum_columns(words: np.ndarray, first: int, rows: np.ndarray, out: np.ndarray) -> None:
    """Fill each row of `out` with the sum of the rows in which its bit is on.

    Args:
        words: (w, h) uint64.
        first: the bit of `out`'s first row.
        rows: (n, d) floats.
        out: (b, d) of their dtype, filled in.
    """
    on, nothing = np.empty(64 * len(words), np.int32), np.zeros(rows.shape[1], rows.dtype)
    for bit in range(len(out)):
        n_on = 0
        for place in range(len(words)):
            word = words[place, first + bit]
            while word != 0:
                lowest = word & (~word + np.uint64(1))
                on[n_on] = 64 * place + np.int32(_count_ones(lowest - np.uint64(1)))
                n_on += 1
                word ^= lowest
        _sum_terms(on[:n_on], rows, nothing, out[bit])


@_compiled
def _sum_terms(on: np.ndarray, terms: np.ndarray, first: np.ndarray, out: np.ndarray) -> None:
    """Fill (d,) with a first term, (d,), and those rows of (m, d) that are listed, four at a time.

    Args:
        on: (k,) int32, the rows, each below m.
        terms: (m, d) floats, as those that follow.
        first: (d,).
        out: (d,), filled in.
    """
    n_dims, n_fours = len(out), len(on) // 4
    for k in range(n_dims):
        out[k] = first[k]
    for four in range(n_fours):
        a, b = terms[on[4 * four]], terms[on[4 * four + 1]]
        c, d = terms[on[4 * four + 2]], terms[on[4 * four + 3]]
        for k in range(n_dims):
            out[k] += (a[k] + b[k]) + (c[k] + d[k])
    for place in range(4 * n_fours, len(on)):
        a = terms[on[place]]
        for k in range(n_dims):
            out[k] += a[k]


@_compiled
def pack_columns(bits: np.ndarray, words: np.ndarray) -> None:
    """Pack 64 rows to a word.

    Args:
        bits: (n, h) int8.
        words: (ceil(n / 64), h) uint64, filled in.
    """
    for row in range(len(bits)):
        word, shift = words[row // 64], np.uint64(row % 64)
        if shift == 0:
            for bit in range(len(word)):
                word[bit] = 0
        for bit in range(len(word)):
            word[bit] |= np.uint64(bits[row, bit]) << shift


@_compiled
def compare_pairs(
    words: np.ndarray,
    chosen: np.ndarray,
    counts: np.ndarray,
    chosen_counts: np.ndarray,
    n_rows: int,
    first: int,
    signs: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Compare each of some bits with every chosen one: do they covary, and how much.

    v_ij = n (rows with both) - (rows with i) (rows with j) is n^2 times their covariance, exactly.

    Args:
        words: (w, h) uint64.
        chosen: (w, m) uint64, of the chosen bits.
        counts: (h,) int64, rows in which a bit is on.
        chosen_counts: (m,) int64.
        n_rows: n; m n^2 must be below 2^65, for the sums.
        first: the bit i of the first row of `signs`.
        signs: (b, m) int8, filled in with the signs of v.
        sums: (b, 2) int64, filled in with the sums over j of |v_ij|, and of sign(v_ij) times the
            number of rows with j.
    """
    n_chosen = chosen.shape[1]
    both = np.empty(n_chosen, np.int32)
    for i in range(len(signs)):
        for j in range(n_chosen):
            both[j] = 0
        for place in range(len(words)):
            word, others = words[place, first + i], chosen[place]
            for j in range(n_chosen):
                both[j] += np.int32(_count_ones(word & others[j]))
        own, size, weighted = counts[first + i], 0, 0
        for j in range(n_chosen):
            value = n_rows * np.int64(both[j]) - own * chosen_counts[j]
            sign = np.int64(value > 0) - np.int64(value < 0)
            signs[i, j] = sign
            size += sign * value
            weighted += sign * chosen_counts[j]
        sums[i, 0], sums[i, 1] = size, weighted


@_compiled
def fill_slopes(
    bits: np.ndarray,
    columns: np.ndarray,
    signs: np.ndarray,
    signs_by_column: np.ndarray,
    centre: np.ndarray,
    column_centre: np.ndarray,
    scale: float,
    out: np.ndarray,
) -> None:
    """Fill in scale times what each bit of a row does to the sum of |v|.

    out_i = scale (sum over chosen j of s_ij b_j - centre_i), and for a chosen bit j = columns[q]
    besides scale (sum over all i of s_ij b_i - column_centre_q).

    Args:
        bits: (n, h) int8.
        columns: (m,) int64, the chosen bits.
        signs: (h, m) int8 of -1, 0 and 1.
        signs_by_column: (m, h), the same transposed.
        centre: (h,) floats, the means of the first sums.
        column_centre: (m,), those of the second; (0,) to leave the second out.
        scale: what all is multiplied by.
        out: (n, h) floats, filled in.
    """
    n_bits, n_chosen = signs.shape
    on = np.empty(n_bits + 1, np.int32)
    small, wide = np.empty(n_bits, np.int8), np.empty(n_bits, np.int32)
    for row in range(len(bits)):
        own, n_on = bits[row], 0
        for place in range(n_chosen):
            on[n_on] = place
            n_on += own[columns[place]]
        _sum_signs(signs_by_column, on[:n_on], small, wide)
        for bit in range(n_bits):
            out[row, bit] = scale * (wide[bit] - centre[bit])
        if len(column_centre) > 0:
            n_on = 0
            for bit in range(n_bits):
                on[n_on] = bit
                n_on += own[bit]
            _sum_signs(signs, on[:n_on], small[:n_chosen], wide[:n_chosen])
            for place in range(n_chosen):
                out[row, columns[place]] += scale * (wide[place] - column_centre[place])


@_compiled
def _sum_signs(signs: np.ndarray, which: np.ndarray, small: np.ndarray, wide: np.ndarray) -> None:
    """Fill in the sum of some rows of signs, adding as many as an int8 holds in that.

    Args:
        signs: (h, m) int8.
        which: (k,) int32, the rows.
        small: (m,) int8, room.
        wide: (m,) int32, filled in.
    """
    n_columns = len(wide)
    for k in range(n_columns):
        wide[k] = 0
    for start in range(0, len(which), MAX_SMALL_SUM):
        for k in range(n_columns):
            small[k] = 0
        for place in range(start, min(len(which), start + MAX_SMALL_SUM)):
            term = signs[which[place]]
            for k in range(n_columns):
                small[k] += term[k]
        for k in range(n_columns):
            wide[k] += small[k]


@_compiled
def _count_ones(word: np.uint64) -> np.uint64:
    """Count bits in the way that compilers know and make one instruction of."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + (
        (word >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)
