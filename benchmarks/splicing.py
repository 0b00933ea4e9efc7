"""What the model thinks of a code: next-token loss with decoded states in place of its own.

Methods of the rate-distortion benchmark, fitted on the same rows, replace the states of one layer
of SmolLM2 on text of other files. Bytes are those of the rows replaced, all side data counted.

    python -m benchmarks.splicing --packages DEBS --cache CACHE --codecs CODECS
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.hidden_states import MODEL, TEXTS, add_arguments, harvest_split
from benchmarks.passages import read_excerpts
from benchmarks.quantisers import Fit, Fitted, quantisers
from benchmarks.rate_distortion_codecs import codecs
from benchmarks.results_file import merge_results
from benchmarks.sensitive_codecs import sensitive_codecs
from benchmarks.transform_coding import transforms
from bitcodec.errors import ValueRangeError
from bitcodec_transformers import load_model, splice

logger = logging.getLogger(__name__)

NAME = "splicing"
BITS = (50, 1300)
"""Rates of the rivals that are compared."""


class Metered:
    """There and back through a method, counting bytes.

    Args:
        fitted: the method.
    """

    def __init__(self, fitted: Fitted) -> None:
        self._fitted = fitted
        self._bytes, self._n_rows = 0.0, 0

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Encode and decode (n, d) float32."""
        encoded = self._fitted.encode(rows)
        self._bytes += encoded.bytes_per_vector * len(rows)
        self._n_rows += len(rows)
        assert self._fitted.decode is not None
        return self._fitted.decode(encoded)

    @property
    def bytes_per_vector(self) -> float:
        """Of all rows so far."""
        return self._bytes / self._n_rows


def main() -> int:
    """Merge the figures of the methods asked for into benchmarks/results/splicing.json."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(arguments.threads)
    sizes = {"n_fitted": arguments.rows, "n_held_out": arguments.held_out_rows}
    train, _ = harvest_split(arguments.packages, arguments.cache, **sizes).read(arguments.layer)
    fitted = {}
    for name, fit in choose_methods(arguments).items():
        logger.info("fitting %s", name)
        method = fit(train)
        if method.decode is not None and is_compared(method, train):
            fitted[name] = Metered(method)
    texts = read_excerpts(arguments.packages, TEXTS)[1]
    report = splice(
        texts,
        model=load_model(MODEL),
        layer=arguments.layer,
        replace=fitted,
        max_tokens=arguments.max_tokens,
        progress=lambda record: logger.info("%d tokens", record.n_tokens),
    )
    layer = f"layer-{arguments.layer}"
    shared = dataclasses.asdict(report)
    outcomes = shared.pop("outcomes")
    for name, outcome in outcomes.items():
        size = fitted[name].bytes_per_vector
        rate = {"bits_per_vector": 8 * size, "bytes_per_vector": size}
        figures: dict[str, Any] = rate | outcome | {"tokens": shared}
        merge_results(NAME, (layer, "methods", name), figures)
        logger.info(
            "%-24s %7.1f bits  CE %.3f (%.3f)  recovered %.4f  KL %.4f",
            name,
            8 * size,
            outcome["cross_entropy"],
            report.cross_entropy_original,
            outcome["recovered"],
            outcome["kl"],
        )
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--codecs", type=Path, required=True, help="folder that keeps codecs")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--methods", nargs="+", default=[""], help="parts of methods' names")
    parser.add_argument("--max-tokens", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def choose_methods(arguments: argparse.Namespace) -> dict[str, Fit]:
    """Return rivals and codecs whose names contain one of the parts asked for."""
    layer = f"layer-{arguments.layer}"
    rivals = quantisers(576, layer) | transforms()
    ours = codecs(layer, arguments.codecs)
    studied = sensitive_codecs(arguments.layer, arguments.packages, arguments.codecs)
    methods, wanted = rivals | ours | studied, arguments.methods
    chosen = {name: fit for name, fit in methods.items() if any(part in name for part in wanted)}
    if not chosen:
        raise ValueRangeError(f"no method's name holds {wanted}: there are {', '.join(methods)}")
    return chosen


def is_compared(method: Fitted, rows: np.ndarray) -> bool:
    """Tell whether a method's rate is among `BITS`."""
    return BITS[0] <= 8 * method.encode(rows[:256]).bytes_per_vector <= BITS[1]


if __name__ == "__main__":
    sys.exit(main())
