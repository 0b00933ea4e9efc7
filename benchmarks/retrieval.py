"""Judged retrieval with bitcodec's codes and with other quantisers trained on the same rows.

Every set in the folder is searched in turn. With `--fit other` nothing of the set is trained on:
the rows are the other sets' documents and passages of Debian packages. With `--fit documents`
they are the set's own documents; its queries are never trained on. Figures are merged into
benchmarks/results/retrieval.json by model, fit and method: a run replaces only what it measured.

    python -m benchmarks.retrieval --data FOLDER --packages FOLDER --cache FOLDER
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from benchmarks.passages import read_passages
from benchmarks.results_file import RESULTS, merge_results
from benchmarks.retrieval_codecs import byte_budgets, make_codecs
from benchmarks.retrieval_data import (
    Embed,
    EmbeddingCache,
    RetrievalSet,
    choose_sets,
    load_sets,
    make_mean_pooled,
    make_minilm,
    pool_harvest,
)
from benchmarks.retrieval_goals import goals_met
from benchmarks.retrieval_methods import Fit, exact_neighbours, measure
from benchmarks.retrieval_plot import plot
from benchmarks.retrieval_table import show
from benchmarks.rivals import make_rivals
from bitcodec.errors import ValueRangeError
from bitcodec.files import read_json

NAME = "retrieval"
FITS = ("other", "documents")
LEAST_ROWS = 512
"""A minibatch of our codecs' training: sets of fewer documents cannot be fitted on them."""

Run = dict[str, dict[str, float]]
"""Figures of one fit by set."""


def main() -> int:
    """Merge figures into benchmarks/results/retrieval.json; return 1 if a goal is missed."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    faiss.omp_set_num_threads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    cache = open_cache(arguments)
    subject = cache.model if arguments.metric == "inner_product" else f"{cache.model}-l2"
    sets = load_sets(arguments.data, cache, arguments.sets)
    passages = load_passages(arguments, cache)
    for fit in FITS if arguments.fit == "both" else (arguments.fit,):
        chosen = [judged for judged in sets if fit == "other" or is_large(judged)]
        rows = run_fit(arguments, (subject, fit), chosen, passages)
        show(f"{arguments.model}, fitted on {fit}", rows)
        picture = RESULTS / f"{'_'.join(name_parts(subject, fit))}.png"
        title = f"{arguments.model}, {len(chosen)} sets, {fit}"
        plot(stored_rows(subject, fit), picture, title=title)
    return 0 if goals_met(promised_rows(arguments, subject), byte_budgets(384)) else 1


def name_parts(model: str, fit: str) -> list[str]:
    """Return what a picture's name is made of; MiniLM fitted on other text is the main one."""
    return [NAME, *([] if model == "minilm" else [model]), *([] if fit == "other" else [fit])]


def is_large(judged: RetrievalSet) -> bool:
    """Say whether a set has the documents to fit on; tell where it has not."""
    large = len(judged.documents) >= LEAST_ROWS
    if not large:
        logging.info(
            "%s is left out: its %d documents are fewer than a minibatch of %d",
            *(judged.name, len(judged.documents), LEAST_ROWS),
        )
    return large


def run_fit(
    arguments: argparse.Namespace,
    place: tuple[str, str],
    sets: list[RetrievalSet],
    passages: np.ndarray,
) -> dict[str, Any]:
    """Measure the methods one by one, each merged into the results; return their rows.

    Args:
        arguments: which methods, and how often ours are fitted.
        place: the subject, a model or with another metric, and what is fitted on: where the figures
            go.
        sets: what is searched.
        passages: other text to fit on.
    """
    n_dims, (_, fit) = sets[0].documents.shape[1], place
    training = {judged.name: training_rows(fit, judged, sets, passages) for judged in sets}
    exact = {judged.name: exact_neighbours(judged) for judged in sets}
    merge_results(NAME, (*place, "data"), describe(arguments, sets, passages))
    rows: dict[str, Any] = {}
    for family, learn in choose_methods(arguments, n_dims).items():
        seeds = arguments.seeds if family.startswith("bitcodec") else 1
        for name, row in measure_family(learn, sets, training, exact, seeds).items():
            merge_results(NAME, (*place, "methods", name), row)
            rows[name] = row
    return rows


