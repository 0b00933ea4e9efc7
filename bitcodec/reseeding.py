"""New work for dead bits, found in what searched codes leave unexplained.

A bit that is on in the rows S and adds v to them saves sum over S of 2 r v - |v|^2 - price of their
residuals r. In turn S becomes the rows in which that is positive, v the mean of their residuals and
the price what the share of S costs: entropy-constrained quantisation (Chou, Lookabaugh and Gray
1989) with two centres of which one is 0. K-SVD (Aharon, Elad and Bruckstein 2006) gives an unused
atom the worst row itself; on hidden states such rows have little in common, and the residuals'
principal components are better to begin with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from bitcodec.bits import pack, unpack
from bitcodec.model import BinaryAutoencoder
from bitcodec.refine import rate_prices

ROWS, ROWS_PER_DIMENSION = 2**14, 8
"""Rows in which new bits are looked for: the larger of the first, and the second times d."""
N_DIRECTIONS = 32
"""Principal components of the residuals that are tried together, each in both directions."""
FIRST_SHARE = 0.1
"""Of the rows, those furthest along a direction, with which it begins: of fewer rows the mean is
mostly their own noise."""
N_ALTERNATIONS = 10
"""Of rows and means."""
MIN_ROWS = 8
"""Rows that a new bit must be on in: rarer ones would be dead again elsewhere."""
MAX_OVERLAP = 0.5
"""Share of a new bit's rows that another of the same try may hold."""


class SearchedRows:
    """Some searched rows, kept while a stream of them passes; their codes take a bit each.

    Args:
        n_dims: d.
    """

    def __init__(self, n_dims: int) -> None:
        self._room = max(ROWS, ROWS_PER_DIMENSION * n_dims)
        self._rows: list[torch.Tensor] = []
        self._packed: list[np.ndarray] = []

    def tap(
        self, searched: Iterable[tuple[torch.Tensor, torch.Tensor]]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pass on pairs of bits (n, h) and z (n, d), keeping the first."""
        for bits, standardised in searched:
            if self._room > 0:
                self._rows.append(standardised)
                self._packed.append(pack(bits.to(torch.uint8).cpu().numpy()))
                self._room -= len(bits)
            yield bits, standardised

    def residuals(self, model: BinaryAutoencoder) -> tuple[torch.Tensor, torch.Tensor]:
        """Return z, (n, d), and what the model's decoder leaves of it, (n, d)."""
        left = []
        for rows, packed in zip(self._rows, self._packed, strict=True):
            bits = torch.from_numpy(unpack(packed, n_bits=model.n_bits)).to(rows)
            left.append(rows - model.reconstruct(bits))
        return torch.cat(self._rows), torch.cat(left)


@dataclass(frozen=True)
class _Candidates:
    """Bits that could be."""

    directions: torch.Tensor
    """v, (d, k)."""
    on: torch.Tensor
    """(n, k) bool."""
    gains: torch.Tensor
    """(k,) squared error saved, less the price, each row counted with the mean of the others."""


@torch.no_grad()
def reseed(
    model: BinaryAutoencoder, rows: SearchedRows, dead: torch.Tensor, *, entropy_weight: float
) -> torch.Tensor:
    """Give dead bits the decoder rows that save most, and encoder rows to match.

    Args:
        model: changed in place.
        rows: searched; the decoder may have been refitted to them since.
        dead: (h,) bool.
        entropy_weight: beta, what a bit costs.

    Returns:
        (h,) float64: the share of rows in which each bit with new work is on; 0 for all others.
        Dead bits are left as they are once nothing saves more than it costs.
    """
    shares = torch.zeros(model.n_bits, dtype=torch.float64, device=dead.device)
    waiting = dead.nonzero().flatten().tolist()
    if not waiting:
        return shares
    standardised, residuals = rows.residuals(model)
    while waiting:
        found = _look(residuals, entropy_weight)
        chosen = _choose(found)[: len(waiting)]
        if not chosen:
            break
        for candidate in chosen:
            bit = waiting.pop()
            on, direction = found.on[:, candidate], found.directions[:, candidate]
            residuals[on] -= direction
            model.decoder_weight[bit] = direction
            shares[bit] = on.double().mean()
            _aim(model, bit, standardised, float(shares[bit]))
    return shares


def _look(residuals: torch.Tensor, entropy_weight: float) -> _Candidates:
    """Return what the principal components of the residuals become."""
    n_rows = len(residuals)
    components = torch.linalg.eigh(residuals.T @ residuals).eigenvectors[:, -N_DIRECTIONS:]
    n_first = max(1, round(FIRST_SHARE * n_rows))
    projections = residuals @ torch.cat([components, -components], dim=1)
    on = projections >= projections.topk(n_first, dim=0).values[-1]
    for _ in range(N_ALTERNATIONS):
        counts = on.sum(dim=0)
        directions = (residuals.T @ on.to(residuals)) / counts.clamp(min=1)
        price = _prices(counts, n_rows, entropy_weight)
        costs = directions.square().sum(dim=0) + price
        on = 2 * (residuals @ directions) > costs
    counts = on.sum(dim=0)
    directions = (residuals.T @ on.to(residuals)) / counts.clamp(min=1)
    squares = on.T.to(residuals) @ residuals.square().sum(dim=1)
    gains = _savings(directions.square().sum(dim=0), squares, counts) - counts * price
    return _Candidates(directions, on, gains)


def _prices(counts: torch.Tensor, n_rows: int, entropy_weight: float) -> torch.Tensor:
    prices = rate_prices(counts.cpu().numpy(), n_rows, entropy_weight=entropy_weight)
    return torch.from_numpy(prices).to(counts.device, torch.float32)


def _savings(means: torch.Tensor, squares: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return what vectors save when each takes the mean of the others for itself, in squares.

    With v the mean of r_1 ... r_k and v_i that of all but r_i, the sum of 2 r_i v_i - |v_i|^2; the
    mean of all would save something of pure noise.

    Args:
        means: |v|^2, () or (m,).
        squares: sum of |r_i|^2, alike.
        counts: k, alike; of fewer than 2 vectors nothing is saved.
    """
    others = (counts - 1).clamp(min=1)
    products = (counts**2 * means - squares) / others
    lengths = (counts**2 * (counts - 2) * means + squares) / others**2
    return torch.where(counts > 1, 2 * products - lengths, 0.0)


def _choose(found: _Candidates) -> list[int]:
    """Return candidates that do different work, the best first."""
    counts = found.on.sum(dim=0)
    alive = (counts >= MIN_ROWS) & (found.gains > 0)
    taken = torch.zeros(len(found.on), dtype=torch.bool, device=found.on.device)
    chosen = []
    for candidate in found.gains.argsort(descending=True).tolist():
        on = found.on[:, candidate]
        if alive[candidate] and (on & taken).sum() <= MAX_OVERLAP * counts[candidate]:
            taken |= on
            chosen.append(candidate)
    return chosen


def _aim(model: BinaryAutoencoder, bit: int, standardised: torch.Tensor, share: float) -> None:
    """Let the linear pass turn a bit on in as many rows, those furthest along its decoder row."""
    logits = standardised @ model.decoder_weight[bit]
    spread = logits.std().clamp(min=torch.finfo(torch.float32).tiny)
    threshold = logits.topk(max(1, round(share * len(logits)))).values[-1]
    model.encoder_weight[bit] = model.decoder_weight[bit] / spread
    model.encoder_bias[bit] = -threshold / spread
