"""Codecs on several layers of one model: their states, harvested once, and the fits, kept.

Both lie in a cache folder and are found there again. Text is that of Debian packages, and the
documents that are measured are of other files than those that are fitted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.hidden_states import TEXTS
from benchmarks.passages import read_excerpts
from bitcodec import BitCodec
from bitcodec_transformers import LanguageModel, harvest


@dataclass(frozen=True)
class LayerSettings:
    """What is harvested and how it is fitted."""

    layers: tuple[int, ...] = (3, 8, 13, 18, 23, 28)
    """Blocks whose output is coded, from 0."""
    n_fitted: int = 20_000
    """Rows to fit on."""
    n_held_out: int = 30_000
    """Rows of other files, to measure on."""
    context_length: int = 256
    """Tokens of a window."""
    n_bits: int = 1152
    """Bits h of every codec."""
    n_steps: int = 300
    """Training steps."""


def harvest_layers(
    settings: LayerSettings, *, model: LanguageModel, packages: Path, cache: Path
) -> None:
    """Write the harvests `fitted` and `held_out` to the cache, or find them there.

    Args:
        settings: what to harvest.
        model: the language model.
        packages: a folder of the packages in `TEXTS`; see `benchmarks.passages`.
        cache: the folder that gets the harvests.
    """
    fitted, kept_apart = read_excerpts(packages, TEXTS)
    cache.mkdir(parents=True, exist_ok=True)
    parts = (("fitted", fitted, settings.n_fitted), ("held_out", kept_apart, settings.n_held_out))
    for name, texts, n_rows in parts:
        harvest(
            texts,
            model=model,
            layers=settings.layers,
            output=cache / name,
            context_length=settings.context_length,
            max_rows=n_rows,
        )


def fit_layers(settings: LayerSettings, *, cache: Path) -> Iterator[tuple[int, BitCodec]]:
    """Fit a codec on each layer of the harvest, or find it in the cache.

    All have the same price of a bit, so that their entropies are those at an equal slope of
    distortion against rate, not at an equal distortion.

    Yields:
        The layer and its codec.
    """
    for layer in settings.layers:
        folder = cache / f"codec-{layer}-{settings.n_bits}-{settings.n_steps}"
        if not folder.exists():
            fit_layer(settings, layer, cache=cache).save(folder)
        yield layer, BitCodec.load(folder, device="cpu")


def fit_layer(settings: LayerSettings, layer: int, *, cache: Path) -> BitCodec:
    """Fit the codec of one layer."""
    codec = BitCodec(n_bits=settings.n_bits, n_steps=settings.n_steps, refine="none", seed=0)
    return codec.fit(cache / "fitted" / f"layer-{layer}")


def read_layers(text: str) -> tuple[int, ...]:
    """Read layers from the command line.

    >>> read_layers("3,8")
    (3, 8)
    """
    return tuple(int(part) for part in text.split(","))
