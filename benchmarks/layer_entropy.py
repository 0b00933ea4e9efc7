"""Entropy of the codes by layer and place in the context, and by demonstrations of a task.

Codecs are fitted on several layers of a model, at one price of a bit. On documents of other files:
the entropy of the set of codes at a place in the context, over documents, and the bits a code
takes by the codec's own activities. On prompts that show a task 0 to 16 times: the entropy of the
codes at the token that the answer follows, over questions, beside the model's probability of the
right answer. Errors are those of leaving out documents, or questions.

    python -m benchmarks.layer_entropy --packages DEBS --cache CACHE
    python -m benchmarks.layer_entropy --packages DEBS --cache CACHE --prompts PROMPTS.jsonl

A line of PROMPTS.jsonl is an object with task, question, demonstrations, prompt and answer. Another
model is taken by `--model` and `--layers`, with a cache of its own. About a quarter of an hour on
two quiet cores, most of it for the harvest and the codecs, which the cache keeps: with these, three
minutes and a half. A GPU is used where there is one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.demonstrations import (
    Answers,
    Prompt,
    built_in_prompts,
    kept_answers,
    read_prompts,
)
from benchmarks.jackknife import ClusterCounts, mean_of, set_entropy
from benchmarks.layer_codecs import LayerSettings, fit_layers, harvest_layers, read_layers
from benchmarks.layer_entropy_plot import draw
from benchmarks.layer_positions import chosen_rows, entropy_by_position
from benchmarks.results_file import RESULTS, merge_results
from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches
from bitcodec.files import read_json
from bitcodec_transformers import load_model, read_rows

NAME = "layer_entropy"


def main() -> int:
    """Merge the figures of a model into benchmarks/results/layer_entropy.json and draw them."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    settings = LayerSettings(
        layers=arguments.layers,
        n_fitted=arguments.rows,
        n_held_out=arguments.held_out_rows,
        n_bits=arguments.bits,
        n_steps=arguments.steps,
    )
    begun, model = time.perf_counter(), load_model(arguments.model)
    harvest_layers(settings, model=model, packages=arguments.packages, cache=arguments.cache)
    print(f"{time.perf_counter() - begun:.0f} s: states", flush=True)
    codecs = dict(fit_layers(settings, cache=arguments.cache))
    print(f"{time.perf_counter() - begun:.0f} s: codecs", flush=True)
    for layer, codec in codecs.items():
        merge_results(
            NAME,
            (arguments.model, "by position", f"layer-{layer}"),
            in_context(codec, arguments.cache / "held_out", layer),
        )
    prompts = read_prompts(arguments.prompts) if arguments.prompts else built_in_prompts()
    group = arguments.prompts.stem if arguments.prompts else "built-in"
    answers = kept_answers(model, prompts, layers=settings.layers, cache=arguments.cache)
    figures = by_demonstrations(answers, codecs, prompts)
    merge_results(NAME, (arguments.model, "by demonstrations", group), figures)
    print(f"{time.perf_counter() - begun:.0f} s: all", flush=True)
    results = read_json(RESULTS / f"{NAME}.json")["results"][arguments.model]
    draw(results, RESULTS / f"{NAME}.png", group=group)
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    defaults = LayerSettings()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--packages", type=Path, required=True, help="folder of Debian packages")
    parser.add_argument("--cache", type=Path, required=True, help="folder for states and codecs")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--layers", type=read_layers, default=defaults.layers, help="as 3,8,13")
    parser.add_argument("--rows", type=int, default=defaults.n_fitted, help="to fit on")
    parser.add_argument("--held-out-rows", type=int, default=defaults.n_held_out)
    parser.add_argument("--bits", type=int, default=defaults.n_bits)
    parser.add_argument("--steps", type=int, default=defaults.n_steps)
    parser.add_argument("--prompts", type=Path, help="JSON lines, in place of the built-in tasks")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def in_context(codec: BitCodec, harvest: Path, layer: int) -> dict[str, Any]:
    """Measure one layer on held-out documents."""
    source = HiddenBatches(harvest / f"layer-{layer}")
    hidden = np.concatenate([batch.numpy() for batch in source.batches(2**14)])
    rows, block, document = chosen_rows(read_rows(harvest))
    evaluation = codec.evaluate(hidden)
    figures = {"fvu": evaluation.fvu, "entropy_bits_of_all_rows": evaluation.entropy_bits}
    return figures | entropy_by_position(codec, codec.encode(hidden[rows]), block, document)


def by_demonstrations(
    answers: Answers, codecs: dict[int, BitCodec], prompts: Sequence[Prompt]
) -> dict[str, Any]:
    """Measure the codes at the answer's place by task and number of demonstrations."""
    bits = {layer: codec.encode_bits(answers.hidden[layer]) for layer, codec in codecs.items()}
    questions, cluster = np.unique([prompt.question for prompt in prompts], return_inverse=True)
    cells: dict[str, Any] = {}
    for task in dict.fromkeys(prompt.task for prompt in prompts):
        for count in sorted({p.demonstrations for p in prompts if p.task == task}):
            here = np.array([p.task == task and p.demonstrations == count for p in prompts])
            _, inner = np.unique(cluster[here], return_inverse=True)
            cells.setdefault(task, {})[str(count)] = _cell(answers, bits, here, inner)
    return {"prompts": len(prompts), "questions": len(questions), "tasks": cells}


def _cell(
    answers: Answers, bits: dict[int, np.ndarray], here: np.ndarray, cluster: np.ndarray
) -> dict[str, Any]:
    """Return the figures of the prompts of one task and number of demonstrations."""
    n = int(cluster.max()) + 1
    right = mean_of(answers.probability[here], cluster, n_clusters=n)
    first = mean_of(answers.is_first[here].astype(float), cluster, n_clusters=n)
    entropies = {}
    for layer, rows in bits.items():
        estimate = set_entropy(ClusterCounts.of(rows[here], cluster, n_clusters=n))
        entropies[f"layer-{layer}"] = [estimate.value, estimate.error]
    return {
        "prompts": int(here.sum()),
        "probability": [right.value, right.error],
        "is_first": [first.value, first.error],
        "entropy_bits": entropies,
    }


if __name__ == "__main__":
    sys.exit(main())
