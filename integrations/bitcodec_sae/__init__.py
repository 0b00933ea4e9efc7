"""A fitted codec where tools expect a sparse autoencoder: SAELens, SAEBench and Delphi.

>>> from bitcodec_sae import to_sae_lens
>>> sae = to_sae_lens(codec, model_name="gpt2", layer=5)  # doctest: +SKIP

A feature's activation is the length of its decoder row where its bit is on, else 0, and decoder
rows have length 1: what SAEBench asks for, and an activation says how far a feature moves the
hidden state. Each tool works without the others; SAELens is imported on first use, the adapters of
SAEBench and Delphi need neither.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bitcodec.extras import import_extra

if TYPE_CHECKING:
    from bitcodec_sae.delphi import LatentEncoder, to_delphi
    from bitcodec_sae.sae_bench import BenchConfig, BenchSAE, to_sae_bench
    from bitcodec_sae.sae_lens import CodecSAE, CodecSAEConfig, load_sae_lens, to_sae_lens

__all__ = [
    "BenchConfig",
    "BenchSAE",
    "CodecSAE",
    "CodecSAEConfig",
    "LatentEncoder",
    "load_sae_lens",
    "to_delphi",
    "to_sae_bench",
    "to_sae_lens",
]

_HOME_OF = {
    "BenchConfig": "sae_bench",
    "BenchSAE": "sae_bench",
    "CodecSAE": "sae_lens",
    "CodecSAEConfig": "sae_lens",
    "LatentEncoder": "delphi",
    "load_sae_lens": "sae_lens",
    "to_delphi": "delphi",
    "to_sae_bench": "sae_bench",
    "to_sae_lens": "sae_lens",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOME_OF[name] == "sae_lens":
        import_extra("sae_lens", extra="sae")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
