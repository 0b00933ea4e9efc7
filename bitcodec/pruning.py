"""Dropping the bits that do not earn their price.

With B the centred bits of n rows and G = B^T B, a bit j whose decoder row is taken away, the other
rows being refitted, raises the squared error by |D_j|^2 / (G^-1)_jj (optimal brain surgery, Hassibi
and Stork 1993). A bit is worth keeping where that is more than its price: beta times the bits it
costs, n H2(p_j) for its values in n rows and (d / 2) log2 n for its decoder row (the two parts of a
description, Rissanen 1983), so that a bit of a few rows must do more than fit their noise. What
remains on data with known bits are those bits: duplicates and combinations of others are dropped,
since the others can replace them.
"""

from __future__ import annotations

import math

import torch

from bitcodec.errors import ValueRangeError
from bitcodec.model import BinaryAutoencoder
from bitcodec.normal_equations import NormalEquations
from bitcodec.statistics import binary_entropy

BLOCK = 64
"""Drops between two updates of the whole inverse, which are then one product."""


@torch.no_grad()
def prune(
    model: BinaryAutoencoder, sums: NormalEquations, *, penalty: float, entropy_weight: float
) -> tuple[BinaryAutoencoder, torch.Tensor]:
    """Drop bits while one saves more entropy than it costs error.

    The error is that of a decoder refitted to the bits that are left.

    Args:
        model: the autoencoder, left as it is.
        sums: `sum_errors` of the model.
        penalty: ridge of the refit, in rows; it pulls towards the model's decoder.
        entropy_weight: beta, FVU per bit per dimension.

    Returns:
        A model of the bits that are left, and (h,) bool which they are.

    Raises:
        ValueRangeError: no bit is worth its price.
    """
    activity = sums.bit_sums / sums.n_rows
    entropies = torch.from_numpy(binary_entropy(activity.cpu().numpy())).to(activity)
    description = model.n_dims / 2 * math.log2(sums.n_rows)
    price = entropy_weight * (sums.n_rows * entropies + description)
    price[entropies == 0] = torch.inf  # a constant is the bias's business
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(sums.gram(penalty=penalty)))
    change, bias = sums.solve(penalty=penalty)
    decoder = model.decoder_weight.double() + change
    mean = bias + activity @ decoder
    kept = choose_bits(inverse, decoder, price)
    if not kept.any():
        raise ValueRangeError(
            "no bit is worth its price, all would be pruned: lower entropy_weight "
            f"(now {entropy_weight:.3g})"
        )
    smaller = model.select(kept)
    smaller.decoder_weight.copy_(decoder[kept])
    smaller.decoder_bias.add_(mean - activity[kept] @ decoder[kept])
    return smaller, kept


def choose_bits(inverse: torch.Tensor, decoder: torch.Tensor, price: torch.Tensor) -> torch.Tensor:
    """Drop the cheapest bit again and again, while one costs less than it saves.

    Args:
        inverse: (h, h) float64, inverse of G with its ridge; overwritten.
        decoder: (h, d) float64, the decoder of least squared error; overwritten by that of the
            bits that are kept, in their rows.
        price: (h,) float64, the squared error that dropping each bit may cost.

    Returns:
        (h,) bool, the bits to keep.
    """
    kept = torch.ones(len(price), dtype=torch.bool, device=price.device)
    while _drop_block(inverse, decoder, price, kept) == BLOCK:
        pass
    return kept


def _drop_block(
    inverse: torch.Tensor, decoder: torch.Tensor, price: torch.Tensor, kept: torch.Tensor
) -> int:
    """Drop up to `BLOCK` bits and return how many; `kept` tells which are left.

    Every drop changes all others' costs, exactly. Only the bulk of inverse and decoder lags behind
    until the block's end: within it they are inverse - columns^T shares and decoder -
    shares^T rows. So a drop takes O(h d), and the h^2 numbers are written once a block.
    """
    n_bits, n_dims = decoder.shape
    diagonal = torch.where(kept, inverse.diagonal(), 1.0)
    squares = decoder.square().sum(dim=1)
    columns, shares = inverse.new_zeros(BLOCK, n_bits), inverse.new_zeros(BLOCK, n_bits)
    rows = decoder.new_zeros(BLOCK, n_dims)
    n_dropped = 0
    while n_dropped < BLOCK:
        loss = torch.where(kept, squares / diagonal - price, torch.inf)
        bit = int(loss.argmin())
        if not loss[bit] < 0:
            break
        row = decoder[bit] - shares[:, bit] @ rows
        column = inverse[bit] - shares[:, bit] @ columns
        share = column / diagonal[bit]
        inner = decoder @ row - shares.T @ (rows @ row)
        columns[n_dropped], shares[n_dropped], rows[n_dropped] = column, share, row
        squares += share.square() * squares[bit].clone() - 2 * share * inner
        diagonal = torch.where(kept, diagonal - share * column, 1.0)
        diagonal[bit] = 1.0
        kept[bit] = False
        n_dropped += 1
    inverse -= columns.T @ shares
    decoder -= shares.T @ rows
    return n_dropped
