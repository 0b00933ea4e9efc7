r"""Whether the preset "features" finds the features that data are made of, and no others.

Data are sums of random directions (`bitcodec.synthetic`): 20,000 rows to fit, 4,000 held out. The
preset is used as it is for every case and seed. Groups of cases:

    exact       fair and sparse bits, up to half as many as dimensions, without noise
    beyond      noise, correlated bits, as many bits as dimensions, twice as many sparse ones
    surrogates  each surrogate gradient with and without pruning, and the published recipe
    signatures  what a fit without the entropy term gives

    python -m benchmarks.synthetic_entropy --group exact --seeds 5
    python -m benchmarks.synthetic_entropy --plot
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.results_file import RESULTS, merge_results
from bitcodec import BitCodec
from bitcodec.files import read_json
from bitcodec.synthetic import RandomDirections, draw_random_directions

NAME = "synthetic_entropy"
FITTED_ROWS, HELD_OUT_ROWS = 20_000, 4_000
FOUND = 0.99
"""Correlation from which a learned bit is a true one."""


@dataclass(frozen=True)
class Case:
    """Data, and the parameters of the codec that differ from the preset's."""

    data: dict[str, Any]
    parameters: dict[str, Any] = field(default_factory=dict)
    preset: str = "features"


def fair(n_dims: int, n_features: int, **more: float) -> dict[str, Any]:
    """Return the arguments of data of fair bits, or as told."""
    return {"n_dims": n_dims, "n_features": n_features, **more}


SIZES = {"r = d/8": fair(64, 8), "r = d/4": fair(80, 20), "r = d/2": fair(64, 32)}
SURROGATES = ("sigmoid", "clipped", "gumbel", "identity")
GROUPS: dict[str, dict[str, Case]] = {
    "exact": {
        "d=64 r=8": Case(fair(64, 8)),
        "d=96 r=12": Case(fair(96, 12)),
        "d=80 r=20": Case(fair(80, 20)),
        "d=64 r=32": Case(fair(64, 32)),
        "d=112 r=16 p=.2": Case(fair(112, 16, activity=0.2)),
        "d=128 r=32 p=.1": Case(fair(128, 32, activity=0.1)),
    },
    "beyond": {
        "d=64 r=16 SNR 10": Case(fair(64, 16, signal_to_noise=10.0)),
        "d=64 r=32 SNR 10": Case(fair(64, 32, signal_to_noise=10.0)),
        "d=64 r=16 rho=.3": Case(fair(64, 16, correlation=0.3)),
        "d=64 r=16 rho=.7": Case(fair(64, 16, correlation=0.7)),
        "d=64 r=64": Case(fair(64, 64)),
        "d=64 r=64 p=.1": Case(fair(64, 64, activity=0.1)),
        "d=64 r=128 p=.02": Case(fair(64, 128, activity=0.02)),
        "d=64 r=128 p=.05": Case(fair(64, 128, activity=0.05)),
    },
    "surrogates": {
        f"{size}, {surrogate}, {'pruned' if prune else 'not pruned'}": Case(
            data, {"surrogate": surrogate, "prune": prune, "pull": prune}
        )
        for size, data in SIZES.items()
        for surrogate in SURROGATES
        for prune in (True, False)
    }
    | {
        f"{size}, {preset} recipe, not pruned": Case(data, {"n_steps": 6000}, preset)
        for size, data in SIZES.items()
        for preset in ("published", "paper")
    },
    "signatures": {
        f"{size}, no entropy term": Case(
            data, {"entropy_weight": 0.0, "prune": False, "start": "directions"}
        )
        for size, data in SIZES.items()
    },
}


