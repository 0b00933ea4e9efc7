r"""Names for features of sparse autoencoders and of our codecs, by the same judges.

Is a feature of a binary code easier to name than one of an autoencoder that is on as often? All
methods of `benchmarks.sparse_rivals`, and beside them

- our codec's bits by the linear pass alone, without search;
- autoencoders' features where their value is above its median ("upper half"): many are said to mean
  something only there (arXiv 2509.25596);
- signs of random projections, each with the activity of one of the codec's features.

Judges without a language model name a uniform sample of each set's features from some documents
and are tested on others, with counter-examples; see `bitcodec_naming`. Contexts are rows where a
feature is on, or only rows where it is among the ten most bursty, as in the paper's pipeline.
Controls: the same contexts under another feature's name, and names from exchanged labels. Then
features of each rival are paired one to one with ours that are on as often, and those of an upper
half with those of the whole.

    python -m benchmarks.sparse_rival_names --packages DEBS --cache CACHE --codecs CODECS \
        --saes SAES --work FOLDER
    python -m benchmarks.sparse_rival_names_plot

About a minute for a set of features on a core of its own, once the autoencoders are trained. Codes
and names are kept in the work folder and used again: take another for other states or codecs.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common_semantics import figures, projected
from benchmarks.matched_names import matched_figures
from benchmarks.rate_distortion_codecs import Codecs
from benchmarks.results_file import merge_results
from benchmarks.sparse_methods import Method, SparseRows, of_codec, on_features
from benchmarks.sparse_rivals import (
    Make,
    add_options,
    all_methods,
    archive_codec,
    place_of,
    states_of,
)
from bitcodec.errors import ValueRangeError
from bitcodec.row_texts import RowTexts
from bitcodec.statistics import BitStatistics
from bitcodec_naming import (
    FeatureRows,
    Names,
    NamingSettings,
    lexical_judge,
    name_features,
    token_judge,
)
from bitcodec_naming.names import bootstrap_mean
from bitcodec_naming.verdicts import wilson_interval
from bitcodec_transformers import read_rows

logger = logging.getLogger(__name__)

NAME = "sparse_rival_names"
REFERENCE = 0.34
"""Price of the codec whose features give random projections their activity."""
RANDOM, LINEAR = "random projections", f"bitcodec {REFERENCE}, linear pass"
UPPER = ", upper half"
MEDIAN_ROWS = 2**16
"""Rows that medians of values are taken of."""
JUDGES = {"lexical": lexical_judge, "tokens": token_judge}
SHARED = NamingSettings(n_named=40, n_tested=12, top_k=None)
BURSTY = dataclasses.replace(SHARED, top_k=10)
SHUFFLED = dataclasses.replace(SHARED, labels="shuffled")
RUNS: dict[str, tuple[str, NamingSettings, float]] = {
    "lexical": ("lexical", SHARED, 1),
    "tokens": ("tokens", SHARED, 1),
    "lexical, bursty contexts": ("lexical", BURSTY, 0.6),
    "tokens, bursty contexts": ("tokens", BURSTY, 0.6),
    "lexical, shuffled labels": ("lexical", SHUFFLED, 0.2),
}
"""By name: the judge, how features are named, and how many of the features asked for."""
MATCHED_RUNS = tuple(RUNS)[:4]

MakeCodes = Callable[[], tuple[np.ndarray, int]]
"""Gives (n, ceil(h / 8)) uint8 packed rows, and h."""


def main() -> int:
    """Name the features of every set, merge the figures into the results and draw them."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(arguments.threads)
    split, place = states_of(arguments), place_of(arguments)
    texts, hidden = read_rows(split.fitted), split.fitted / f"layer-{arguments.layer}"
    train, _ = split.read(arguments.layer)
    drawn: dict[str, dict[str, Names]] = {}
    for name, make in choose_sets(arguments, train, hidden, texts).items():
        source = kept_codes(arguments.work, name, make, texts)
        drawn[name] = {run: kept_names(arguments, name, run, source) for run in RUNS}
        for run, found in drawn[name].items():
            told = figures(found) | whole_set(found) | {"by_octave": by_octave(found)}
            merge_results(NAME, (*place, "sets", name, run), told)
            logger.info("%s, %s: %.3f (%.3f to %.3f)", name, run, *found.mean_score())
    for left, rights in compared_with(list(drawn)).items():
        compared = {
            right: {
                run: matched_figures(drawn[left][run], drawn[right][run]) for run in MATCHED_RUNS
            }
            for right in rights
        }
        merge_results(NAME, (*place, "matched", left), compared)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--work", type=Path, required=True, help="folder for codes and names")
    parser.add_argument("--features", type=int, default=500, help="of each set, to name")
    return parser.parse_args()


def compared_with(names: list[str]) -> dict[str, list[str]]:
    """Return what each set is compared with: ours with all others, an upper half with its whole."""
    pairs = {name: [other for other in names if other != name] for name in names}
    return {
        name: others if name.startswith("bitcodec") else [name.removesuffix(UPPER)]
        for name, others in pairs.items()
        if name.startswith("bitcodec") or name.removesuffix(UPPER) in others
    }


