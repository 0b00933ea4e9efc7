"""Where training starts: scale of the data, encoder directions, thresholds, first decoder."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from bitcodec.batches import HiddenBatches
from bitcodec.config import CodecConfig
from bitcodec.errors import ConfigError, ShapeError, ValueRangeError
from bitcodec.hidden_checks import NOISE
from bitcodec.model import BinaryAutoencoder
from bitcodec.normal_equations import fit_decoder
from bitcodec.parallel import own_share
from bitcodec.transform import start_transform

logger = logging.getLogger(__name__)

SCALE_ROWS = 2**18
"""Rows from which mean and scale are taken; more change nothing that matters."""
START_ROWS, START_ROWS_PER_DIMENSION = 2**13, 8
"""Rows from which encoder and decoder start: the larger of the first, and the second times d."""
START_PENALTY = 100.0
"""Ridge of the first decoder, in rows."""


@dataclass(frozen=True)
class Sample:
    """What a first look at the data gives."""

    mean: torch.Tensor
    """(d,) float32."""
    scale: torch.Tensor
    """(d,) float32, standard deviations, or their quadratic mean; 0 for constant dimensions."""
    rows: torch.Tensor
    """(n, d) float32, some random rows."""


def take_rows(batches: Iterable[torch.Tensor], n_rows: int) -> Iterator[torch.Tensor]:
    """Yield batches until they hold at least `n_rows` rows."""
    n_taken = 0
    for batch in batches:
        yield batch
        n_taken += len(batch)
        if n_taken >= n_rows:
            return


def draw_sample(batches: HiddenBatches, config: CodecConfig, generator: torch.Generator) -> Sample:
    """Take mean, scale and some rows from random batches.

    Args:
        batches: the training data.
        config: the batch size and what to do about constant dimensions.
        generator: the source of randomness; it advances.

    Raises:
        ShapeError: there are fewer rows than a batch, or none.
        ConfigError: a dimension is constant and the configuration refuses it.
        ValueRangeError: a value is not finite.
    """
    moments: _Moments | None = None
    start: list[torch.Tensor] = []
    shuffled = batches.shuffled(config.batch_size, generator, keep_rest=True)
    for batch in take_rows(shuffled, SCALE_ROWS):
        if moments is None:
            moments = _Moments(origin=batch[0].double())
        if moments.n_rows < max(START_ROWS, START_ROWS_PER_DIMENSION * batch.shape[1]):
            start.append(batch)
        moments.update(batch)
    if moments is None or moments.n_rows < config.batch_size:
        raise _too_few_rows(batches, config)
    mean, scale = moments.mean_and_scale()
    _check_constant(scale, config)
    scale = _without_noise(scale)
    _check_tiny(scale)
    if config.scaling == "global":
        scale = torch.where(scale > 0, scale.square().mean().sqrt(), 0.0)
    return Sample(mean=mean.float(), scale=scale.float(), rows=torch.cat(start))


def mean_of(batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the mean, (d,) float32, of batches (b, d).

    Raises:
        ShapeError: there are no rows.
    """
    moments: _Moments | None = None
    for batch in batches:
        moments = moments or _Moments(origin=batch[0].double())
        moments.update(batch)
    if moments is None:
        raise ShapeError("hidden has no rows: pass at least one hidden state")
    return moments.mean_and_scale()[0].float()


@torch.no_grad()
def start_model(
    sample: Sample, config: CodecConfig, *, generator: torch.Generator, device: torch.device
) -> BinaryAutoencoder:
    """Build an autoencoder as the configuration's `start` says.

    From "directions", encoder rows are random standardised rows of the sample, scaled to logits
    of unit variance; the threshold of each makes it on in the share `initial_activity` of the
    sample; the decoder is the ridge regression on these bits. A start at activity 1/2 would stay
    there, since the entropy's derivative is 0 there. For "transform" see `bitcodec.transform`.
    With the published objective data are taken as they come, and weights start as
    torch.nn.Linear's do.

    Args:
        sample: a first look at the data.
        config: number of bits and initial activity.
        generator: the source of randomness; it advances.
        device: where the model is to be.
    """
    n_dims = len(sample.mean)
    n_bits, side_bytes = config.resolve_n_bits(n_dims), config.side_bytes
    model = BinaryAutoencoder(n_dims=n_dims, n_bits=n_bits, side_bytes=side_bytes)
    if config.objective == "published":
        return _start_published(model, generator).to(device)
    model.mean.copy_(sample.mean)
    model.scale.copy_(sample.scale)
    model.to(device)
    standardised = model.standardise(sample.rows.to(device))
    if config.starts_from_transform(n_dims):
        start_transform(model, standardised)
    else:
        _start_directions(model, standardised, config, generator=generator)
    return model


def _start_published(model: BinaryAutoencoder, generator: torch.Generator) -> BinaryAutoencoder:
    """Draw weights and biases uniformly within 1 / sqrt(inputs) of 0, as torch.nn.Linear does."""
    inputs = {
        model.encoder_weight: model.n_dims,
        model.encoder_bias: model.n_dims,
        model.decoder_weight: model.n_bits,
        model.decoder_bias: model.n_bits,
    }
    for weight, n_inputs in inputs.items():
        bound = n_inputs**-0.5
        weight.uniform_(-bound, bound, generator=generator)
    return model


