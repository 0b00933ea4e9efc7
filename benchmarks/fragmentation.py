r"""How many features one continuous quantity takes, and whether its bits are a thermometer.

The position in the context, the frequency of the token and the norm of the state are read by linear
probes from a codec's bits, from the values and the on-off patterns of sparse autoencoders, from
random signs and from the state itself; figures are of files that nothing was fitted on. A quantity
that no row has, positions in random order, says what a probe finds where nothing is. Then the bits
chosen are tried for what a thermometer's would be: monotone along the quantity, thresholds spread
over it, on-sets nested in each other.

    python -m benchmarks.fragmentation --packages DEBS --work FOLDER --model MODEL

or, for codecs and harvests that are there already,

    python -m benchmarks.fragmentation --hidden HARVEST --held-out HARVEST --layers 15 \
        --codecs CODEC ... --saes SAE ...

SAE is a folder in SAELens's format, trained on standardised rows as those of
`benchmarks.sparse_rivals` are. The picture shows the layer that was probed last. Six minutes for a
layer, a codec and an autoencoder of 2,304 features and 10,000 rows, on a machine that was busy.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.continuous_probes import Probe, bin_rows, probe, thermometer, tuning_curves, turned
from benchmarks.layered_codecs import add_layer_options, prepare
from benchmarks.quantisers import Standardisation
from benchmarks.results_file import RESULTS, merge_results
from benchmarks.sparse_methods import Method, blocks, of_codec, random_signs
from benchmarks.sparse_rival_fits import method_of
from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches
from bitcodec.errors import ConfigError
from bitcodec_transformers import read_harvest, read_rows

logger = logging.getLogger(__name__)

NAME = "fragmentation"
QUANTITIES = ("position", "frequency", "norm", "nothing")
"""log of 1 + the position, of 1 + the token's count in the training rows, of the state's norm, and
positions in random order."""
SIZES = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256)
"""Features a small probe may use."""
SHARE = 0.9
"""Of the best probe's R2, which the features are counted to."""
MOST_SHOWN = 32
"""Features that are tried as a thermometer: those needed, at least 2, at most so many."""
COLOURS = {
    "state": "black",
    "codec": "crimson",
    "sae": "tab:blue",
    "on-off": "tab:cyan",
    "random": "0.6",
}
"""By the first word of a method's name."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is to be probed in one layer."""

    layer: int
    """The layer."""
    fitted: Path
    """A harvest to fit probes on."""
    held_out: Path
    """Another, of other files."""
    codecs: dict[str, BitCodec]
    """Codecs of the layer by name."""
    saes: tuple[Path, ...]
    """Sparse autoencoders of the layer."""


@dataclasses.dataclass(frozen=True)
class ProbedRows:
    """Rows to probe."""

    hidden: np.ndarray
    """(n, d) float32."""
    quantities: np.ndarray
    """(n, 4) float64, in the order of `QUANTITIES`."""


