"""The binary autoencoder: linear map, step, linear map back (arXiv 2509.20997, section 3)."""

from __future__ import annotations

import torch

from bitcodec.config import Surrogate
from bitcodec.surrogate import step


class BinaryAutoencoder(torch.nn.Module):
    """Map hidden states to bits and back, through standardised coordinates.

    z = (x - mean) / scale;  logits = z E^T + e;  bits = step(logits);  z' = bits D + c;
    x' = scale z' + mean. A dimension whose scale is 0 is constant: its z is 0.

    Args:
        n_dims: width d of the hidden states.
        n_bits: number of bits h.

    Attributes:
        encoder_weight: E, (h, d).
        encoder_bias: e, (h,).
        decoder_weight: D, (h, d).
        decoder_bias: c, (d,).
        mean: (d,), in the units of the hidden states.
        scale: (d,), standard deviations in the same units.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, *, n_dims: int, n_bits: int) -> None:
        super().__init__()
        self.encoder_weight = torch.nn.Parameter(torch.zeros(n_bits, n_dims))
        self.encoder_bias = torch.nn.Parameter(torch.zeros(n_bits))
        self.decoder_weight = torch.nn.Parameter(torch.zeros(n_bits, n_dims))
        self.decoder_bias = torch.nn.Parameter(torch.zeros(n_dims))
        self.register_buffer("mean", torch.zeros(n_dims))
        self.register_buffer("scale", torch.ones(n_dims))

    @property
    def n_dims(self) -> int:
        """Width d of the hidden states."""
        return self.encoder_weight.shape[1]

    @property
    def n_bits(self) -> int:
        """Number of bits h."""
        return self.encoder_weight.shape[0]

    def standardise(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return z, (n, d), of hidden states (n, d)."""
        return (hidden - self.mean) * self.inverse_scale()

    def inverse_scale(self) -> torch.Tensor:
        """Return 1 / scale, (d,), with 0 for constant dimensions."""
        return torch.where(self.scale > 0, 1 / self.scale, 0.0)

    def logits(self, standardised: torch.Tensor) -> torch.Tensor:
        """Return the encoder's output before the step, (n, h), of z (n, d)."""
        return torch.nn.functional.linear(standardised, self.encoder_weight, self.encoder_bias)

    def reconstruct(self, bits: torch.Tensor) -> torch.Tensor:
        """Return z', (n, d), of float bits (n, h)."""
        return torch.addmm(self.decoder_bias, bits, self.decoder_weight)

    def forward(
        self,
        standardised: torch.Tensor,
        *,
        surrogate: Surrogate = "sigmoid",
        temperature: float = 1.0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode and decode with a surrogate gradient.

        Args:
            standardised: z, (n, d).
            surrogate: how gradients pass the step.
            temperature: of the sigmoid surrogate.

        Returns:
            Bits (n, h) of 0 and 1 as floats, and z' (n, d).
        """
        bits = step(self.logits(standardised), surrogate=surrogate, temperature=temperature)
        return bits, self.reconstruct(bits)

    @torch.no_grad()
    def flip(self, which: torch.Tensor) -> None:
        """Exchange 0 and 1 of some bits, leaving every reconstruction as it is.

        E_j, e_j -> -E_j, -e_j; c += D_j; D_j -> -D_j. Exact up to float rounding and to rows
        whose logit is exactly 0, where the step is 1 on both sides.

        Args:
            which: (h,) bool, the bits to flip.
        """
        sign = 1 - 2 * which.to(self.encoder_weight.dtype)
        self.decoder_bias.add_(which.to(self.decoder_weight.dtype) @ self.decoder_weight)
        self.encoder_weight.mul_(sign[:, None])
        self.encoder_bias.mul_(sign)
        self.decoder_weight.mul_(sign[:, None])