def _start_directions(
    model: BinaryAutoencoder,
    standardised: torch.Tensor,
    config: CodecConfig,
    *,
    generator: torch.Generator,
) -> None:
    directions = _draw_directions(standardised, model.n_bits, generator)
    for bits in torch.arange(model.n_bits, device=standardised.device).split(1024):
        logits = standardised @ directions[bits].T
        spread = logits.std(dim=0).clamp(min=torch.finfo(torch.float32).tiny)
        model.encoder_weight[bits] = directions[bits] / spread[:, None]
        n_below = int((1 - config.initial_activity) * (len(logits) - 1))
        threshold = logits.kthvalue(n_below + 1, dim=0).values / spread
        model.encoder_bias[bits] = -threshold
    _start_decoder(model, standardised)


def _draw_directions(
    standardised: torch.Tensor, n_bits: int, generator: torch.Generator
) -> torch.Tensor:
    """Return (n_bits, d) random rows; where there are too few, sums of random pairs of them."""
    n = len(standardised)
    order = torch.randperm(n, generator=generator).to(standardised.device)
    if n_bits <= n:
        return standardised[order[:n_bits]]
    weights = torch.randn(n_bits - n, 2, generator=generator).to(standardised.device)
    first, gap = torch.randint(n - 1, (2, n_bits - n), generator=generator)
    pairs = torch.stack([first, (first + gap + 1) % n], dim=1).to(standardised.device)
    mixed = (weights[:, :, None] * standardised[pairs]).sum(dim=1)
    return torch.cat([standardised[order], mixed])


def _start_decoder(model: BinaryAutoencoder, standardised: torch.Tensor) -> None:
    def encoded() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for rows in own_share(standardised.split(512)):
            yield model.encode(rows), rows

    fit_decoder(model, encoded(), penalty=START_PENALTY)


class _Moments:
    """Mean and standard deviation in float64, relative to a first row so that nothing cancels."""

    def __init__(self, *, origin: torch.Tensor) -> None:
        self.n_rows = 0
        self._origin = origin
        self._sum = torch.zeros_like(origin)
        self._squares = torch.zeros_like(origin)

    def update(self, rows: torch.Tensor) -> None:
        shifted = rows.double() - self._origin
        self.n_rows += len(rows)
        self._sum += shifted.sum(dim=0)
        self._squares += shifted.square().sum(dim=0)

    def mean_and_scale(self) -> tuple[torch.Tensor, torch.Tensor]:
        shift = self._sum / self.n_rows
        mean = self._origin + shift
        scale = (self._squares / self.n_rows - shift.square()).clamp(min=0).sqrt()
        # What varies by less than float32 can tell from its mean does not vary.
        noise = torch.finfo(torch.float32).eps * mean.abs()
        return mean, torch.where(scale > noise, scale, 0.0)


def _without_noise(scale: torch.Tensor) -> torch.Tensor:
    """Return scales with 0 for dimensions that are constant up to float32's rounding.

    Divided by its own scale, noise would weigh as much as a real dimension.
    """
    noise = (scale > 0) & (scale < NOISE * scale[scale > 0].quantile(0.5))
    if noise.any():
        logger.info(
            "%d of %d dimensions vary by float32's rounding alone (first: %d) and are taken as "
            "constant",
            *(int(noise.sum()), len(scale), int(noise.nonzero()[0])),
        )
    return torch.where(noise, 0.0, scale)


def _check_tiny(scale: torch.Tensor) -> None:
    tiny = ((scale > 0) & (scale < torch.finfo(torch.float32).tiny)).nonzero().flatten().tolist()
    if tiny:
        raise ValueRangeError(
            f"dimension {tiny[0]} varies by {float(scale[tiny[0]]):.3g}, too little for float32 to "
            "divide by: multiply the hidden states by a power of two, or drop the dimension"
        )


def _check_constant(scale: torch.Tensor, config: CodecConfig) -> None:
    constant = (scale == 0).nonzero().flatten().tolist()
    if len(constant) == len(scale):
        raise ConfigError("every dimension of hidden is constant: there is nothing to encode")
    if constant and config.constant == "refuse":
        raise ConfigError(
            f"{len(constant)} of {len(scale)} dimensions never vary (first: {constant[0]}): drop "
            'them, or pass constant="keep" to store their value in the codec'
        )


def _too_few_rows(batches: HiddenBatches, config: CodecConfig) -> ShapeError:
    every_row = batches.shuffled(config.batch_size, torch.Generator(), keep_rest=True)
    n_rows = sum(len(batch) for batch in every_row)
    if n_rows == 0:
        return ShapeError("hidden has no rows: pass at least a batch of hidden states")
    return ShapeError(
        f"hidden has {n_rows} rows, fewer than a batch of {config.batch_size}: "
        f"pass more rows or batch_size={n_rows} or less"
    )
