"""The binary autoencoder: linear map, step, linear map back (arXiv 2509.20997, section 3)."""

from __future__ import annotations

import torch

from bitcodec.config import Surrogate
from bitcodec.sparse_products import reconstruct
from bitcodec.surrogate import step


class BinaryAutoencoder(torch.nn.Module):
    """Map hidden states to bits and back, through standardised coordinates.

    z = (x - mean) / scale;  logits = z E^T + e;  bits = step(logits);  z' = bits D + c;
    x' = scale z' + mean. A dimension whose scale is 0 is constant: its z is 0.

    In stages, bits are computed group by group, each from what the groups before it left:
    logits_s = (z - sum_{t<s} bits_t D_t) E_s^T + e_s. A single threshold could not give the low
    digits of a number. One stage is the paper's autoencoder.

    Args:
        n_dims: width d of the hidden states.
        n_bits: number of bits h.
        side_bytes: bytes beside the bits of each row. Where there are any, every z is brought to
            the length sqrt(d), so that a row's size is not its code's business.
        weighed: errors do not count by their length in z, see `bitcodec.weighing`.

    Attributes:
        encoder_weight: E, (h, d).
        encoder_bias: e, (h,).
        decoder_weight: D, (h, d).
        decoder_bias: c, (d,).
        mean: (d,), in the units of the hidden states.
        scale: (d,), standard deviations in the same units.
        stages: (h,) int32, the stage of each bit.
        side_bytes: (), int32.
        shrinkage: (), what unbiased estimates are multiplied by where least error counts.
        error_root: R, (d, d), an error e of z counts |e R|^2; None where it counts |e|^2.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    stages: torch.Tensor
    side_bytes: torch.Tensor
    shrinkage: torch.Tensor
    error_root: torch.Tensor | None

    def __init__(
        self, *, n_dims: int, n_bits: int, side_bytes: int = 0, weighed: bool = False
    ) -> None:
        super().__init__()
        self.unit_rows = side_bytes > 0
        self.register_buffer("side_bytes", torch.tensor(side_bytes, dtype=torch.int32))
        self.encoder_weight = torch.nn.Parameter(torch.zeros(n_bits, n_dims))
        self.encoder_bias = torch.nn.Parameter(torch.zeros(n_bits))
        self.decoder_weight = torch.nn.Parameter(torch.zeros(n_bits, n_dims))
        self.decoder_bias = torch.nn.Parameter(torch.zeros(n_dims))
        self.register_buffer("mean", torch.zeros(n_dims))
        self.register_buffer("scale", torch.ones(n_dims))
        self.register_buffer("stages", torch.zeros(n_bits, dtype=torch.int32))
        self.register_buffer("shrinkage", torch.ones(()))
        self.register_buffer("error_root", torch.eye(n_dims) if weighed else None)

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
        standardised = (hidden - self.mean) * self.inverse_scale()
        return to_unit_rows(standardised) if self.unit_rows else standardised

    def inverse_scale(self) -> torch.Tensor:
        """Return 1 / scale, (d,), with 0 for constant dimensions."""
        return torch.where(self.scale > 0, 1 / self.scale, 0.0)

    def weigh(self, standardised: torch.Tensor) -> torch.Tensor:
        """Return z R, (n, d), of z or of decoder rows: there errors count by their length."""
        return standardised if self.error_root is None else standardised @ self.error_root

    def logits(self, standardised: torch.Tensor) -> torch.Tensor:
        """Return the encoder's output before the step, (n, h), of z (n, d)."""
        return torch.nn.functional.linear(standardised, self.encoder_weight, self.encoder_bias)

    @torch.no_grad()
    def encode(self, standardised: torch.Tensor) -> torch.Tensor:
        """Return bits, (n, h) float32 of 0 and 1, of z (n, d), stage by stage."""
        groups = stage_groups(self.stages)
        if len(groups) == 1:
            return (self.logits(standardised) >= 0).float()
        residual = standardised.clone()
        bits = standardised.new_empty(len(standardised), self.n_bits)
        for group in groups:
            logits = residual @ self.encoder_weight[group].T + self.encoder_bias[group]
            on = (logits >= 0).float()
            bits[:, group] = on
            residual -= on @ self.decoder_weight[group]
        return bits

    def reconstruct(self, bits: torch.Tensor) -> torch.Tensor:
        """Return z', (n, d), of float bits (n, h)."""
        return reconstruct(bits, self.decoder_weight, self.decoder_bias)

    def forward(
        self,
        standardised: torch.Tensor,
        *,
        surrogate: Surrogate = "sigmoid",
        temperature: float | torch.Tensor = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode and decode with a surrogate gradient.

        Args:
            standardised: z, (n, d).
            surrogate: how gradients pass the step.
            temperature: of the surrogate; a number, or () float on the model's device.
            generator: of the noise of a stochastic surrogate, on the model's device.

        Returns:
            Bits (n, h) of 0 and 1 as floats, and z' (n, d).
        """
        logits = self.logits(standardised)
        bits = step(logits, surrogate=surrogate, temperature=temperature, generator=generator)
        return bits, self.reconstruct(bits)

    @torch.no_grad()
    def select(self, kept: torch.Tensor) -> BinaryAutoencoder:
        """Return a model of some of the bits, with their rows of encoder and decoder.

        Args:
            kept: (h,) bool, at least one of them true.
        """
        smaller = BinaryAutoencoder(
            n_dims=self.n_dims,
            n_bits=int(kept.sum()),
            side_bytes=2 if self.unit_rows else 0,
            weighed=self.error_root is not None,
        ).to(self.mean.device)
        per_bit = {"encoder_weight", "encoder_bias", "decoder_weight", "stages"}
        state = {
            name: value[kept] if name in per_bit else value
            for name, value in self.state_dict().items()
        }
        smaller.load_state_dict(state)
        return smaller

    @torch.no_grad()
    def flip(self, which: torch.Tensor) -> None:
        """Exchange 0 and 1 of some bits, leaving every reconstruction as it is.

        E_j, e_j -> -E_j, -e_j; c += D_j; D_j -> -D_j. Exact up to float rounding and to rows
        whose logit is exactly 0, where the step is 1 on both sides.

        Args:
            which: (h,) bool, the bits to flip.
        """
        for group in stage_groups(self.stages)[1:]:
            # Flipping a bit moves what it leaves to later stages by its decoder row.
            earlier = which & (self.stages < self.stages[group[0]])
            moved = earlier.to(self.decoder_weight.dtype) @ self.decoder_weight
            self.encoder_bias[group] -= self.encoder_weight[group] @ moved
        sign = 1 - 2 * which.to(self.encoder_weight.dtype)
        self.decoder_bias.add_(which.to(self.decoder_weight.dtype) @ self.decoder_weight)
        self.encoder_weight.mul_(sign[:, None])
        self.encoder_bias.mul_(sign)
        self.decoder_weight.mul_(sign[:, None])


def to_unit_rows(standardised: torch.Tensor) -> torch.Tensor:
    """Bring rows, (n, d), to the length sqrt(d); rows of zeros stay."""
    length = standardised.norm(dim=1, keepdim=True)
    unit = standardised / torch.where(length > 0, length, 1)
    unit *= standardised.shape[1] ** 0.5
    return unit


def stage_groups(stages: torch.Tensor) -> list[torch.Tensor]:
    """Return the bits of every stage, (m,) int64 each, stages ascending."""
    return [(stages == stage).nonzero().flatten() for stage in stages.unique()]
