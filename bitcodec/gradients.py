"""Looking at the gradient that passes the step, and at how true it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bitcodec import objective, schedule
from bitcodec.config import CodecConfig
from bitcodec.model import BinaryAutoencoder
from bitcodec.surrogate import slope, step

VANISHING = 0.01
"""Share of the steepest slope below which a logit's gradient has vanished."""


@dataclass(frozen=True)
class StepGradient:
    """The gradient that flows through the step in one minibatch."""

    incoming_norm: float
    """Norm of the loss's gradient at the bits, before the surrogate."""
    norm: float
    """Norm of the loss's gradient at the logits, behind it."""
    vanishing: float
    """Share of the logits whose slope is below a hundredth of the steepest; 0 for surrogates that
    do not look at the logits."""


def measure_step_gradient(
    model: BinaryAutoencoder, standardised: torch.Tensor, config: CodecConfig, *, progress: float
) -> StepGradient:
    """Measure the gradient through the step, leaving the model as it is.

    Args:
        model: the autoencoder.
        standardised: z, (b, d).
        config: surrogate and objective.
        progress: the share of the steps done.
    """
    temperature = schedule.temperature(config, progress)
    noise = torch.Generator(standardised.device).manual_seed(config.seed)
    logits = model.logits(standardised).detach().requires_grad_()
    bits = step(logits, surrogate=config.surrogate, temperature=temperature, generator=noise)
    loss = _loss(model, standardised, bits, config, progress=progress)
    incoming, behind = torch.autograd.grad(loss, [bits, logits])
    return StepGradient(
        incoming_norm=float(incoming.norm()),
        norm=float(behind.norm()),
        vanishing=_vanishing(logits.detach(), config, temperature),
    )


def encoder_gradient(
    model: BinaryAutoencoder, standardised: torch.Tensor, config: CodecConfig, *, progress: float
) -> torch.Tensor:
    """Return the surrogate gradient of the loss in the encoder, (h (d + 1),) float32.

    Args:
        model: the autoencoder; left as it is.
        standardised: z, (b, d).
        config: surrogate and objective.
        progress: the share of the steps done.
    """
    noise = torch.Generator(standardised.device).manual_seed(config.seed)
    bits = step(
        model.logits(standardised),
        surrogate=config.surrogate,
        temperature=schedule.temperature(config, progress),
        generator=noise,
    )
    loss = _loss(model, standardised, bits, config, progress=progress)
    weights = [model.encoder_weight, model.encoder_bias]
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, weights)])


@torch.no_grad()
def score_function_gradient(
    model: BinaryAutoencoder,
    standardised: torch.Tensor,
    config: CodecConfig,
    *,
    progress: float,
    width: float,
    n_samples: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Estimate the gradient of the loss itself, without a surrogate, for small models.

    The loss is piecewise constant in the encoder, so that its gradient is 0 almost everywhere. That
    of its mean over encoders theta + width * e with Gaussian e is not: it is the mean of
    e (L(theta + width e) - L(theta - width e)) / (2 width) (Salimans et al. 2017, evolution
    strategies with antithetic samples).

    Args:
        model: the autoencoder; left as it is.
        standardised: z, (b, d).
        config: the objective.
        progress: the share of the steps done.
        width: of the Gaussian, in units of the weights.
        n_samples: pairs of encoders; the error falls with its root.
        generator: the source of randomness.

    Returns:
        (h (d + 1),) float32, in the order of `encoder_gradient`.
    """
    n_weights, device = model.encoder_weight.numel() + model.n_bits, standardised.device
    total = torch.zeros(n_weights, device=device)
    for _ in range(n_samples):
        direction = torch.randn(n_weights, generator=generator, device=generator.device).to(device)
        sides = [
            _loss_of_encoder(model, standardised, config, sign * width * direction, progress)
            for sign in (1, -1)
        ]
        total += (sides[0] - sides[1]) / (2 * width) * direction
    return total / n_samples


def _loss_of_encoder(
    model: BinaryAutoencoder,
    standardised: torch.Tensor,
    config: CodecConfig,
    change: torch.Tensor,
    progress: float,
) -> float:
    weight, bias = change[: -model.n_bits].view_as(model.encoder_weight), change[-model.n_bits :]
    logits = torch.nn.functional.linear(
        standardised, model.encoder_weight + weight, model.encoder_bias + bias
    )
    return float(_loss(model, standardised, (logits >= 0).float(), config, progress=progress))


def _loss(
    model: BinaryAutoencoder,
    standardised: torch.Tensor,
    bits: torch.Tensor,
    config: CodecConfig,
    *,
    progress: float,
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(config.seed)
    columns = objective.draw_columns(config, model.n_bits, generator)
    on_device = None if columns is None else columns.to(bits.device)
    reconstructed = model.reconstruct(bits)
    terms = objective.terms_of(standardised, bits, reconstructed, config, columns=on_device)
    weights = objective.weights_at(
        config,
        n_bits=model.n_bits,
        n_dims=model.n_dims,
        entropy_weight=config.entropy_weight,
        progress=progress,
    )
    return objective.total(terms, weights)


def _vanishing(logits: torch.Tensor, config: CodecConfig, temperature: float) -> float:
    if config.surrogate == "published":
        return 0.0
    steepest = slope(logits.new_zeros(1), surrogate=config.surrogate, temperature=temperature)
    found = slope(logits, surrogate=config.surrogate, temperature=temperature)
    return float((found < VANISHING * steepest).float().mean())
