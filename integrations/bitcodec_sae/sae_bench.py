"""A codec as SAEBench takes autoencoders of one's own: by what they have, not by their class."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self

import torch

from bitcodec.errors import ConfigError
from bitcodec_sae.weights import (
    Codec,
    CodeSearch,
    Search,
    chosen_search,
    model_and_hook,
    tensors_of,
)


@dataclass
class BenchConfig:
    """What SAEBench reads, and writes into its results."""

    model_name: str
    """The model's name in TransformerLens."""
    d_in: int
    """Width d of the hidden states."""
    d_sae: int
    """Number of features h."""
    hook_layer: int
    """Block whose output it is, from 0."""
    hook_name: str
    """Its name in TransformerLens."""
    context_size: int = 128
    """Tokens of a context."""
    hook_head_index: int | None = None
    """No head: it is the residual stream."""
    architecture: str = "bitcodec"
    """Shown in results."""
    apply_b_dec_to_input: bool = True
    """The decoder's bias is taken off hidden states."""
    normalize_activations: str = "none"
    """Scales are folded into the weights."""
    prepend_bos: bool = True
    """Whether texts start with the model's first token."""
    dtype: str = "float32"
    """Of the weights."""
    device: str = "cpu"
    """Of the weights."""
    search: Search = "none"
    """How long codes are searched for after the linear pass."""
    dataset_path: str = ""
    """Unknown here."""
    dataset_trust_remote_code: bool = False
    """Nothing remote runs."""
    seqpos_slice: tuple[int | None, ...] = (None,)
    """All positions."""
    training_tokens: int = 0
    """Unknown here."""
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)
    """None are needed."""
    sae_lens_training_version: str | None = None
    """SAELens did not train it."""
    neuronpedia_id: str | None = None
    """It is not there."""

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values."""
        return dataclasses.asdict(self)


class BenchSAE(torch.nn.Module):
    """A codec for SAEBench.

    Args:
        tensors: as `tensors_of` gives them.
        config: what SAEBench reads.

    SAEBench moves it to the model's dtype. Weights take it; bits are still computed in float32,
    so that they do not change with it.
    """

    def __init__(self, tensors: dict[str, torch.Tensor], config: BenchConfig) -> None:
        super().__init__()
        self.cfg = config
        self.W_enc = torch.nn.Parameter(tensors["W_enc"].clone())
        self.b_enc = torch.nn.Parameter(tensors["b_enc"].clone())
        self.W_dec = torch.nn.Parameter(tensors["W_dec"].clone())
        self.b_dec = torch.nn.Parameter(tensors["b_dec"].clone())
        self._exact = dict(tensors)
        self._searcher: CodeSearch | None = None
        self.device, self.dtype = torch.device("cpu"), torch.float32

    @torch.no_grad()
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Return activations, (..., h) in the dtype of `x`, of hidden states, (..., d)."""
        exact = self._exact
        centred = x.to(self.device, torch.float32) - exact["b_dec"]
        bits = centred @ exact["W_enc"] + exact["b_enc"] >= 0
        if self.cfg.search != "none":
            bits = self._search()(centred, bits, effort=self.cfg.search)
        return (bits * exact["level"]).to(x.dtype)

    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        """Return hidden states, (..., d), of activations, (..., h)."""
        return feature_acts.to(self.W_dec.dtype) @ self.W_dec + self.b_dec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode and decode."""
        return self.decode(self.encode(x))

    def to(self, *args: Any, **options: Any) -> Self:
        """Move the weights, and follow with `device`, `dtype` and `cfg`."""
        super().to(*args, **options)
        self.device, self.dtype = self.W_dec.device, self.W_dec.dtype
        self.cfg.device, self.cfg.dtype = str(self.device), str(self.dtype).removeprefix("torch.")
        self._exact = {name: tensor.to(self.device) for name, tensor in self._exact.items()}
        self._searcher = None
        return self

    def _search(self) -> CodeSearch:
        if self._searcher is None:
            exact = self._exact
            decoder = exact["W_dec"] * exact["level"][:, None]
            self._searcher = CodeSearch(decoder, exact["scale"], exact["price"])
        return self._searcher


def to_sae_bench(
    codec: Codec,
    *,
    search: Search | None = None,
    model_name: str | None = None,
    layer: int | None = None,
    context_size: int = 128,
) -> BenchSAE:
    """Return a fitted codec as an autoencoder that SAEBench's evaluations take.

    Args:
        codec: a fitted `BitCodec` whose bits are one linear map away, as with the presets
            "archive", "features" and "paper".
        search: how long codes are searched for, as `refine` of `BitCodec.encode`; None leaves it to
            the codec.
        model_name: the model's name in TransformerLens; None takes that of the codec's provenance.
        layer: block whose output it is, from 0; None takes that of the codec's provenance.
        context_size: tokens of a context, for evaluations that ask for it.

    Returns:
        To be named in the list of autoencoders that an evaluation is given, beside a name.

    Raises:
        NotFittedError: the codec was not fitted.
        ConfigError: model or layer are not known, the layer is negative, the codec's bits come in
            stages, rows carry side bytes, or the search is unknown.
    """
    tensors = tensors_of(codec.linear_maps())
    name, hook = model_and_hook(codec, model_name, layer)
    if name is None or hook is None:
        raise ConfigError(
            "SAEBench must know the model and the layer, and this codec does not tell: pass "
            "model_name= and layer="
        )
    config = BenchConfig(
        model_name=name,
        d_in=tensors["W_enc"].shape[0],
        d_sae=tensors["W_enc"].shape[1],
        hook_layer=int(hook.split(".")[1]),
        hook_name=hook,
        context_size=context_size,
        search=chosen_search(codec, search),
    )
    return BenchSAE(tensors, config)
