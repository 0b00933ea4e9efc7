"""What training minimises, as a sum of named terms of one minibatch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bitcodec import losses, schedule
from bitcodec.config import CodecConfig
from bitcodec.model import BinaryAutoencoder
from bitcodec.parallel import mean_over_processes


@dataclass(frozen=True)
class Terms:
    """The parts of the loss of one minibatch, each () float32, and its bits."""

    error: torch.Tensor
    """Mean squared error over rows and dimensions of standardised data."""
    fvu: torch.Tensor
    """Fraction of variance unexplained; the error, unless the data are not standardised."""
    entropy: torch.Tensor
    """Sum over the bits of H2 of their mean, in bits."""
    covariance: torch.Tensor
    """Sum over pairs of different bits of their absolute covariance; 0 where it has no weight."""
    bits: torch.Tensor
    """(b, h) float, of this process's rows."""
    residual: torch.Tensor
    """(b, d) float, z - z'."""


@dataclass(frozen=True)
class Weights:
    """What the terms of a loss count beside the error."""

    entropy: float | torch.Tensor
    """Of a bit of entropy; a number, or () float on the device."""
    covariance: float | torch.Tensor
    """Of the sum of absolute covariances, likewise."""


def measure(
    model: BinaryAutoencoder,
    standardised: torch.Tensor,
    config: CodecConfig,
    *,
    temperature: float | torch.Tensor,
    columns: torch.Tensor | None,
    noise: torch.Generator | None = None,
) -> Terms:
    """Return the terms of a minibatch, without asking the device for a number.

    Args:
        model: the autoencoder.
        standardised: z, (b, d), this process's rows.
        config: surrogate, precision, and which terms there are.
        temperature: of the surrogate; a number, or () float on the model's device.
        columns: of the covariance, (m,) int64 on the model's device, alike in all processes.
        noise: of a stochastic surrogate, on the model's device.
    """
    precise = config.precision == "float32"
    with torch.autocast(standardised.device.type, torch.bfloat16, enabled=not precise):
        bits, reconstructed = model(
            standardised, surrogate=config.surrogate, temperature=temperature, generator=noise
        )
    return terms_of(standardised, bits, reconstructed, config, columns=columns)


def terms_of(
    standardised: torch.Tensor,
    bits: torch.Tensor,
    reconstructed: torch.Tensor,
    config: CodecConfig,
    *,
    columns: torch.Tensor | None,
) -> Terms:
    """Return the terms of a minibatch whose bits and reconstruction are known.

    Args:
        standardised: z, (b, d).
        bits: (b, h) float of 0 and 1.
        reconstructed: z', (b, d).
        config: the objective and its weights.
        columns: of the covariance, as in `measure`.
    """
    residual = standardised - reconstructed.float()
    error = mean_over_processes(residual.square().mean())
    if config.objective == "published":
        return Terms(
            error=error,
            fvu=error.detach() / standardised.var(dim=0, correction=0).mean(),
            entropy=losses.published_entropy(bits),
            covariance=losses.published_covariance(bits),
            bits=bits.detach(),
            residual=residual.detach(),
        )
    weightless = config.covariance_weight == 0
    return Terms(
        error=error,
        fvu=error.detach(),
        entropy=losses.entropy(bits),
        covariance=(
            bits.new_zeros((), dtype=torch.float32)
            if weightless
            else losses.covariance_with(bits, columns)
        ),
        bits=bits.detach(),
        residual=residual.detach(),
    )


def draw_columns(
    config: CodecConfig, n_bits: int, generator: torch.Generator
) -> torch.Tensor | None:
    """Draw the covariance's columns for a minibatch; None where all count, or none does."""
    if config.objective == "published" or config.covariance_weight == 0:
        return None
    return losses.draw_columns(n_bits, n_columns=config.covariance_columns, generator=generator)


def weights_at(
    config: CodecConfig, *, n_bits: int, n_dims: int, entropy_weight: float, progress: float
) -> Weights:
    """Return what entropy and covariance count at a share of the steps.

    Standard: share (beta / d) and share (gamma / h^2), the share rising from 0 to 1, except that a
    beta steered to a target counts whole. Published: alpha_e, entropy counting from a quarter of
    the steps on, and alpha_c.

    Args:
        config: the objective and its weights.
        n_bits: h.
        n_dims: d.
        entropy_weight: beta as it is now, which a target may have steered away from the config's.
        progress: the share of the steps done.
    """
    if config.objective == "published":
        counts = progress >= schedule.PUBLISHED_START
        return Weights(entropy_weight if counts else 0.0, config.covariance_weight)
    share = schedule.penalty_share(progress)
    # A steered weight begins small, in place of being taken in part.
    entropy = (1.0 if config.has_target else share) * entropy_weight / n_dims
    return Weights(entropy, share * config.covariance_weight / n_bits**2)


def total(terms: Terms, weights: Weights) -> torch.Tensor:
    """Return the loss, () float32: the error, and the terms that its weights count."""
    return terms.error + weights.entropy * terms.entropy + weights.covariance * terms.covariance
