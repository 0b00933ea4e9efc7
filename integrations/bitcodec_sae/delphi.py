"""A codec as Delphi takes latents: a callable for each hook point."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bitcodec_sae.weights import Codec, CodeSearch, Search, chosen_search, tensors_of


@dataclass(frozen=True, eq=False)
class LatentEncoder:
    """Maps hidden states to activations; see `to_delphi`."""

    tensors: dict[str, torch.Tensor]
    """Weights, as `tensors_of` gives them."""
    searcher: CodeSearch
    """Of these weights."""
    search: Search
    """How long codes are searched for after the linear pass."""

    @torch.no_grad()
    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Encode.

        Args:
            hidden: (..., d) floats on any device; Delphi gives (batch, sequence, d).

        Returns:
            (..., h) float32 where the weights are: the length of a feature's decoder row where it
            is on, else 0.
        """
        weights = self.tensors
        centred = hidden.to(weights["b_dec"].device, torch.float32) - weights["b_dec"]
        bits = centred @ weights["W_enc"] + weights["b_enc"] >= 0
        bits = self.searcher(centred, bits, effort=self.search)
        return bits * weights["level"]


def to_delphi(
    codec: Codec, *, search: Search | None = None, device: torch.device | str = "cpu"
) -> LatentEncoder:
    """Return a fitted codec as a callable for Delphi's `LatentCache`.

    >>> cache = LatentCache(
    ...     model, {"model.layers.15": to_delphi(codec)}, batch_size=8
    ... )  # doctest: +SKIP

    A bit is on or off, so that all of a feature's activations are alike: Delphi's quantiles are
    then random parts of the rows in which it is on.

    Args:
        codec: a fitted `BitCodec` whose bits are one linear map away, as with the presets
            "archive", "features" and "paper".
        search: how long codes are searched for, as `refine` of `BitCodec.encode`; None leaves it to
            the codec.
        device: where to compute.

    Raises:
        NotFittedError: the codec was not fitted.
        ConfigError: its bits come in stages, rows carry side bytes, or the search is unknown.
    """
    tensors = {name: value.to(device) for name, value in tensors_of(codec.linear_maps()).items()}
    decoder = tensors["W_dec"] * tensors["level"][:, None]
    searcher = CodeSearch(decoder, tensors["scale"], tensors["price"])
    return LatentEncoder(tensors, searcher, chosen_search(codec, search))
