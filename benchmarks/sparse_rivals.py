r"""Sparse autoencoders beside our codes: what they keep, what they cost, what their features are.

ReLU, TopK and JumpReLU autoencoders, trained by SAELens on the rows, with the width, the steps and
the minibatches of our codecs, and signs of random projections as a floor. Figures are merged into
benchmarks/results/sparse_rivals.json after every method, so that an interrupted run keeps what it
has and a rerun of one method replaces only that one. On a core of its own a rival takes some ten
minutes, of which training is six to eight; what is trained is kept.

    python -m benchmarks.sparse_rivals --packages DEBS --cache CACHE --codecs CODECS --saes SAES

Another model or layer is taken by `--model` and `--layer`, with folders of its own.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from benchmarks.hidden_states import LAYERS, MODEL, Split, add_arguments, harvest_split
from benchmarks.quantisers import Standardisation
from benchmarks.rate_distortion_codecs import TABLE_ROWS, Codecs, make_once
from benchmarks.results_file import merge_results
from benchmarks.sparse_codes import (
    Coding,
    ValueTable,
    learn_table,
    mean_values,
    quantise,
    rescaled,
    statistics_of,
    support_bytes,
    without_values,
)
from benchmarks.sparse_methods import (
    CHUNK_ROWS,
    Method,
    SparseRows,
    blocks,
    of_codec,
    random_signs,
)
from benchmarks.sparse_rival_fits import EXPANSION, SPARSITIES, Recipe, method_of, train_sae
from bitcodec import BitCodec
from bitcodec.errors import ValueRangeError
from bitcodec.metrics import DistortionMeter
from bitcodec_transformers import load_model

logger = logging.getLogger(__name__)

NAME, LAYER = "sparse_rivals", 15
PRICES, N_STEPS = (0.17, 0.34, 0.7), 3000
"""Entropy weights of our codecs, and their minibatches."""
FLOORS = {"random signs": 0.5, "random signs, rare": 0.05}
"""Activities of random features: of a sign, and near that of our bits."""
FVU_SLACK = 0.01
"""What quantised values may add to FVU, as a share of it."""
FINEST, STEP_RATIO = 16, 2**0.5
"""Steps that are tried, from a 16th of the mean value upwards by this factor."""
CURVE = (8.0, 4.0, 2.0, 0.5)
"""Multiples of the chosen step at which rate and FVU are measured too."""
ACTIVITY_EDGES = tuple(10 ** (exponent / 2) for exponent in range(-10, 1))
"""Edges of the histogram of activities, half decades from 1e-5 to 1."""
Make = Callable[[np.ndarray], Method]
"""Takes (m, d) float32 training rows."""


def main() -> int:
    """Measure the methods that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--coding", choices=get_args(Coding), default="independent")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(arguments.threads)
    train, held_out = states_of(arguments).read(arguments.layer)
    for name, make in choose_methods(arguments).items():
        logger.info("making %s", name)
        method = make(train)
        figures = measure(method, train, held_out, coding=arguments.coding)
        merge_results(NAME, (*place_of(arguments), "methods", name), figures)
        logger.info("%s", line_of(name, figures))
    return 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where things are kept and which methods are wanted."""
    add_arguments(parser)
    parser.add_argument("--model", default=MODEL, help="name or folder of the model")
    parser.add_argument("--layer", type=int, default=LAYER, help="whose states")
    parser.add_argument("--codecs", type=Path, required=True, help="folder that keeps codecs")
    parser.add_argument("--saes", type=Path, required=True, help="folder that keeps autoencoders")
    parser.add_argument("--methods", nargs="+", default=[""], help="how the names start")
    parser.add_argument("--threads", type=int, default=1)


def states_of(arguments: argparse.Namespace) -> Split:
    """Harvest the states that were asked for, or find them in the cache."""
    shared = arguments.model == MODEL and arguments.layer in LAYERS
    return harvest_split(
        arguments.packages,
        arguments.cache,
        n_fitted=arguments.rows,
        n_held_out=arguments.held_out_rows,
        model=None if shared else load_model(arguments.model),
        layers=LAYERS if shared else (arguments.layer,),
    )


def place_of(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return where in the results the figures of these states are, from the outermost key on."""
    asked = arguments.model, arguments.layer
    return () if asked == (MODEL, LAYER) else ("{}, layer {}".format(*asked),)