def stored_rows(model: str, fit: str) -> dict[str, Any]:
    """Return the rows of all methods that the results file has of a model and a fit."""
    results = read_json(RESULTS / f"{NAME}.json")["results"]
    rows: dict[str, Any] = results.get(model, {}).get(fit, {}).get("methods", {})
    return rows


def promised_rows(arguments: argparse.Namespace, model: str) -> dict[str, Any]:
    """Return the rows that goals are about, all that the results file has; none of other runs."""
    of_all_sets = arguments.sets is None or len(arguments.sets) == len(choose_sets(arguments.data))
    if model != "minilm" or arguments.fit == "documents" or not of_all_sets:
        return {}
    return stored_rows(model, "other")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of BEIR-style folders")
    parser.add_argument("--packages", type=Path, required=True, help="folder of .deb files")
    parser.add_argument("--cache", type=Path, required=True, help="folder for embeddings")
    parser.add_argument("--sets", nargs="+", help="names of sets in the folder, all by default")
    parser.add_argument("--fit", choices=(*FITS, "both"), default="other")
    parser.add_argument("--model", default="minilm", help="minilm, or a causal model to mean-pool")
    parser.add_argument("--layer", type=int, default=15, help="block whose states are mean-pooled")
    parser.add_argument(
        "--metric",
        choices=("inner_product", "l2"),
        default="inner_product",
        help="of float queries; rows of length 1 and a large mean want l2",
    )
    parser.add_argument(
        "--max-tokens", type=int, default=128, help="tokens of a text that are mean-pooled"
    )
    parser.add_argument(
        "--harvest", type=Path, help="states to mean-pool instead of the passages'; saves hours"
    )
    parser.add_argument("--n-passages", type=int, default=12_000, help="passages of each package")
    parser.add_argument("--seeds", type=int, default=1, help="fits of each of our codecs")
    parser.add_argument("--threads", type=int, default=1, help="of the fits; searches take one")
    parser.add_argument("--methods", nargs="+", default=[""], help="parts of methods' names")
    parser.add_argument("--slow", action="store_true", help="the rivals that learn for minutes too")
    arguments = parser.parse_args()
    if arguments.harvest is not None and arguments.model == "minilm":
        parser.error("--harvest holds the states of a causal model: name it with --model")
    return arguments


def open_cache(arguments: argparse.Namespace) -> EmbeddingCache:
    """Return the cache of the chosen model's embeddings."""
    if arguments.model == "minilm":
        return EmbeddingCache(arguments.cache, "minilm", make_minilm)
    layer, tokens = arguments.layer, arguments.max_tokens
    make: partial[Embed] = partial(
        make_mean_pooled, arguments.model, layer=layer, max_tokens=tokens
    )
    name = f"{Path(arguments.model).name}-layer-{layer}-{tokens}-tokens"
    return EmbeddingCache(arguments.cache, name, make)


def load_passages(arguments: argparse.Namespace, cache: EmbeddingCache) -> np.ndarray:
    """Return other text as vectors: the passages of all packages, or runs of a harvest's tokens."""
    if arguments.harvest is not None:
        return pool_harvest(arguments.harvest, layer=arguments.layer)
    passages = read_passages(arguments.packages, n_passages=arguments.n_passages)
    return np.concatenate(
        [cache.embed(f"passages.{name}", texts) for name, texts in passages.items()]
    )


def training_rows(
    fit: str, judged: RetrievalSet, sets: list[RetrievalSet], passages: np.ndarray
) -> np.ndarray:
    """Return the rows that every method learns from before it meets a set's queries."""
    if fit == "documents":
        return judged.documents
    return np.concatenate([*(other.documents for other in sets if other is not judged), passages])


