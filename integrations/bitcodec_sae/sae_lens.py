"""A codec as an autoencoder of SAELens: its architecture "bitcodec".

SAELens writes and reads it as any other, `cfg.json` and `sae_weights.safetensors`. It has to know
the architecture before it reads one: import this module, or call `load_sae_lens`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from sae_lens.registry import SAE_CLASS_REGISTRY, register_sae_class
from sae_lens.saes.sae import SAE, SAEConfig, SAEMetadata
from typing_extensions import override

from bitcodec.errors import FormatError
from bitcodec.files import PathLike, read_json
from bitcodec_sae.weights import (
    Codec,
    CodeSearch,
    Search,
    chosen_search,
    model_and_hook,
    tensors_of,
)

ARCHITECTURE = "bitcodec"


@dataclass
class CodecSAEConfig(SAEConfig):  # type: ignore[misc]
    """Settings of a codec in SAELens."""

    search: Search = "none"
    """How long codes are searched for after the linear pass."""

    @classmethod
    def architecture(cls) -> str:
        """Return the name that SAELens knows it by."""
        return ARCHITECTURE


class CodecSAE(SAE):  # type: ignore[misc]
    """A codec in SAELens: a feature's activation is its `level` where its bit is on.

    Its dtype is best float32: in a shorter one bits near their threshold fall otherwise.

    Attributes:
        W_enc: (d, h).
        b_enc: (h,), less the thresholds.
        W_dec: (h, d), rows of length 1.
        b_dec: (d,), taken off hidden states and added to decoded ones.
        level: (h,), activations of features that are on.
        scale: (d,), standard deviations in which searching measures errors.
        price: (h,), what a feature costs a search.
    """

    b_enc: torch.nn.Parameter
    level: torch.Tensor
    scale: torch.Tensor
    price: torch.Tensor

    def initialize_weights(self) -> None:
        """Make room for the weights."""
        super().initialize_weights()
        n_dims, n_bits = self.cfg.d_in, self.cfg.d_sae
        kind = {"dtype": self.dtype, "device": self.device}
        self.b_enc = torch.nn.Parameter(torch.zeros(n_bits, **kind))
        self.register_buffer("level", torch.ones(n_bits, **kind))
        self.register_buffer("scale", torch.ones(n_dims, **kind))
        self.register_buffer("price", torch.zeros(n_bits, **kind))
        self._searcher: CodeSearch | None = None

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Return activations, (..., h), of hidden states, (..., d)."""
        centred = self.process_sae_in(x)
        logits = self.hook_sae_acts_pre(centred @ self.W_enc + self.b_enc)
        bits = logits >= 0
        if self.cfg.search != "none":
            bits = self._search()(centred, bits, effort=self.cfg.search)
        activations: torch.Tensor = self.hook_sae_acts_post(bits.to(logits.dtype) * self.level)
        return activations

    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        """Return hidden states, (..., d), of activations, (..., h)."""
        decoded = self.hook_sae_recons(feature_acts @ self.W_dec + self.b_dec)
        hidden: torch.Tensor = self.reshape_fn_out(
            self.run_time_activation_norm_fn_out(decoded), self.d_head
        )
        return hidden

    @override
    @torch.no_grad()
    def fold_W_dec_norm(self) -> None:
        """Bring decoder rows to length 1; activations take up their lengths, bits stay."""
        norms = self.get_W_dec_norm()
        self.W_dec.data /= norms[:, None]
        self.level *= norms

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        """Take weights, as torch does."""
        self._searcher = None
        return super().load_state_dict(*args, **options)

    def _apply(self, *args: Any, **options: Any) -> Any:
        self._searcher = None  # it is of the weights' old device
        return super()._apply(*args, **options)

    def _search(self) -> CodeSearch:
        if self._searcher is None:
            decoder = (self.W_dec * self.level[:, None]).detach()
            self._searcher = CodeSearch(decoder, self.scale, self.price)
        return self._searcher


def to_sae_lens(
    codec: Codec,
    *,
    search: Search | None = None,
    model_name: str | None = None,
    layer: int | None = None,
) -> CodecSAE:
    """Return a fitted codec as an autoencoder of SAELens.

    Args:
        codec: a fitted `BitCodec` whose bits are one linear map away, as with the presets
            "archive", "features" and "paper".
        search: how long codes are searched for, as `refine` of `BitCodec.encode`; None leaves it to
            the codec.
        model_name: the model's name in TransformerLens; None takes that of the codec's provenance.
        layer: block whose output it is, from 0; None takes that of the codec's provenance.

    Returns:
        A `sae_lens.SAE`; `save_model` writes it, `load_sae_lens` or `SAE.load_from_disk` reads it.

    Raises:
        MissingExtraError: SAELens is not installed.
        NotFittedError: the codec was not fitted.
        ConfigError: its bits come in stages, rows carry side bytes, the layer is negative, or the
            search is unknown.
    """
    tensors = tensors_of(codec.linear_maps())
    name, hook = model_and_hook(codec, model_name, layer)
    told = {"model_name": name, "hook_name": hook}
    config = CodecSAEConfig(
        d_in=tensors["W_enc"].shape[0],
        d_sae=tensors["W_enc"].shape[1],
        search=chosen_search(codec, search),
        metadata=SAEMetadata(**{key: value for key, value in told.items() if value}),
    )
    sae = CodecSAE(config)
    sae.load_state_dict(tensors)
    return sae


def load_sae_lens(folder: PathLike, *, device: str = "cpu") -> CodecSAE:
    """Read what `save_model` of a `CodecSAE` wrote.

    Args:
        folder: of `cfg.json` and `sae_weights.safetensors`.
        device: where it is to compute.

    Raises:
        MissingExtraError: SAELens is not installed.
        FileError: there is no `cfg.json` in the folder.
        FormatError: it is of another architecture.
    """
    settings = Path(folder) / "cfg.json"
    architecture = read_json(settings).get("architecture")
    if architecture != ARCHITECTURE:
        raise FormatError(
            f"{settings} must be of the architecture {ARCHITECTURE!r}, got {architecture!r:.40}: "
            "read others with sae_lens.SAE.load_from_disk"
        )
    return cast(CodecSAE, CodecSAE.load_from_disk(folder, device=device))


if ARCHITECTURE not in SAE_CLASS_REGISTRY:
    register_sae_class(ARCHITECTURE, CodecSAE, CodecSAEConfig)
