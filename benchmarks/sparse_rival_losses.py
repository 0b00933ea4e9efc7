"""What the model thinks of the sparse rivals: its next-token loss with what they store.

Methods that `benchmarks.sparse_rivals` measured, their values rounded to the steps it chose, take
the place of the layer's states on text of other files. Figures are merged into its results.

    python -m benchmarks.sparse_rival_losses with the same options

Less than a minute for a method and 2,000 tokens on a core of its own.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.hidden_states import TEXTS
from benchmarks.passages import read_excerpts
from benchmarks.results_file import RESULTS, merge_results
from benchmarks.sparse_methods import Method
from benchmarks.sparse_rivals import NAME, add_options, choose_methods, place_of, states_of
from bitcodec.files import read_json
from bitcodec_transformers import load_model, splice

logger = logging.getLogger(__name__)


def main() -> int:
    """Merge the losses of the methods that were asked for and measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--max-tokens", type=int, default=6000)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(arguments.threads)
    place = place_of(arguments)
    results = read_json(RESULTS / f"{NAME}.json")["results"]
    measured = (results[place[0]] if place else results)["methods"]
    train, _ = states_of(arguments).read(arguments.layer)
    chosen = {name: make for name, make in choose_methods(arguments).items() if name in measured}
    report = splice(
        read_excerpts(arguments.packages, TEXTS)[1],
        model=load_model(arguments.model),
        layer=arguments.layer,
        replace={
            name: through(make(train), measured[name].get("step")) for name, make in chosen.items()
        },
        max_tokens=arguments.max_tokens,
        progress=lambda record: logger.info("%d tokens", record.n_tokens),
    )
    shared = {"max_tokens": arguments.max_tokens, "original": report.cross_entropy_original}
    for name, outcome in report.outcomes.items():
        figures = {
            "cross_entropy": outcome.cross_entropy,
            "cross_entropy_error": outcome.cross_entropy_error,
            "recovered": outcome.recovered,
            "kl": outcome.kl,
        }
        merge_results(NAME, (*place, "losses", name), figures | shared)
        logger.info("%-20s recovered %.4f  KL %.4f", name, outcome.recovered, outcome.kl)
    return 0


def through(method: Method, step: float | None) -> Callable[[np.ndarray], np.ndarray]:
    """Return the way there and back; a step of None rounds nothing."""

    def there_and_back(rows: np.ndarray) -> np.ndarray:
        activations = method.activations(rows)
        if step is not None:
            activations = np.rint(activations / np.float32(step)) * np.float32(step)
        return method.decode(activations)

    return there_and_back


if __name__ == "__main__":
    sys.exit(main())