def choose_methods(arguments: argparse.Namespace, n_dims: int) -> dict[str, Fit]:
    """Return the methods whose names hold one of the parts asked for.

    Raises:
        ValueRangeError: there are none.
    """
    metric, parts = arguments.metric, arguments.methods
    methods = make_rivals(n_dims, slow=arguments.slow, metric=metric)
    methods |= make_codecs(n_dims, metric=metric)
    chosen = {name: fit for name, fit in methods.items() if any(part in name for part in parts)}
    if not chosen:
        raise ValueRangeError(f"no method's name holds {parts}: there are {', '.join(methods)}")
    return chosen


def describe(
    arguments: argparse.Namespace, sets: list[RetrievalSet], passages: np.ndarray
) -> dict[str, Any]:
    """Return what was measured on."""
    return {
        "model": arguments.model,
        "metric": arguments.metric,
        **({} if arguments.model == "minilm" else describe_pooling(arguments)),
        "n_dims": sets[0].documents.shape[1],
        "n_passages": len(passages),
        "sets": {
            judged.name: {"documents": len(judged.documents), "queries": len(judged.queries)}
            for judged in sets
        },
    }


def describe_pooling(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return how vectors were made of token states."""
    return {
        "layer": arguments.layer,
        "max_tokens": arguments.max_tokens,
        "passages_are": "packages" if arguments.harvest is None else "runs of harvested tokens",
    }


def measure_family(
    fit: Fit,
    sets: list[RetrievalSet],
    training: dict[str, np.ndarray],
    exact: dict[str, np.ndarray],
    n_seeds: int,
) -> dict[str, Any]:
    """Return the figures of the methods that come of one kind of fit, by their names."""
    sizes: dict[str, dict[str, Any]] = {}
    runs: dict[str, list[Run]] = {}
    for judged in sets:
        for seed in range(n_seeds):
            for name, size, figures in measure_fit(fit, training, judged, exact[judged.name], seed):
                logging.info("%s: %s, nDCG %.3f", judged.name, name, figures["ndcg_ratio"])
                sizes[name] = size
                seeds = runs.setdefault(name, [])
                seeds.extend({} for _ in range(seed + 1 - len(seeds)))
                seeds[seed][judged.name] = figures
    return {name: sizes[name] | summarise(seeds) for name, seeds in runs.items()}


def measure_fit(
    fit: Fit, training: dict[str, np.ndarray], judged: RetrievalSet, exact: np.ndarray, seed: int
) -> Iterator[tuple[str, dict[str, Any], dict[str, float]]]:
    """Fit once and yield name, sizes and figures of each method that comes of it."""
    began = time.monotonic()
    builds = fit(training[judged.name], seed)
    seconds = time.monotonic() - began
    for name, build in builds.items():
        searchable = build(judged.documents)
        size = {
            "bytes_per_vector": searchable.bytes_per_vector,
            "shared_bytes": searchable.shared_bytes,
            "searches_every_code": searchable.exhaustive is None,
        }
        yield name, size, measure(searchable, judged, exact) | {"fit_seconds": seconds}


def summarise(seeds: list[Run]) -> dict[str, Any]:
    """Return median, least and greatest over the seeds, for each set and for their average."""
    names = list(seeds[0])
    figures = list(seeds[0][names[0]])
    averages = [
        {figure: statistics.fmean(run[name][figure] for name in names) for figure in figures}
        for run in seeds
    ]
    by_set = {
        name: {figure: spread([run[name][figure] for run in seeds]) for figure in figures}
        for name in names
    }
    return {"sets": by_set, "average": {f: spread([run[f] for run in averages]) for f in figures}}


def spread(values: list[float]) -> dict[str, float]:
    """Return median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


if __name__ == "__main__":
    sys.exit(main())
