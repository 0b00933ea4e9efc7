r"""What features mean: by what they do to the output, by the next token, by the token they read.

Each feature has three scores for each of the most frequent tokens: the change of the token's logit
by the feature's decoder row (the logit lens), and how much more often than always the token follows
(or is) where the feature is on. Agreement of two of them is the rank correlation over the tokens,
and how many of the ten best tokens they share. The control is every other feature's scores in the
place of the feature's own, which keeps what all features of a layer have in common; `identified` is
how often a feature's own scores agree better than another's, 1/2 by chance. Intervals are of 95%,
over features.

    python -m benchmarks.feature_semantics --packages DEBS --work FOLDER

or, for codecs and a harvest that are there already,

    python -m benchmarks.feature_semantics --hidden HARVEST --codecs 15=CODEC 25=CODEC

Half a minute a layer for 60,000 rows and 2,304 bits, once harvest and codecs are there. The picture
shows the run that was made last.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from benchmarks.layered_codecs import add_layer_options, prepare
from benchmarks.results_file import RESULTS, merge_results
from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches
from bitcodec.errors import ConfigError
from bitcodec_transformers import (
    HarvestRows,
    LanguageModel,
    load_model,
    logit_changes,
    logit_lens,
    read_rows,
)

logger = logging.getLogger(__name__)

NAME = "feature_semantics"
VIEWS = ("output", "next", "input")
"""What a feature is named by."""
N_TOKENS, N_BEST = 300, 10
"""Tokens that scores are compared on, and those that name a feature."""
MIN_ROWS = 50
"""Rows in which a feature must be on to be judged."""
N_RESAMPLES = 1000
"""Of the features, for intervals."""
N_SHOWN = 4
"""Features that the results show: those whose output and next tokens agree best, and any."""
BATCH_ROWS = 4096


@dataclass(frozen=True)
class Agreement:
    """How alike two scores of the same features are; means over features."""

    own: float
    """A feature's two scores."""
    others: float
    """One of its scores and the other of every other feature."""
    low: float
    """Lower end of the interval of the difference."""
    high: float
    """Upper end."""
    identified: float
    """Share of other features with which a feature agrees less than with itself; ties are half."""


@dataclass(frozen=True)
class Occurrences:
    """Tokens at and after rows, with which features are on; everything a view by text needs."""

    on: np.ndarray
    """(n, h) bool."""
    token: np.ndarray
    """(n,) int64."""
    following: np.ndarray
    """(n,) int64, -1 where the harvest has no next row."""