def main() -> int:
    """Fit what was asked for, merge the figures into the results, or draw them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--group", choices=GROUPS, action="append", default=[])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--plot", action="store_true", help="draw the results' picture")
    arguments = parser.parse_args()
    for group in arguments.group:
        for name, case in GROUPS[group].items():
            for seed in range(arguments.seeds):
                figures = measure(case, seed=seed)
                merge_results(NAME, (group, name, f"seed {seed}"), figures)
                print(f"{group:10} {name:34} seed {seed} ", line(figures), flush=True)
    if arguments.plot:
        draw(read_json(RESULTS / f"{NAME}.json")["results"])
    return 0


def measure(case: Case, *, seed: int) -> dict[str, Any]:
    """Fit a case's data and compare the bits of held-out rows with the true ones."""
    data = draw_random_directions(FITTED_ROWS + HELD_OUT_ROWS, seed=seed, **case.data)
    codec = BitCodec.preset(case.preset, seed=seed, **case.parameters)
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        codec.fit(data.hidden[:FITTED_ROWS])
    seconds = time.monotonic() - began
    return compare(codec, data) | {
        "fit_seconds": round(seconds, 1),
        "warnings": [str(warning.message) for warning in caught],
    }


def compare(codec: BitCodec, data: RandomDirections) -> dict[str, Any]:
    """Return entropies, error, and how many bits are true ones, on the held-out rows."""
    held_out, true = data.hidden[FITTED_ROWS:], data.bits[FITTED_ROWS:]
    result, found = codec.evaluate(held_out), codec.encode_bits(held_out)
    matches = correlations(true, found)
    return {
        "true_bits": data.bits.shape[1],
        "n_bits": codec.n_bits_,
        "true_entropy_bits": data.marginal_entropy_bits,
        "true_joint_entropy_bits": data.joint_entropy_bits,
        "entropy_bits": result.entropy_bits,
        "fvu": result.fvu,
        "cosine": result.cosine,
        "true_bits_found": int((matches.max(axis=1) > FOUND).sum()),
        "bits_that_are_true": int((matches.max(axis=0) > FOUND).sum()),
        "least_correlation": float(matches.max(axis=1).min()),
    }


def correlations(true: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return the absolute correlations of true with found bits, (r, h); 0 for constant bits."""
    left, right = (bits - bits.mean(axis=0) for bits in (true.astype(float), found.astype(float)))
    norms = np.outer(np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=0))
    products = left.T @ right
    scaled: np.ndarray = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return np.asarray(np.abs(scaled))


def line(figures: dict[str, Any]) -> str:
    """Return one run's figures as a line."""
    return (
        f"H {figures['entropy_bits']:7.2f} of {figures['true_entropy_bits']:6.2f} bits, "
        f"{figures['true_bits_found']:3}/{figures['true_bits']:3} found among "
        f"{figures['n_bits']:4}, FVU {figures['fvu']:.5f}, cosine {figures['cosine']:.4f}, "
        f"{figures['fit_seconds']:.0f} s"
    )


def draw(results: dict[str, Any]) -> None:
    """Draw estimated against true entropy by surrogate, with and without pruning."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.6), sharex=True, sharey=True)
    for axis, pruning in zip(axes, ("pruned", "not pruned"), strict=True):
        axis.plot([6, 40], [6, 40], color="0.6", linewidth=1, label="truth")
        for kind in dict.fromkeys(name.split(", ")[1] for name in results["surrogates"]):
            runs = [
                run
                for name, seeds in results["surrogates"].items()
                if name.split(", ")[1:] == [kind, pruning]
                for run in seeds.values()
            ]
            points = sorted((run["true_entropy_bits"], run["entropy_bits"]) for run in runs)
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", markersize=5, label=kind)
        axis.set(title=pruning, xscale="log", yscale="log", xlabel="true entropy, bits")
        axis.set_xticks([8, 20, 32], ["8", "20", "32"])
        axis.set_yticks([8, 20, 32, 100, 300], ["8", "20", "32", "100", "300"])
        axis.minorticks_off()
        axis.legend(frameon=False)
    axes[0].set_ylabel("sum of the learned bits' entropies, bits")
    figure.suptitle("Entropy found in random-direction data, held-out rows, h = 4d")
    figure.tight_layout()
    figure.savefig(RESULTS / f"{NAME}.png", dpi=120)


if __name__ == "__main__":
    sys.exit(main())
