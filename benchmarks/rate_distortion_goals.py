"""What the rate-distortion benchmarks promise, held against their committed results.

python -m benchmarks.rate_distortion_goals
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.rate_distortion import bits_at
from benchmarks.results_file import RESULTS
from bitcodec.errors import ValueRangeError
from bitcodec.files import read_json

PROMISED = "layer-15"
"""Data set of the promises."""
PROMISES = {0.30: (0.50, 0.45), 0.19: (0.65, 0.22)}
"""FVU: our bits at most, as a share of ResidualQuantizer's; how far below the Gaussian bound."""
TOLD = (0.30, 0.25, 0.19)
"""FVU at which the other data sets are compared."""
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
    results = read_json(RESULTS / "rate_distortion.json")["results"]
    measured = results[PROMISED]
    spliced = read_json(RESULTS / "splicing.json")["results"]["layer-15"]["methods"]
    goals = [*rate_goals(measured), *dense_goals(measured["methods"])]
    for end in SPLICED:
        goals += splice_goals(spliced, end=end)
    for goal, met in goals:
        print(f"{'met' if met else 'MISSED':<7} {goal}")
    for line in others(results):
        print(f"{'':<7} {line}")
    return 0 if all(met for _, met in goals) else 1


@dataclass(frozen=True)
class AtEqualError:
    """Bits at which methods have the same FVU."""

    fvu: float
    ours: float
    residual: float
    """ResidualQuantizer's."""
    gaussian: float
    """The bound of any code of independent Gaussian rows."""

    def __str__(self) -> str:
        """Compare ours with the others in words."""
        return (
            f"FVU {self.fvu:.2f}: {self.ours:.0f} bits, {self.ours / self.residual:.2f} of "
            f"ResidualQuantizer's {self.residual:.0f}, {1 - self.ours / self.gaussian:.0%} below "
            f"the Gaussian bound's {self.gaussian:.0f}"
        )


def compare(measured: dict[str, Any], fvu: float) -> AtEqualError | None:
    """Return the bits at an FVU, None where the measured rates do not reach it."""
    bound = measured["gaussian_bound"]
    curves = (
        curve(measured["methods"], start="bitcodec 0", end=", in context, best"),
        curve(measured["methods"], start="RQ"),
        list(zip(bound["bits"], bound["fvu"], strict=True)),
    )
    if not all(curves):
        return None
    try:
        return AtEqualError(fvu, *(bits_at(points, fvu) for points in curves))
    except ValueRangeError:
        return None


def others(results: dict[str, Any]) -> Iterator[str]:
    """Compare bits at equal FVU on the data sets that nothing was promised of."""
    for dataset, measured in results.items():
        for fvu in TOLD if dataset != PROMISED else ():
            found = compare(measured, fvu)
            if found is not None:
                yield f"{dataset}, {found}"


def rate_goals(measured: dict[str, Any]) -> Iterator[Goal]:
    """Hold bits at equal FVU against what was promised."""
    for fvu, (most, least) in PROMISES.items():
        found = compare(measured, fvu)
        if found is None:
            yield f"FVU {fvu:.2f}: not reached", False
            continue
        met = found.ours <= most * found.residual and found.ours <= (1 - least) * found.gaussian
        yield f"{found}; promised {most:.2f} and {least:.0%}", met


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