def choose_methods(arguments: argparse.Namespace) -> dict[str, Make]:
    """Return the methods whose names start as was asked for."""
    methods, starts = all_methods(arguments), tuple(arguments.methods)
    chosen = {name: make for name, make in methods.items() if name.startswith(starts)}
    if not chosen:
        raise ValueRangeError(f"no method's name starts {starts}: there are {', '.join(methods)}")
    return chosen


def all_methods(arguments: argparse.Namespace) -> dict[str, Make]:
    """Return what makes each method, by name; all work on `on_features` of `sparse_methods`."""
    kept = Codecs(arguments.codecs / f"layer-{arguments.layer}")
    recipes = [Recipe(kind, value) for kind, values in SPARSITIES.items() for value in values]
    floors: dict[str, Make] = {name: partial(floor, activity) for name, activity in FLOORS.items()}
    ours: dict[str, Make] = {
        f"bitcodec {price}": partial(our_codec, kept, price) for price in PRICES
    }
    rivals: dict[str, Make] = {
        recipe.name: partial(trained, recipe, arguments.saes) for recipe in recipes
    }
    return ours | floors | rivals


def floor(activity: float, train: np.ndarray) -> Method:
    """Return signs of random projections, as many as the others have features."""
    return random_signs(train, n_features=EXPANSION * train.shape[1], activity=activity)


def our_codec(kept: Codecs, price: float, train: np.ndarray) -> Method:
    """Return a codec of the preset "archive", searching fast."""
    return of_codec(archive_codec(kept, price, train), refine="fast")


def archive_codec(kept: Codecs, price: float, train: np.ndarray) -> BitCodec:
    """Return a codec of the preset "archive", fitted now or before."""
    name = f"archive-{price}-{N_STEPS}"
    codec, _ = kept.codec(
        name, lambda: BitCodec.preset("archive", entropy_weight=price, n_steps=N_STEPS), train
    )
    return codec


def trained(recipe: Recipe, folder: Path, train: np.ndarray) -> Method:
    """Return a sparse autoencoder, trained now or before."""
    place, standard = folder / recipe.name.replace(" ", "-"), Standardisation.of(train)
    seconds = make_once(place, train, lambda: train_sae(recipe, standard.apply(train), place))
    logger.info("%s took %.0f s to train, %.0f s of CPU", recipe.name, *seconds)
    return method_of(place, standard)


