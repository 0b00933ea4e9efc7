"""Hidden states of many layers of one model, and a codec of each, made once and kept.

The text is that of `benchmarks.hidden_states`; every layer has the same rows, so that what differs
between layers is not the text.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.hidden_states import Split, harvest_split
from benchmarks.rate_distortion_codecs import Codecs
from bitcodec import BitCodec
from bitcodec.errors import ConfigError
from bitcodec_transformers import LanguageModel, load_model

logger = logging.getLogger(__name__)

BATCH_SIZE = 256
"""Rows of a minibatch: with few rows, more steps are worth more than larger ones."""
ENTROPY_WEIGHT = 0.34
"""Of every codec: near 200 bits a row at layer 15 of SmolLM2 after long training."""


@dataclass(frozen=True)
class LayeredCodecs:
    """Rows and codecs by layer."""

    split: Split
    """The harvests."""
    layers: tuple[int, ...]
    """Ascending."""
    codecs: dict[int, BitCodec]
    """By layer; the encoder is one linear pass."""
    seconds: dict[int, float]
    """What each fit took by the clock, now or when it was made."""


def add_layer_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the options that say which model, which layers and what codecs.

    Args:
        parser: gets them.
        required: whether the two folders must be named.
    """
    packages, work = "folder of Debian packages", "folder that keeps states and codecs"
    parser.add_argument("--packages", type=Path, required=required, help=packages)
    parser.add_argument("--work", type=Path, required=required, help=work)
    parser.add_argument("--model", default="smollm2-135m", help="name or folder of the model")
    parser.add_argument("--device", default="auto", help="torch device of model and codecs")
    parser.add_argument("--layers", type=int, nargs="+", help="default: --n-layers, evenly spread")
    parser.add_argument("--n-layers", type=int, default=6)
    parser.add_argument("--rows", type=int, default=20_000, help="rows to fit on")
    parser.add_argument("--held-out-rows", type=int, default=5_000, help="rows of other files")
    parser.add_argument("--expansion", type=float, default=2.0, help="bits per dimension")
    parser.add_argument("--steps", type=int, default=300, help="minibatches of a fit")


def spread_layers(n_blocks: int, n_layers: int) -> tuple[int, ...]:
    """Return blocks evenly spread from the second to the last but one.

    Args:
        n_blocks: blocks of the model.
        n_layers: wanted, at least 2 and at most n_blocks - 2.

    Raises:
        ConfigError: there are not so many blocks.

    >>> spread_layers(30, 6)
    (1, 6, 12, 17, 23, 28)
    """
    if not 2 <= n_layers <= n_blocks - 2:
        raise ConfigError(
            f"n_layers must be between 2 and {n_blocks - 2}, the blocks of this model less its "
            f"first and last, got {n_layers}"
        )
    return tuple(round(place) for place in np.linspace(1, n_blocks - 2, n_layers).tolist())


def prepare(arguments: argparse.Namespace) -> tuple[LanguageModel, LayeredCodecs]:
    """Load the model, harvest what is missing, fit what is missing."""
    model = load_model(arguments.model, device=arguments.device)
    layers = tuple(sorted(arguments.layers or spread_layers(model.n_layers, arguments.n_layers)))
    split = harvest_split(
        arguments.packages,
        arguments.work / "hidden",
        n_fitted=arguments.rows,
        n_held_out=arguments.held_out_rows,
        model=model,
        layers=layers,
    )
    kept, codecs, seconds = Codecs(arguments.work / "codecs"), {}, {}
    for layer in layers:
        name = f"layer-{layer}-{arguments.expansion:g}-{arguments.steps}"
        train = split.read(layer)[0]
        codecs[layer], (seconds[layer], _) = kept.codec(name, lambda: untrained(arguments), train)
        logger.info("codec of layer %d: %.0f s", layer, seconds[layer])
    return model, LayeredCodecs(split, layers, codecs, seconds)


def untrained(arguments: argparse.Namespace) -> BitCodec:
    """Return a codec of the preset "archive" without search, to be fitted."""
    return BitCodec.preset(
        "archive",
        expansion=arguments.expansion,
        entropy_weight=ENTROPY_WEIGHT,
        batch_size=BATCH_SIZE,
        n_steps=arguments.steps,
        refine="none",
        pull=False,
        device=arguments.device,
    )