def main() -> int:
    """Judge every layer, merge the figures into the results and draw them."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    model, harvest, codecs = take(arguments)
    key = f"{arguments.model}, {'given codecs' if arguments.codecs else 'codecs of one recipe'}"
    drawn = {}
    for layer, codec in codecs.items():
        begun = time.perf_counter()
        found = read_occurrences(codec, harvest, layer, arguments.rows)
        drawn[layer] = judge(model, codec, found)
        drawn[layer] |= {"rows": len(found.token), "seconds": time.perf_counter() - begun}
        merge_results(NAME, (key, f"layer {layer}"), drawn[layer])
        logger.info("layer %d: %s", layer, line_of(drawn[layer]))
    draw(drawn, RESULTS / f"{NAME}.png")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_layer_options(parser, required=False)
    parser.add_argument("--hidden", type=Path, help="a harvest that is there already")
    parser.add_argument("--codecs", nargs="+", help="LAYER=FOLDER, codecs of its layers")
    return parser.parse_args()


def take(arguments: argparse.Namespace) -> tuple[LanguageModel, Path, dict[int, BitCodec]]:
    """Return the model, a harvest and codecs of its layers, as they were asked for.

    Raises:
        ConfigError: neither folders to make them in nor made ones are named.
    """
    if arguments.packages and arguments.work and not arguments.codecs:
        model, made = prepare(arguments)
        return model, made.split.fitted, made.codecs
    if not (arguments.hidden and arguments.codecs):
        raise ConfigError("name --packages and --work, or --hidden and --codecs")
    places = dict(pair.split("=", 1) for pair in arguments.codecs)
    codecs = {
        int(layer): BitCodec.load(folder, device=arguments.device)
        for layer, folder in places.items()
    }
    return load_model(arguments.model, device=arguments.device), arguments.hidden, codecs


def read_occurrences(codec: BitCodec, harvest: Path, layer: int, n_rows: int) -> Occurrences:
    """Encode the first rows of a layer and look up their tokens and the next ones."""
    parts, seen = [], 0
    for batch in HiddenBatches(harvest / f"layer-{layer}").batches(BATCH_ROWS):
        parts.append(codec.encode_bits(batch[: n_rows - seen]).astype(bool))
        seen += len(parts[-1])
        if seen >= n_rows:
            break
    token, following = tokens_of(read_rows(harvest))
    return Occurrences(np.concatenate(parts), token[:seen], following[:seen])


def tokens_of(rows: HarvestRows) -> tuple[np.ndarray, np.ndarray]:
    """Return the token of every row and the one after it, -1 where that is not in the harvest."""
    token = rows.token_id.astype(np.int64)
    follows = (np.diff(rows.document) == 0) & (np.diff(rows.position) == 1)
    following = np.append(np.where(follows, token[1:], -1), -1)
    return token, following


def judge(model: LanguageModel, codec: BitCodec, found: Occurrences) -> dict[str, Any]:
    """Return how far the three views of the features of a layer agree.

    Raises:
        ConfigError: fewer than two features are on often enough.
    """
    judged = np.flatnonzero((found.on.sum(axis=0) >= MIN_ROWS) & (found.on.mean(axis=0) < 0.5))
    if len(judged) < 2:
        raise ConfigError(f"{len(judged)} features are on in {MIN_ROWS} rows: give more --rows")
    directions = codec.feature_directions()[judged]
    tokens = frequent_tokens(found.token)
    on = found.on[:, judged]
    scores = {
        "output": logit_changes(model, directions, tokens),
        "next": excess(on[found.following >= 0], found.following[found.following >= 0], tokens),
        "input": excess(on, found.token, tokens),
    }
    pairs = {
        f"{one}, {other}": compare(scores[one], scores[other])
        for one, other in combinations(VIEWS, 2)
    }
    best = np.argsort(-own_correlation(scores["output"], scores["next"]), kind="stable")[:N_SHOWN]
    drawn = np.random.default_rng(0).choice(len(judged), size=min(N_SHOWN, len(judged)))
    return {
        "features": int(codec.n_bits_),
        "judged": len(judged),
        "tokens": len(tokens),
        "agreement": pairs,
        "agreeing_best": list(name(model, directions, judged, scores, tokens, best)),
        "at_random": list(name(model, directions, judged, scores, tokens, drawn)),
    }


def frequent_tokens(token: np.ndarray) -> np.ndarray:
    """Return the ids of the most frequent tokens, the most frequent first."""
    ids, counts = np.unique(token, return_counts=True)
    frequent: np.ndarray = ids[np.argsort(-counts, kind="stable")[:N_TOKENS]]
    return frequent


def excess(on: np.ndarray, token: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return how much more often tokens come where features are on than they always do.

    Args:
        on: (n, h) bool.
        token: (n,) token of every row.
        tokens: (t,) those asked for.

    Returns:
        (h, t) float64 Pearson residuals (observed - expected) / sqrt(expected); 0 for a token that
        no row has.
    """
    is_token = (token[:, None] == tokens).astype(np.float32)
    observed = (on.astype(np.float32).T @ is_token).astype(np.float64)
    expected = np.outer(on.sum(axis=0), is_token.mean(axis=0, dtype=np.float64))
    residuals: np.ndarray = (observed - expected) / np.sqrt(np.where(expected > 0, expected, 1))
    return residuals