def choose_sets(
    arguments: argparse.Namespace, train: np.ndarray, hidden: Path, texts: RowTexts
) -> dict[str, MakeCodes]:
    """Return what makes the codes of each set whose name starts as was asked for.

    Args:
        arguments: of the command line.
        train: (n, d) float32, the rows.
        hidden: their folder.
        texts: their texts.

    Raises:
        ValueRangeError: there is no such set.
    """
    makes = all_makes(arguments)
    sets: dict[str, MakeCodes] = {
        name: partial(codes_of, make, train) for name, make in makes.items()
    }
    like = f"bitcodec {REFERENCE}"
    coded = partial(kept_codes, arguments.work, like, sets[like], texts)
    sets[RANDOM] = lambda: random_codes(coded(), hidden)
    starts = tuple(arguments.methods)
    chosen = {name: make for name, make in sets.items() if name.startswith(starts)}
    if not chosen:
        raise ValueRangeError(f"no set's name starts {starts}: there are {', '.join(sets)}")
    return chosen


def all_makes(arguments: argparse.Namespace) -> dict[str, Make]:
    """Return what makes each method by name, of rows to learn from."""
    methods = all_methods(arguments)
    learned = {name: make for name, make in methods.items() if not name.startswith("random")}
    kept = Codecs(arguments.codecs / f"layer-{arguments.layer}")
    upper: dict[str, Make] = {
        f"{name}{UPPER}": partial(upper_half, make)
        for name, make in learned.items()
        if not name.startswith("bitcodec")
    }
    return learned | {LINEAR: partial(linear_pass, kept)} | upper


def linear_pass(kept: Codecs, train: np.ndarray) -> Method:
    """Return our codec without search."""
    return of_codec(archive_codec(kept, REFERENCE, train), refine="none")


def random_codes(like: FeatureRows, hidden: Path) -> tuple[np.ndarray, int]:
    """Return signs of random projections that are on as often as features of other codes."""
    activity = BitStatistics.empty(like.n_features).update(like.codes).activity
    found = projected(hidden, activity[activity > 0], like.texts)
    return found.codes, found.n_features


def codes_of(make: Make, train: np.ndarray) -> tuple[np.ndarray, int]:
    """Make a method and return which of its features are on in the rows it was made of."""
    method = make(train)
    return on_features(method, train), method.n_features


def upper_half(make: Make, train: np.ndarray) -> Method:
    """Return a method whose features are on where their value is above its median.

    Args:
        make: makes the method.
        train: (m, d) float32; medians are of the values above 0 in its first rows.
    """
    method = make(train)
    medians = median_values(SparseRows.of(method, train[:MEDIAN_ROWS]))

    def activations(rows: np.ndarray) -> np.ndarray:
        values = method.activations(rows)
        stronger: np.ndarray = np.where(values > medians, values, 0)
        return stronger

    return dataclasses.replace(method, activations=activations)


def median_values(rows: SparseRows) -> np.ndarray:
    """Return each feature's lower median where it is on, (h,) float32; 0 where it never is."""
    order = np.lexsort((rows.values, rows.columns))
    firsts = np.cumsum(rows.counts) - rows.counts
    medians = np.zeros(rows.n_features, np.float32)
    seen = np.flatnonzero(rows.counts)
    medians[seen] = rows.values[order[firsts[seen] + (rows.counts[seen] - 1) // 2]]
    return medians


def kept_codes(work: Path, name: str, make: MakeCodes, texts: RowTexts) -> FeatureRows:
    """Make the codes of a set, or find them in the work folder."""
    path = work / f"{name}.npz"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        codes, n_features = make()
        np.savez(path, codes=codes, n_features=n_features)
    with np.load(path) as found:
        return FeatureRows(found["codes"], int(found["n_features"]), texts)


def kept_names(arguments: argparse.Namespace, name: str, run: str, source: FeatureRows) -> Names:
    """Name features of a set, or find their names in the work folder."""
    judge, settings, share = RUNS[run]
    settings = dataclasses.replace(settings, n_features=max(1, int(share * arguments.features)))
    path = arguments.work / f"{name}, {run}, {settings.n_features}.json"
    if not path.exists():
        name_features(source, JUDGES[judge](), settings=settings).save(path)
    return Names.load(path)


def whole_set(found: Names) -> dict[str, Any]:
    """Return how many of all of a set's features reach scores, of which a sample was tried.

    Features that are dead, or on too rarely or too often to have contexts, count as not named.
    """
    counts = {}
    for count in found.counts():
        low, high = wilson_interval(count.n, found.n_tried)
        ends = [found.n_features * share for share in (count.n / found.n_tried, low, high)]
        counts[str(count.threshold)] = [round(end, 1) for end in ends]
    return {"in_the_whole_set": counts}


def by_octave(found: Names) -> dict[str, list[float]]:
    """Return the number and the mean score with its interval of features by activity.

    Keys are the lower edges, as whole powers of 2 of the share of rows in which a feature is on.
    """
    octaves = np.floor(np.log2([name.activity for name in found.names])).astype(int)
    scores = np.array([name.verdict.score for name in found.names])
    return {
        str(octave): [int((octaves == octave).sum()), *bootstrap_mean(scores[octaves == octave])]
        for octave in sorted(set(octaves.tolist()))
    }


if __name__ == "__main__":
    sys.exit(main())
