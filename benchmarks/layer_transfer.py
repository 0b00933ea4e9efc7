r"""Can a codec of one layer code another? All pairs of layers, as a heat map.

The states of layer j are standardised with their own mean and scale, coded by the codec of layer i
and decoded; FVU is measured on held-out text. Then once more with the decoder fitted anew on layer
j's rows, which tells features that are there in another direction from features that are not there.
The floor is a codec on its own layer with the dimensions in another order: the same marginals, none
of the directions.

    python -m benchmarks.layer_transfer --packages DEBS --work FOLDER

Eleven minutes for six layers, 12,000 rows and 1,152 bits on a busy machine, once states and codecs
are there, which takes as long.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.layered_codecs import LayeredCodecs, add_layer_options, prepare
from benchmarks.quantisers import Standardisation
from benchmarks.results_file import RESULTS, merge_results
from benchmarks.sparse_methods import blocks
from bitcodec import BitCodec
from bitcodec.bits import pack, unpack
from bitcodec.metrics import DistortionMeter
from bitcodec.normal_equations import NormalEquations
from bitcodec.statistics import BitStatistics

logger = logging.getLogger(__name__)

NAME = "layer_transfer"
PENALTIES = (10.0, 100.0, 1000.0)
"""Of the refitted decoders, in rows; the best is taken."""
ONE_IN = 5
"""One training row in so many, at the end, chooses the penalty."""
MEASURES = ("fvu", "fvu_refitted", "entropy_bits")
"""Of every pair."""
TITLES = {"fvu": "codec as it is", "fvu_refitted": "decoder fitted anew on the layer coded"}
"""Of the heat maps."""


def main() -> int:
    """Measure all pairs and draw them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_layer_options(parser)
    parser.add_argument("--refit-rows", type=int, default=8_000, help="rows for new decoders")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    _, made = prepare(arguments)
    standards = {layer: Standardisation.of(made.split.read(layer)[0]) for layer in made.layers}
    columns = {}
    for layer in made.layers:
        begun = time.perf_counter()
        columns[layer] = measure_layer(made, standards, layer, n_refit=arguments.refit_rows)
        columns[layer]["seconds"] = time.perf_counter() - begun
        merge_results(NAME, (arguments.model, f"layer {layer}"), columns[layer])
    results = tables_of(columns) | {
        option: getattr(arguments, option)
        for option in ("rows", "held_out_rows", "refit_rows", "expansion", "steps")
    }
    results["fit_seconds"] = list(made.seconds.values())
    merge_results(NAME, (arguments.model, "pairs"), results)
    draw(results, RESULTS / f"{NAME}.png")
    logger.info("%s", results["summary"])
    return 0


def measure_layer(
    made: LayeredCodecs, standards: dict[int, Standardisation], target: int, *, n_refit: int
) -> dict[str, Any]:
    """Return the figures of every codec on one layer, and those of the floor.

    Args:
        made: rows and codecs.
        standards: mean and scale of every layer's rows.
        target: the layer coded.
        n_refit: its rows that decoders are fitted anew on.
    """
    train, held_out = (standards[target].apply(rows) for rows in made.split.read(target))
    train, found = train[:n_refit], {}
    for source in made.layers:
        found[f"codec of layer {source}"] = transfer(
            made.codecs[source], standards[source], train, held_out
        )
        logger.info("codec of layer %d on layer %d: %s", source, target, [*found.values()][-1])
    order = np.random.default_rng(0).permutation(train.shape[1])
    found["shuffled"] = transfer(
        made.codecs[target], standards[target], train[:, order], held_out[:, order]
    )
    return found


