"""A codec's weights in the shapes and under the names that sparse autoencoders have."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch

from bitcodec.errors import ConfigError
from bitcodec.linear_maps import LinearMaps
from bitcodec.refine import Refiner

Search = Literal["none", "fast", "best"] | int
"""How long codes are searched for after the linear pass, as in `BitCodec.encode`."""


class Codec(Protocol):
    """What the adapters need of a `BitCodec`."""

    refine: Any
    """How long its codes are searched for, if nothing else is said."""
    provenance_: dict[str, Any]
    """Where its hidden states came from."""

    def linear_maps(self) -> LinearMaps:
        """Return encoder and decoder."""


def tensors_of(maps: LinearMaps) -> dict[str, torch.Tensor]:
    """Return the weights of a codec, by name, decoder rows of length 1.

    Returns:
        `W_enc` (d, h), `b_enc` (h,), `W_dec` (h, d), `b_dec` (d,), `level` (h,), the activation of
        a feature that is on, and `scale` (d,) and `price` (h,), which searching needs; all float32.
        Bits are [(x - b_dec) W_enc + b_enc >= 0], and x' = (bits * level) W_dec + b_dec.
    """
    decoder = torch.from_numpy(maps.decoder_weight)
    level = decoder.norm(dim=1)
    return {
        "W_enc": torch.from_numpy(maps.encoder_weight).contiguous(),
        "b_enc": torch.from_numpy(maps.encoder_bias),
        "W_dec": decoder / torch.where(level > 0, level, 1)[:, None],
        "b_dec": torch.from_numpy(maps.centre),
        "level": level,
        "scale": torch.from_numpy(maps.scale),
        "price": torch.from_numpy(maps.prices).float(),
    }


class CodeSearch:
    """Search for better codes than the linear pass's, as `BitCodec.encode` does.

    Args:
        decoder: (h, d), what each feature adds to a hidden state.
        scale: (d,), standard deviations; 0 where a dimension is constant.
        price: (h,), what turning each feature on costs.
    """

    def __init__(self, decoder: torch.Tensor, scale: torch.Tensor, price: torch.Tensor) -> None:
        self._inverse = torch.where(scale > 0, 1 / scale, 0.0).float()
        weight = decoder.float() * self._inverse
        self._refiner = Refiner(weight, torch.zeros_like(self._inverse), price=price.float())

    def __call__(
        self, centred: torch.Tensor, bits: torch.Tensor, *, effort: Search
    ) -> torch.Tensor:
        """Return better bits, (..., h) bool.

        Args:
            centred: (..., d), hidden states less the centre.
            bits: (..., h) bool, where to start.
            effort: how long to search; "none" returns `bits`.

        Raises:
            ConfigError: the effort is none of the choices.
        """
        if effort == "none":
            return bits
        rows = (centred.detach().float() * self._inverse).reshape(-1, centred.shape[-1])
        starts = bits.reshape(-1, bits.shape[-1])
        if rows.device.type == "cpu":
            found = torch.from_numpy(
                self._refiner.refine(rows.numpy(), starts.numpy(), effort=effort)
            )
        else:
            found = self._refiner.refine_on_device(rows, starts, effort=effort)
        return found.bool().reshape(bits.shape)


def chosen_search(codec: Codec, search: Search | None) -> Search:
    """Return the search that was asked for, that of the codec where none was.

    Raises:
        ConfigError: it is none of the choices.
    """
    effort: Any = codec.refine if search is None else search
    is_number = isinstance(effort, int) and not isinstance(effort, bool) and effort >= 0
    if not is_number and effort not in ("none", "fast", "best"):
        raise ConfigError(
            f'search must be "none", "fast", "best" or a number of repair passes, got {effort!r}'
        )
    chosen: Search = effort
    return chosen


def model_and_hook(
    codec: Codec, model_name: str | None, layer: int | None
) -> tuple[str | None, str | None]:
    """Return the model's name and the hook point, told or from the codec's provenance.

    Layer i of bitcodec is the output of block i, which TransformerLens calls
    `blocks.i.hook_resid_post`.

    Raises:
        ConfigError: the layer is negative: hook points are counted from the first block.
    """
    told = codec.provenance_
    known = told.get("model")
    name = known.get("name") if isinstance(known, dict) else known
    at = told.get("layer") if layer is None else layer
    if at is not None and at < 0:
        raise ConfigError(f"layer must be a block's number, from 0, got {at}")
    hook = None if at is None else f"blocks.{at}.hook_resid_post"
    return model_name or name, hook
