"""What the rate-distortion benchmarks promise, held against their committed results.

python -m benchmarks.rate_distortion_goals
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.rate_distortion import bits_at
from benchmarks.results_file import RESULTS
from bitcodec.files import read_json

AGAINST_RESIDUAL = {0.30: 0.50, 0.19: 0.65}
"""FVU: our bits as a share of ResidualQuantizer's, at most."""
UNDER_GAUSSIAN = {0.30: 0.45, 0.19: 0.22}
"""FVU: how far our bits are below the Gaussian bound's, at least."""
DENSE = {1: ("EDEN1", "RaBitQ1"), 2: ("EDEN2", "RaBitQ2"), 4: ("EDEN4", "RaBitQ4")}
"""Bits a dimension: rivals of at least as many bytes that must not be better."""
RECOVERED = {400: 0.990, 175: 0.975}
"""Bits of a token: the share of the loss recovered, at least."""
SPLICED = (", best", ", minded")
"""Ends of the names of our methods by error: the squared one, and that which the model minds."""

Goal = tuple[str, bool]
Methods = dict[str, dict[str, Any]]


def main() -> int:
    """Print every goal and return 1 if one is missed."""
    measured = read_json(RESULTS / "rate_distortion.json")["results"]["layer-15"]
    spliced = read_json(RESULTS / "splicing.json")["results"]["layer-15"]["methods"]
    goals = [*rate_goals(measured), *dense_goals(measured["methods"])]
    for end in SPLICED:
        goals += splice_goals(spliced, end=end)
    for goal, met in goals:
        print(f"{'met' if met else 'MISSED':<7} {goal}")
    return 0 if all(met for _, met in goals) else 1


def rate_goals(measured: dict[str, Any]) -> Iterator[Goal]:
    """Compare bits at equal FVU on layer 15."""
    ours = curve(measured["methods"], start="bitcodec 0", end=", in context, best")
    residual = curve(measured["methods"], start="RQ")
    bound = measured["gaussian_bound"]
    gaussian = list(zip(bound["bits"], bound["fvu"], strict=True))
    for fvu, most in AGAINST_RESIDUAL.items():
        bits, rival = bits_at(ours, fvu), bits_at(residual, fvu)
        share = f"{bits:.0f} bits, {bits / rival:.2f} of ResidualQuantizer's {rival:.0f}"
        yield f"FVU {fvu:.2f}: {share}, at most {most:.2f}", bits <= most * rival
    for fvu, least in UNDER_GAUSSIAN.items():
        bits, limit = bits_at(ours, fvu), bits_at(gaussian, fvu)
        below = f"{1 - bits / limit:.0%} below the Gaussian bound's {limit:.0f}"
        yield (
            f"FVU {fvu:.2f}: {bits:.0f} bits, {below}, at least {least:.0%}",
            (bits <= (1 - least) * limit),
        )


def dense_goals(methods: Methods) -> Iterator[Goal]:
    """Compare dense codes with quantisers of at least as many bytes."""
    for bits, rivals in DENSE.items():
        ours = methods[f"bitcodec dense {bits}"]
        for name in rivals:
            rival = methods[name]
            assert rival["bytes_per_vector"] >= ours["bytes_per_vector"]
            closer = rival["fvu"] is None or ours["fvu"] <= rival["fvu"]
            told = f"{figures_of(ours)} against {name} {figures_of(rival)}"
            yield (
                f"{bits} bits a dimension: {told}",
                closer and ours["recall_at_10"] >= rival["recall_at_10"],
            )


def splice_goals(spliced: Methods, *, end: str) -> Iterator[Goal]:
    """Compare what the model recovers, and that no rival of fewer or as many bits does better."""
    ours = points(spliced, start="bitcodec 0", end=end)
    rates, shares = np.array(ours).T
    for bits, least in RECOVERED.items():
        recovered = float(np.interp(bits, rates, shares))
        told = f"{bits} bits{end}: recovered {recovered:.4f}, at least {least}"
        yield told, recovered >= least
    for name, figures in spliced.items():
        rate = figures["bits_per_vector"]
        if not name.startswith("bitcodec") and rate >= rates[0]:
            recovered = float(np.interp(rate, rates, shares))  # no more than that of our last rate
            told = f"{recovered:.4f} against {name} {figures['recovered']:.4f}"
            yield f"{rate:.0f} bits{end}: recovered {told}", recovered > figures["recovered"]


def curve(methods: Methods, *, start: str, end: str = "") -> list[tuple[float, float]]:
    """Return bits and FVU of the methods whose names start and end so, by rising bits."""
    chosen = [row for name, row in methods.items() if name.startswith(start) and name.endswith(end)]
    return sorted((row["bits_per_vector"], row["fvu"]) for row in chosen)


def points(methods: Methods, *, start: str, end: str) -> list[tuple[float, float]]:
    """Return bits and recovered shares of the same, by rising bits."""
    chosen = [row for name, row in methods.items() if name.startswith(start) and name.endswith(end)]
    return sorted((row["bits_per_vector"], row["recovered"]) for row in chosen)


def figures_of(method: dict[str, Any]) -> str:
    """Return bytes, FVU and recall in words."""
    fvu = "no FVU" if method["fvu"] is None else f"FVU {method['fvu']:.4f}"
    return f"{method['bytes_per_vector']:.0f} bytes, {fvu}, R@10 {method['recall_at_10']:.3f}"


if __name__ == "__main__":
    sys.exit(main())
