"""Ridge regression of hidden states on bits, accumulated over a stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch

from bitcodec.model import BinaryAutoencoder
from bitcodec.parallel import sum_over_processes

SUMMED_ROWS = 256
"""Rows that are summed in float64 at a time: torch makes a copy of them in that."""


@dataclass
class NormalEquations:
    """Sums from which the best linear decoder of given bits follows. Mergeable.

    Products are taken in float32 a batch at a time and summed in float64.
    """

    n_rows: int
    """Rows seen."""
    bit_sums: torch.Tensor
    """(h,) float64, the rows in which each bit is on."""
    target_sums: torch.Tensor
    """(d,) float64."""
    bit_products: torch.Tensor
    """(h, h) float64, B^T B."""
    cross_products: torch.Tensor
    """(h, d) float64, B^T Z."""

    @classmethod
    def empty(cls, *, n_bits: int, n_dims: int, device: torch.device) -> Self:
        """Start with no rows."""

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        return cls(
            n_rows=0,
            bit_sums=zeros(n_bits),
            target_sums=zeros(n_dims),
            bit_products=zeros(n_bits, n_bits),
            cross_products=zeros(n_bits, n_dims),
        )

    def update(self, bits: torch.Tensor, targets: torch.Tensor) -> None:
        """Add rows.

        Args:
            bits: (n, h) float32, values 0 or 1.
            targets: (n, d) float32.
        """
        self.n_rows += len(bits)
        for part in bits.split(SUMMED_ROWS):
            self.bit_sums += part.sum(dim=0, dtype=torch.float64)
        for part in targets.split(SUMMED_ROWS):
            self.target_sums += part.sum(dim=0, dtype=torch.float64)
        self.bit_products += bits.T @ bits
        self.cross_products += bits.T @ targets

    def solve(self, *, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the decoder of least squared error plus penalty times squared weights.

        Args:
            penalty: positive, in rows: as strong as that many rows in which a bit varies and the
                target is 0.

        Returns:
            Weights D (h, d) and bias c (d,), float64. A bit that never varies gets weight 0.
        """
        mean_bits, mean_targets = self.bit_sums / self.n_rows, self.target_sums / self.n_rows
        cross = self.cross_products - self.n_rows * torch.outer(mean_bits, mean_targets)
        weight = torch.cholesky_solve(cross, torch.linalg.cholesky(self.gram(penalty=penalty)))
        return weight, mean_targets - mean_bits @ weight

    def gram(self, *, penalty: float) -> torch.Tensor:
        """Return G + penalty I, (h, h) float64, with G = B^T B of the centred bits B."""
        mean_bits = self.bit_sums / self.n_rows
        gram = self.bit_products - self.n_rows * torch.outer(mean_bits, mean_bits)
        gram.diagonal().add_(penalty)
        return gram

    def select(self, kept: torch.Tensor) -> Self:
        """Return the sums of some of the bits, (h,) bool."""
        return dataclasses.replace(
            self,
            bit_sums=self.bit_sums[kept],
            bit_products=self.bit_products[kept][:, kept],
            cross_products=self.cross_products[kept],
        )

    def sum_over_processes(self) -> None:
        """Add up what several processes saw."""
        n_rows = self.bit_sums.new_tensor(float(self.n_rows))
        sum_over_processes(
            n_rows, self.bit_sums, self.target_sums, self.bit_products, self.cross_products
        )
        self.n_rows = int(n_rows)


@torch.no_grad()
def sum_errors(
    model: BinaryAutoencoder, encoded: Iterable[tuple[torch.Tensor, torch.Tensor]]
) -> NormalEquations:
    """Return the sums whose solution is what a model's decoder should change by.

    Args:
        model: the autoencoder.
        encoded: pairs of bits (n, h) and z (n, d), float32 on the model's device; at least one.
            Several processes add up their pairs.
    """
    sums = NormalEquations.empty(n_bits=model.n_bits, n_dims=model.n_dims, device=model.mean.device)
    for bits, standardised in encoded:
        sums.update(bits, standardised - model.reconstruct(bits))
    sums.sum_over_processes()
    return sums


@torch.no_grad()
def fit_decoder(
    model: BinaryAutoencoder,
    encoded: Iterable[tuple[torch.Tensor, torch.Tensor]],
    *,
    penalty: float,
) -> NormalEquations:
    """Move a model's decoder to the ridge regression of rows on their bits.

    The penalty is on the change of the weights, so that what training learned stays where the
    rows say nothing: with h near n, plain least squares would fit their noise.

    Args:
        model: its decoder weight and bias are changed.
        encoded: pairs of bits (n, h) and z (n, d), float32 on the model's device; at least one.
        penalty: as in `NormalEquations.solve`.

    Returns:
        The sums over all rows; the targets are the errors of the decoder as it was.
    """
    sums = sum_errors(model, encoded)
    weight, bias = sums.solve(penalty=penalty)
    model.decoder_weight.add_(weight)
    model.decoder_bias.add_(bias)
    return sums