def compare(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Return the agreement of two scores (h, t) by rank correlation and by best tokens."""
    return {
        "correlation": asdict(agreement(standard_ranks(one) @ standard_ranks(other).T)),
        "shared_best": asdict(agreement(best_tokens(one) @ best_tokens(other).T / N_BEST)),
    }


def standard_ranks(scores: np.ndarray) -> np.ndarray:
    """Return ranks along rows, of mean 0 and length 1: their products are Spearman's rho."""
    ranks = rankdata(scores, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(ranks, axis=1, keepdims=True)
    standard: np.ndarray = ranks / np.where(lengths > 0, lengths, 1)
    return standard


def best_tokens(scores: np.ndarray) -> np.ndarray:
    """Return (h, t) float64, 1 for the `N_BEST` largest of each row."""
    chosen = np.argsort(-scores, axis=1, kind="stable")[:, :N_BEST]
    marked = np.zeros(scores.shape)
    np.put_along_axis(marked, chosen, 1, axis=1)
    return marked


def agreement(table: np.ndarray) -> Agreement:
    """Sum up a table (h, h) of the likeness of feature i's first and feature j's second score."""
    own, n_others = table.diagonal(), len(table) - 1
    others = (table.sum(axis=1) - own) / n_others
    less = (table < own[:, None]).sum(axis=1) + ((table == own[:, None]).sum(axis=1) - 1) / 2
    draws = np.random.default_rng(0).integers(len(table), size=(N_RESAMPLES, len(table)))
    low, high = np.quantile((own - others)[draws].mean(axis=1), (0.025, 0.975))
    return Agreement(
        own=float(own.mean()),
        others=float(others.mean()),
        low=float(low),
        high=float(high),
        identified=float((less / n_others).mean()),
    )


def own_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the rank correlation of every feature's two scores, (h,)."""
    correlation: np.ndarray = (standard_ranks(one) * standard_ranks(other)).sum(axis=1)
    return correlation


def name(
    model: LanguageModel,
    directions: np.ndarray,
    judged: np.ndarray,
    scores: dict[str, np.ndarray],
    tokens: np.ndarray,
    chosen: np.ndarray,
) -> Iterator[dict[str, Any]]:
    """Yield the tokens that name features, by view; `vocabulary` is the output's, of all tokens."""
    promoted = logit_lens(model, directions[chosen], k=N_BEST).promoted
    for place, whole in zip(chosen, promoted, strict=True):
        views = {view: tokens[np.argsort(-scores[view][place])[:N_BEST]] for view in VIEWS}
        texts = {view: texts_of(model, ids) for view, ids in views.items()}
        yield {"feature": int(judged[place])} | texts | {"vocabulary": texts_of(model, whole)}


def texts_of(model: LanguageModel, token_ids: np.ndarray) -> list[str]:
    return [model.tokenizer.decode([token]) for token in token_ids.tolist()]


def line_of(figures: dict[str, Any]) -> str:
    """Return a layer's agreements in a line."""
    parts = [f"{figures['judged']} features"]
    for pair, measures in figures["agreement"].items():
        rho = measures["correlation"]
        parts.append(f"{pair}: {rho['own']:.3f} ({rho['others']:.3f}), {rho['identified']:.3f}")
    return "; ".join(parts)


def draw(drawn: dict[int, dict[str, Any]], path: Path) -> None:
    """Write a PNG: agreement of each pair of views by layer, and what the control has.

    Args:
        drawn: figures by layer.
        path: of the picture.
    """
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, panels = pyplot.subplots(1, 3, figsize=(14, 4.5), layout="constrained")
    asked = (("correlation", "own"), ("shared_best", "own"), ("correlation", "identified"))
    titles = ("rank correlation", f"share of the {N_BEST} best tokens", "own feature identified")
    layers = list(drawn)
    for panel, (measure, field), title in zip(panels, asked, titles, strict=True):
        for pair in next(iter(drawn.values()))["agreement"]:
            at = [drawn[layer]["agreement"][pair][measure] for layer in layers]
            (line,) = panel.plot(layers, [value[field] for value in at], "o-", label=pair)
            if field == "own":
                others = [value["others"] for value in at]
                panel.plot(layers, others, "--", color=line.get_color())
        panel.set(title=title, xlabel="layer")
        panel.grid(alpha=0.3)
    panels[2].axhline(0.5, color="0.5", linestyle="--")
    panels[0].legend(title="dashed: other features")
    figure.savefig(path, dpi=90, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