def measure(
    method: Method, train: np.ndarray, held_out: np.ndarray, *, coding: Coding = "independent"
) -> dict[str, Any]:
    """Return a method's figures.

    The file format is this dictionary. Activities are those on `TABLE_ROWS` training rows,
    distortion and rate those on held-out rows. `fvu` is that of what is stored, `fvu_exact` that
    before values are rounded, `fvu_on_off` with each feature's mean for its values.
    """
    seen, kept = SparseRows.of(method, train[:TABLE_ROWS]), SparseRows.of(method, held_out)
    shared = {
        "coding": coding,
        "n_features": method.n_features,
        "features_on": len(kept.columns) / len(held_out),
        **activity_figures(seen.counts / len(seen.packed)),
        "entropy_bits": statistics_of(kept).entropy_bits,
    }
    if not method.has_values:
        bits = 8 * support_bytes(kept, learn_table(seen, coding)) / len(held_out)
        rate = {"bits_per_vector": bits, "support_bits": bits, "value_bits": 0.0}
        return shared | rate | {"fvu": fvu_of(method, kept, held_out)}
    step = choose_step(method, train[:: max(1, len(train) // CHUNK_ROWS)])
    return shared | measure_values(method, step, seen, kept, held_out, coding)


def measure_values(
    method: Method,
    step: float,
    seen: SparseRows,
    kept: SparseRows,
    held_out: np.ndarray,
    coding: Coding,
) -> dict[str, Any]:
    """Return the figures of a method with values that are rounded to a step."""
    at = partial(rate_at, method, seen, kept, held_out, coding)
    chosen, on_off = at(step), without_values(kept, mean_values(seen))
    return {
        **chosen,
        "fvu_exact": fvu_of(method, kept, held_out),
        "fvu_on_off": fvu_of(method, on_off, held_out),
        "curve": [at(factor * step) for factor in CURVE] + [chosen],
    }


def choose_step(method: Method, rows: np.ndarray) -> float:
    """Return the coarsest step at which FVU is within `FVU_SLACK` of that without rounding.

    Args:
        method: with values.
        rows: training rows to try steps on.
    """
    activations = SparseRows.of(method, rows)
    most = (1 + FVU_SLACK) * fvu_of(method, activations, rows)
    step = float(activations.values.mean()) / FINEST
    while fvu_of(method, stored(activations, step * STEP_RATIO), rows) <= most:
        step *= STEP_RATIO
    return step


def rate_at(
    method: Method,
    seen: SparseRows,
    kept: SparseRows,
    held_out: np.ndarray,
    coding: Coding,
    step: float,
) -> dict[str, float]:
    """Return bits and FVU of held-out rows whose values are rounded to a step."""
    learned, rounded = quantise(seen, step), quantise(kept, step)
    support = 8 * support_bytes(rounded, learn_table(learned, coding)) / len(held_out)
    levels = 8 * len(ValueTable.learn(learned).encode(rounded)) / len(held_out)
    return {
        "step": step,
        "bits_per_vector": support + levels,
        "support_bits": support,
        "value_bits": levels,
        "fvu": fvu_of(method, rescaled(rounded, step), held_out),
    }


def stored(activations: SparseRows, step: float) -> SparseRows:
    """Return activations after rounding."""
    return rescaled(quantise(activations, step), step)


def fvu_of(method: Method, activations: SparseRows, rows: np.ndarray) -> float:
    """Return the FVU, a mean over the dimensions, of rows decoded from activations."""
    meter, dense = DistortionMeter(rows.mean(axis=0)), blocks(activations.packed)
    start = 0
    for part, packed in zip(blocks(rows), dense, strict=True):
        n_on = int(np.bitwise_count(packed).sum())
        within = slice(start, start + n_on)
        block = SparseRows(
            packed, activations.columns[within], activations.values[within], method.n_features
        )
        meter.update(part, method.decode(block.dense()))
        start += n_on
    return meter.fvu


def activity_figures(activity: np.ndarray) -> dict[str, Any]:
    """Return how often features are on, given (h,) shares of the rows."""
    alive = activity[activity > 0]
    deciles = np.quantile(alive, (0.1, 0.5, 0.9)) if len(alive) else np.zeros(3)
    histogram = np.histogram(alive, bins=np.array((0, *ACTIVITY_EDGES[1:])))[0]
    return {
        "dead": int((activity == 0).sum()),
        "above_10_percent": int((activity > 0.1).sum()),
        "above_half": int((activity > 0.5).sum()),
        "activity_deciles_1_5_9": [float(decile) for decile in deciles],
        "activity_histogram": [int(count) for count in histogram],
    }


def line_of(name: str, figures: dict[str, Any]) -> str:
    """Return a method's figures in a line."""
    return (
        f"{name:<20} {figures['bits_per_vector']:7.1f} bits ({figures['support_bits']:.0f} + "
        f"{figures['value_bits']:.0f})  FVU {figures['fvu']:.4f}  on {figures['features_on']:.1f}  "
        f"dead {figures['dead']}  over 10% {figures['above_10_percent']}"
    )


if __name__ == "__main__":
    sys.exit(main())
