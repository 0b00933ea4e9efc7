"""A codec as two affine maps with a threshold between them, for tools that want weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bitcodec.errors import ConfigError
from bitcodec.model import BinaryAutoencoder


@dataclass(frozen=True, eq=False)
class LinearMaps:
    """Encoder and decoder of a codec in the units of the hidden states.

    bits = [(x - c) E + e >= 0] and x' = b D + c, with one centre c: x - c is small where x is
    large, so that float32 keeps its digits.
    """

    encoder_weight: np.ndarray
    """E, (d, h) float32."""
    encoder_bias: np.ndarray
    """e, (h,) float32."""
    decoder_weight: np.ndarray
    """D, (h, d) float32: what a feature adds to a decoded hidden state where it is on."""
    centre: np.ndarray
    """c, (d,) float32: the decoded hidden state in which no feature is on."""
    scale: np.ndarray
    """(d,) float32, the standard deviations that errors are measured in; 0 where constant."""
    prices: np.ndarray
    """(h,) float64, what turning a feature on costs when codes are searched for, in the unit of
    the squared error over `scale`; see `bitcodec.refine.rate_prices`."""


@torch.no_grad()
def linear_maps(model: BinaryAutoencoder, *, prices: np.ndarray) -> LinearMaps:
    """Fold mean and scale into an autoencoder's weights, in float64.

    Args:
        model: the autoencoder.
        prices: (h,) float64, of its bits.

    Raises:
        ConfigError: bits come in stages, rows carry side bytes, or errors are weighed.
    """
    _check_linear(model)
    scale, inverse = model.scale.double(), model.inverse_scale().double()
    encoder = (model.encoder_weight.double() * inverse).T
    decoder = model.decoder_weight.double() * scale
    shift = model.decoder_bias.double() * scale
    bias = model.encoder_bias.double() + shift @ encoder
    folded = (encoder, bias, decoder, model.mean.double() + shift, scale)
    weight, offset, directions, centre, units = (part.float().cpu().numpy() for part in folded)
    return LinearMaps(weight, offset, directions, centre, scale=units, prices=prices)


def _check_linear(model: BinaryAutoencoder) -> None:
    """Raise unless bits are one affine map away from a hidden state, and it from them."""
    if model.unit_rows or len(model.stages.unique()) > 1:
        what = "side bytes beside its bits" if model.unit_rows else "bits that come in stages"
        raise ConfigError(
            f"this codec has {what}, so it is no linear encoder and decoder: fit one of the "
            'presets "archive", "features" or "paper"'
        )
    if model.error_root is not None:
        raise ConfigError(
            "this codec was fitted with a sensitivity, by which its codes are searched and which "
            "has no place in these weights: fit one without"
        )
