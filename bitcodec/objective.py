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


def measure(
    model: BinaryAutoencoder,
    standardised: torch.Tensor,
    config: CodecConfig,
    *,
    progress: float,
    generator: torch.Generator,
    noise: torch.Generator | None = None,
) -> Terms:
    """Return the terms of a minibatch.

    Args:
        model: the autoencoder.
        standardised: z, (b, d), this process's rows.
        config: surrogate, precision, weights.
        progress: the share of the steps done.
        generator: of the covariance's columns, alike in all processes.
        noise: of a stochastic surrogate, on the model's device.
    """
    precise = config.precision == "float32"
    with torch.autocast(standardised.device.type, torch.bfloat16, enabled=not precise):
        bits, reconstructed = model(
            standardised,
            surrogate=config.surrogate,
            temperature=schedule.temperature(config, progress),
            generator=noise,
        )
    return terms_of(standardised, bits, reconstructed, config, generator=generator)


def terms_of(
    standardised: torch.Tensor,
    bits: torch.Tensor,
    reconstructed: torch.Tensor,
    config: CodecConfig,
    *,
    generator: torch.Generator,
) -> Terms:
    """Return the terms of a minibatch whose bits and reconstruction are known.

    Args:
        standardised: z, (b, d).
        bits: (b, h) float of 0 and 1.
        reconstructed: z', (b, d).
        config: the objective and its weights.
        generator: of the covariance's columns.
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
    return Terms(
        error=error,
        fvu=error.detach(),
        entropy=losses.entropy(bits),
        covariance=_covariance(bits, config, generator),
        bits=bits.detach(),
        residual=residual.detach(),
    )


def total(
    terms: Terms, config: CodecConfig, *, n_dims: int, entropy_weight: float, progress: float
) -> torch.Tensor:
    """Return the loss, () float32.

    Standard: error + share (beta H / d + gamma C / h^2), the share rising from 0 to 1, except that
    a beta steered to a target counts whole. Published:
    error + alpha_e H + alpha_c C, entropy counting from a quarter of the steps on.

    Args:
        terms: of `measure`.
        config: the objective and its weights.
        n_dims: width d.
        entropy_weight: beta as it is now, which a target may have steered away from the config's.
        progress: the share of the steps done.
    """
    if config.objective == "published":
        weight = entropy_weight if progress >= schedule.PUBLISHED_START else 0.0
        return terms.error + weight * terms.entropy + config.covariance_weight * terms.covariance
    n_bits = terms.bits.shape[1]
    share = schedule.penalty_share(progress)
    # A steered weight begins small, in place of being taken in part.
    entropy = (1.0 if config.has_target else share) * entropy_weight / n_dims * terms.entropy
    covariance = share * config.covariance_weight / n_bits**2 * terms.covariance
    return terms.error + entropy + covariance


def _covariance(
    bits: torch.Tensor, config: CodecConfig, generator: torch.Generator
) -> torch.Tensor:
    if config.covariance_weight == 0:
        return bits.new_zeros((), dtype=torch.float32)
    return losses.covariance(bits, n_columns=config.covariance_columns, generator=generator)