def tables_of(columns: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Return figures as tables: row i is the codec's layer, column j the layer coded.

    Args:
        columns: what `measure_layer` returns, by layer.
    """
    layers = list(columns)
    tables = {
        measure: np.array(
            [[columns[j][f"codec of layer {i}"][measure] for j in layers] for i in layers]
        )
        for measure in MEASURES
    }
    floor = {
        measure: [columns[layer]["shuffled"][measure] for layer in layers] for measure in MEASURES
    }
    summary = {measure: summarise(tables[measure]) for measure in TITLES}
    shown = {measure: table.tolist() for measure, table in tables.items()}
    return {"layers": layers, **shown, "shuffled": floor, "summary": summary}


def transfer(
    codec: BitCodec, standard: Standardisation, train: np.ndarray, held_out: np.ndarray
) -> dict[str, float]:
    """Return how well a codec codes standardised rows of any layer.

    Args:
        codec: fitted on rows of some layer.
        standard: mean and scale of those rows.
        train: (m, d) float32, standardised, for the decoder that is fitted anew.
        held_out: (n, d) float32, standardised alike, to measure on.
    """
    weight, bias, penalty = refit(codec, standard, train)
    as_it_is = DistortionMeter(held_out.mean(axis=0))
    refitted = DistortionMeter(held_out.mean(axis=0))
    counted = BitStatistics.empty(codec.n_bits_)
    for rows in blocks(held_out):
        bits, missed = bits_and_errors(codec, standard, rows)
        as_it_is.update(rows, rows - missed)
        refitted.update(rows, rows - missed + bits @ weight + bias)
        counted.update(pack(bits > 0))
    return {
        "fvu": as_it_is.fvu,
        "fvu_refitted": refitted.fvu,
        "entropy_bits": counted.entropy_bits,
        "penalty": penalty,
    }


def encode(codec: BitCodec, standard: Standardisation, rows: np.ndarray) -> np.ndarray:
    """Return the packed codes of standardised rows, put into the codec's own units."""
    return codec.encode(standard.undo(rows).astype(np.float32), refine="none")


def refit(
    codec: BitCodec, standard: Standardisation, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return by what the best decoder of standardised rows differs from the codec's.

    As in a codec's own fit the penalty is on the change, so that the decoder of a codec's own layer
    stays; the last fifth of the rows chooses it.

    Returns:
        Weights (h, d) and bias (d,), float32, to be added to what the codec decodes, and the
        penalty in rows.
    """
    sums = NormalEquations.empty(
        n_bits=codec.n_bits_, n_dims=rows.shape[1], device=torch.device("cpu")
    )
    n_fitted = len(rows) - len(rows) // ONE_IN
    for part in blocks(rows[:n_fitted]):
        bits, missed = bits_and_errors(codec, standard, part)
        sums.update(torch.from_numpy(bits), torch.from_numpy(missed))
    bits, missed = bits_and_errors(codec, standard, rows[n_fitted:])
    found = []
    for penalty in PENALTIES:
        weight, bias = (solved.float().numpy() for solved in sums.solve(penalty=penalty))
        found.append((float(np.square(missed - bits @ weight - bias).mean()), weight, bias))
    best = int(np.argmin([error for error, _, _ in found]))
    return found[best][1], found[best][2], PENALTIES[best]


def bits_and_errors(
    codec: BitCodec, standard: Standardisation, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return bits (n, h) and what decoding them misses (n, d) of standardised rows, float32."""
    packed = encode(codec, standard, rows)
    bits = unpack(packed, n_bits=codec.n_bits_).astype(np.float32)
    return bits, rows - standard.apply(codec.decode(packed))


def summarise(table: np.ndarray) -> dict[str, float]:
    """Return means over the pairs that a reader asks for.

    Args:
        table: (l, l), row i the codec's layer, column j the layer coded; l at least 2.

    Returns:
        `own`, `next` (neighbours among the layers), `other` (all but the own), `to_later` and
        `to_earlier` (the codec's layer below and above the one coded).
    """
    i, j = np.indices(table.shape)
    return {
        "own": float(table[i == j].mean()),
        "next": float(table[abs(i - j) == 1].mean()),
        "other": float(table[i != j].mean()),
        "to_later": float(table[i < j].mean()),
        "to_earlier": float(table[i > j].mean()),
    }


def draw(results: dict[str, Any], path: Path) -> None:
    """Write the two heat maps as a PNG.

    Args:
        results: as `tables_of` returns them.
        path: of the picture.
    """
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 5), layout="constrained")
    for panel, (measure, title) in zip(panels, TITLES.items(), strict=True):
        table = np.array([*results[measure], results["shuffled"][measure]])
        # Beyond 1 a codec is worse than the mean: how much worse is in the numbers.
        image = panel.imshow(table, vmin=0, vmax=1, cmap="viridis_r")
        for (i, j), value in np.ndenumerate(table):
            shade = "white" if value > 0.5 else "black"
            panel.text(j, i, f"{value:.2f}", ha="center", va="center", color=shade)
        panel.set_xticks(range(table.shape[1]), results["layers"])
        panel.set_yticks(range(table.shape[0]), [*results["layers"], "own,\nshuffled"])
        panel.set(title=title, xlabel="layer coded", ylabel="layer of the codec")
    figure.colorbar(image, ax=panels, label="fraction of variance unexplained", extend="max")
    figure.savefig(path, dpi=90, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