def main() -> int:
    """Probe every method, merge the figures into the results and draw them."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    for asked in take(arguments):
        train, test = read_probed(asked, arguments.rows, arguments.held_out_rows)
        place = f"{read_harvest(asked.fitted).model['name']}, layer {asked.layer}"
        drawn = {}
        for name, method in methods(asked, train.hidden):
            begun = time.perf_counter()
            drawn[name] = measure(method, train, test)
            drawn[name]["seconds"] = time.perf_counter() - begun
            drawn[name]["rows"] = [len(train.hidden), len(test.hidden)]
            merge_results(NAME, (place, name), drawn[name])
            logger.info("layer %d, %s: %s", asked.layer, name, line_of(drawn[name]))
        draw(drawn, RESULTS / f"{NAME}.png", title=place)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_layer_options(parser, required=False)
    parser.add_argument("--hidden", type=Path, help="the codecs' harvest, there already")
    parser.add_argument("--held-out", type=Path, help="harvest of other files, there already")
    parser.add_argument("--codecs", type=Path, nargs="+", help="fitted codecs of the layer")
    parser.add_argument("--saes", type=Path, nargs="*", default=[], help="SAEs of SAELens")
    return parser.parse_args()


def take(arguments: argparse.Namespace) -> Iterator[Asked]:
    """Yield what is to be probed, made where no codecs are given.

    Raises:
        ConfigError: neither folders to make codecs in nor one layer and what there is of it are
            named.
    """
    if arguments.packages and arguments.work and not (arguments.codecs or arguments.saes):
        _, made = prepare(arguments)
        for layer, codec in made.codecs.items():
            codecs = {f"codec of {codec.n_bits_} bits": codec}
            yield Asked(layer, made.split.fitted, made.split.held_out, codecs, ())
        return
    given = arguments.hidden and arguments.held_out and arguments.codecs
    if not given or len(arguments.layers or ()) != 1:
        raise ConfigError(
            "name --packages and --work, or --hidden, --held-out, --codecs and one of --layers"
        )
    loaded = {
        f"codec {path.name}": BitCodec.load(path, device=arguments.device)
        for path in arguments.codecs
    }
    (layer,) = arguments.layers
    yield Asked(layer, arguments.hidden, arguments.held_out, loaded, tuple(arguments.saes))


def read_probed(asked: Asked, n_rows: int, n_held_out: int) -> tuple[ProbedRows, ProbedRows]:
    """Return rows to fit probes on and rows of other files."""
    counts = np.bincount(read_rows(asked.fitted).token_id)
    return (
        probed_rows(asked.fitted, asked.layer, n_rows, counts),
        probed_rows(asked.held_out, asked.layer, n_held_out, counts),
    )


def probed_rows(harvest: Path, layer: int, n_rows: int, counts: np.ndarray) -> ProbedRows:
    """Read the first rows of a layer, with their quantities.

    Args:
        harvest: a folder that `bitcodec harvest` wrote.
        layer: one of its layers.
        n_rows: at most so many.
        counts: (v,) of every token in the training rows; tokens beyond were not seen.
    """
    batches, parts, seen = HiddenBatches(harvest / f"layer-{layer}").batches(4096), [], 0
    for batch in batches:
        parts.append(batch.numpy()[: n_rows - seen])
        seen += len(parts[-1])
        if seen == n_rows:
            break
    hidden, rows = np.concatenate(parts), read_rows(harvest)
    position, token = rows.position[: len(hidden)], rows.token_id[: len(hidden)]
    known = np.append(counts, np.zeros(max(0, int(token.max()) + 1 - len(counts)), np.int64))
    norms = np.linalg.norm(hidden.astype(np.float64), axis=1)
    nothing = np.random.default_rng(0).permutation(position)
    columns = np.log1p(position), np.log1p(known[token]), np.log(norms), np.log1p(nothing)
    return ProbedRows(hidden, np.stack(columns, axis=1))


def methods(asked: Asked, train: np.ndarray) -> Iterator[tuple[str, Method]]:
    """Yield what probes read, by name."""
    yield "state", Method(lambda rows: rows, lambda rows: rows, train.shape[1], has_values=True)
    for name, codec in asked.codecs.items():
        yield name, of_codec(codec, refine="fast")
    whole = _whole_rows(asked.fitted / f"layer-{asked.layer}") if asked.saes else train
    standard = Standardisation.of(whole)
    for path in asked.saes:
        method = method_of(path, standard)
        yield f"sae {path.name}", method
        yield f"on-off {path.name}", without_its_values(method)
    n_features = next(iter(asked.codecs.values())).n_bits_
    yield "random signs", random_signs(train, n_features=n_features, activity=0.05)


def without_its_values(method: Method) -> Method:
    """Return a method whose features are only on or off; it decodes nothing."""
    return dataclasses.replace(
        method,
        activations=lambda rows: (method.activations(rows) > 0).astype(np.float32),
        has_values=False,
    )


def measure(method: Method, train: ProbedRows, test: ProbedRows) -> dict[str, Any]:
    """Return a method's figures by quantity; of methods that are on or off, thermometers too."""
    seen, kept = activations_of(method, train.hidden), activations_of(method, test.hidden)
    probes = probe((seen, train.quantities), (kept, test.quantities), sizes=SIZES)
    figures: dict[str, Any] = {"features": method.n_features}
    for column, (quantity, found) in enumerate(zip(QUANTITIES, probes, strict=True)):
        figures[quantity] = probe_figures(found)
        if not method.has_values and quantity != "nothing":
            on, values = kept > 0, test.quantities[:, column]
            chosen = found.chosen[: min(MOST_SHOWN, found.needed(SHARE) or MOST_SHOWN)]
            figures[quantity]["thermometer"] = thermometer(on, values, chosen)
            shown = [feature for feature in chosen[:8] if 0 < on[:, feature].mean() < 1]
            curves, _ = tuning_curves(turned(on[:, shown], values), bin_rows(values))
            figures[quantity]["curves"] = np.round(curves.T, 4).tolist()
    return figures


def activations_of(method: Method, rows: np.ndarray) -> np.ndarray:
    """Return (n, h) float32 activations of (n, d) float32 rows."""
    return np.concatenate([method.activations(part) for part in blocks(rows)])


def probe_figures(found: Probe) -> dict[str, Any]:
    """Return what the results say of a probe."""
    return {
        "full_r2": found.full_r2,
        "best_r2": found.best_r2,
        "penalty": found.penalty,
        "needed": found.needed(SHARE),
        "sizes": list(found.sizes),
        "r2": [round(value, 4) for value in found.r2],
        "chosen": list(found.chosen[:MOST_SHOWN]),
    }


def line_of(figures: dict[str, Any]) -> str:
    """Return a method's figures in a line."""
    parts = []
    for quantity in QUANTITIES:
        found = figures[quantity]
        line = f"{quantity} {found['best_r2']:.3f} ({found['needed']}"
        like = found.get("thermometer", {})
        parts.append(f"{line}, H {like['nested']:.2f})" if "nested" in like else f"{line})")
    return "; ".join(parts)


def draw(drawn: dict[str, dict[str, Any]], path: Path, *, title: str) -> None:
    """Write a PNG: R2 by features used, and tuning curves of the first codec's first bits.

    Args:
        drawn: figures by method.
        path: of the picture.
        title: above it.
    """
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, panels = pyplot.subplots(2, 3, figsize=(13, 7.5), layout="constrained")
    ours = next(figures for name, figures in drawn.items() if name.startswith("codec"))
    for (top, bottom), quantity in zip(panels.T, QUANTITIES, strict=False):
        for place, (name, figures) in enumerate(drawn.items()):
            found, colour = figures[quantity], COLOURS[name.split()[0]]
            line = ("-", "--", ":")[place % 3]
            top.plot(found["sizes"], found["r2"], line, color=colour, label=name)
            top.axhline(found["full_r2"], color=colour, linewidth=0.5)
        top.set(xscale="log", ylim=(-0.05, 1), title=quantity, xlabel="features used")
        bottom.plot(np.array(ours[quantity]["curves"]).T)
        bottom.set(xlabel=f"{quantity}, by rank", ylim=(0, 1))
    panels[0, 0].set(ylabel="held-out R²; thin: all features")
    panels[1, 0].set(ylabel="P(on), the first bits chosen")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(title)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    pyplot.close(figure)


def _whole_rows(layer: Path) -> np.ndarray:
    return np.concatenate([batch.numpy() for batch in HiddenBatches(layer).batches(2**16)])


if __name__ == "__main__":
    sys.exit(main())
