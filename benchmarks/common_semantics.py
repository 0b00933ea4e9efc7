r"""Common Semantics: how many features of a codec have a name that holds on other documents.

Judges without a language model, and a small chat model, name features from contexts and are tested
on others; see `bitcodec_naming`. Beside the codec, through the same pipeline:

- signs of random projections of the same states, each with the activity of one of the codec's
  features: the floor, and what equal activity alone is worth;
- features that are on by chance, whatever the text: no name can score above 1/2;
- the codec's features with contexts and counter-examples exchanged by a coin: the same;
- features that are each on at one token: a judge that knows tokens must score 1.

    python -m benchmarks.common_semantics --codec CODEC --hidden HARVEST/layer-15 --work FOLDER

Names are kept in the work folder, and used again. Judges without a language model took 20 minutes
for all runs on a busy machine. The chat model names fewer features, from fewer contexts, because it
reads all of them: on two busy cores five minutes for each feature.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results_file import RESULTS, merge_results
from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches
from bitcodec.bits import pack, row_bytes
from bitcodec.row_texts import RowTexts
from bitcodec.statistics import BitStatistics
from bitcodec_naming import (
    ChatJudge,
    FeatureRows,
    FeatureSource,
    Judge,
    KeptJudge,
    Names,
    NamingSettings,
    lexical_judge,
    matched_counts,
    name_features,
    save_scores,
    token_judge,
)
from bitcodec_naming.verdicts import verdict
from bitcodec_transformers import load_model, read_rows

NAME = "common_semantics"
BATCH_ROWS = 4096
QUANTILE_ROWS = 20_000
"""Rows that the thresholds of random projections are taken from."""
N_CHANCE, N_TOKENS = 512, 256
"""Features that are on by chance, and at one token."""
N_EXAMPLES = 12
"""Names that the results show, those that hold best."""
CODEC, PROJECTIONS, SHUFFLED = "codec", "random projections", "codec, shuffled labels"
CHANCE, ONE_TOKEN = "on by chance", "on at one token"
RUNS = (
    (ONE_TOKEN, "tokens"),
    (CHANCE, "lexical"),
    (CODEC, "lexical"),
    (SHUFFLED, "lexical"),
    (PROJECTIONS, "lexical"),
    (CODEC, "tokens"),
    (PROJECTIONS, "tokens"),
    (CODEC, "chat"),
)
"""Features and judge of every run."""


def main() -> int:
    """Name features in every run, merge the figures into the results and draw them."""
    arguments = parse_arguments()
    arguments.work.mkdir(exist_ok=True, parents=True)
    drawn: dict[tuple[str, str], Names] = {}
    for label, kind in RUNS:
        if kind not in arguments.judges:
            continue
        path, begun = arguments.work / f"{label}, {kind}.json", time.perf_counter()
        if not path.exists():
            settings = settings_of(label, kind, arguments)
            judge, features = judge_of(kind, arguments), source_of(label, arguments)
            name_features(features, judge, settings=settings).save(path)
            print(f"{time.perf_counter() - begun:.0f} s", end=" ")
        drawn[label, kind] = Names.load(path)
        merge_results(NAME, (label, kind), figures(drawn[label, kind]))
        print(f"{label}, {kind}:", drawn[label, kind].mean_score(), flush=True)
    for kind in ("tokens", "lexical"):
        if (CODEC, kind) in drawn and (PROJECTIONS, kind) in drawn:
            compared = matched_counts(drawn[CODEC, kind], drawn[PROJECTIONS, kind])
            counts = {str(count.threshold): dataclasses.asdict(count) for count in compared}
            merge_results(NAME, ("codec and random projections at equal activity", kind), counts)
    labelled = {f"{label}; {drawn[label, kind].judge}": drawn[label, kind] for label, kind in drawn}
    save_scores(labelled, RESULTS / f"{NAME}.png", overwrite=True)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--codec", type=Path, required=True, help="a fitted codec")
    parser.add_argument("--hidden", type=Path, required=True, help="a layer of a harvest")
    parser.add_argument("--work", type=Path, required=True, help="folder for codes and names")
    parser.add_argument("--judges", nargs="+", default=["tokens", "lexical", "chat"])
    parser.add_argument("--model", default="smollm2-135m", help="the chat model")
    parser.add_argument("--features", type=int, default=300, help="to name; 0 for all")
    parser.add_argument("--chat-features", type=int, default=8)
    return parser.parse_args()


def settings_of(label: str, kind: str, arguments: argparse.Namespace) -> NamingSettings:
    """Return how features are named in a run."""
    if kind == "chat":
        return NamingSettings(n_features=arguments.chat_features, n_named=10, n_tested=9)
    return NamingSettings(
        n_features=arguments.features or None,
        n_named=40,
        labels="shuffled" if label == SHUFFLED else "true",
    )


def judge_of(kind: str, arguments: argparse.Namespace) -> Judge:
    if kind == "chat":
        loaded = load_model(arguments.model)
        chat = ChatJudge(loaded.model, loaded.tokenizer, name=loaded.name)
        return KeptJudge(chat, cache=arguments.work / "answers")
    return token_judge() if kind == "tokens" else lexical_judge()


def source_of(label: str, arguments: argparse.Namespace) -> FeatureSource:
    """Return the features of a run."""
    texts = read_rows(arguments.hidden.parent)
    if label == ONE_TOKEN:
        return one_token_each(texts)
    coded = codec_features(arguments.codec, arguments.hidden, arguments.work, texts)
    activity = BitStatistics.empty(coded.n_features).update(coded.codes).activity
    if label == PROJECTIONS:
        return projected(arguments.hidden, activity[activity > 0], texts)
    if label == CHANCE:
        return on_by_chance(len(texts), np.resize(activity[activity > 0], N_CHANCE), texts)
    return coded


def codec_features(folder: Path, hidden: Path, work: Path, texts: RowTexts) -> FeatureRows:
    """Encode hidden states, or find their codes in the work folder."""
    codec, path = BitCodec.load(folder), work / f"codes-{folder.name}.npy"
    if not path.exists():
        np.save(path, codec.encode(hidden, refine="best"))
    bits = np.load(path)[:, : row_bytes(codec.n_bits_)]
    return FeatureRows(bits, codec.n_bits_, texts, codec.fingerprint_)


def projected(hidden: Path, activity: np.ndarray, texts: RowTexts) -> FeatureRows:
    """Return signs of random projections of standardised states, on as often as asked for."""
    order = torch.Generator().manual_seed(0)
    shuffled = HiddenBatches(hidden).shuffled(QUANTILE_ROWS, order, keep_rest=True)
    first = next(iter(shuffled)).numpy().copy()
    mean, scale = first.mean(axis=0), first.std(axis=0)
    directions = np.random.default_rng(0).standard_normal((first.shape[1], len(activity)))
    directions = (directions / scale[:, None]).astype(np.float32)
    logits = (first - mean) @ directions
    logits.sort(axis=0)
    places = np.clip(((1 - activity) * len(first)).astype(np.int64), 0, len(first) - 1)
    thresholds = logits[places, np.arange(len(activity))]
    batches = HiddenBatches(hidden).batches(BATCH_ROWS)
    parts = [pack((batch.numpy() - mean) @ directions > thresholds) for batch in batches]
    return FeatureRows(np.concatenate(parts), len(activity), texts)


def on_by_chance(n_rows: int, activity: np.ndarray, texts: RowTexts) -> FeatureRows:
    """Return features that are on in random rows, as often as asked for."""
    random = np.random.default_rng(0)
    blocks = (min(BATCH_ROWS, n_rows - start) for start in range(0, n_rows, BATCH_ROWS))
    parts = [pack(random.random((size, len(activity))) < activity) for size in blocks]
    return FeatureRows(np.concatenate(parts), len(activity), texts)


def one_token_each(texts: RowTexts) -> FeatureRows:
    """Return features that are each on at one of the most frequent tokens."""
    ids, places = np.unique(texts.column("token_id"), return_inverse=True)
    frequent = np.argsort(-np.bincount(places), kind="stable")[: min(N_TOKENS, len(ids))]
    return FeatureRows.from_active(places[:, None] == frequent, texts)


def figures(found: Names) -> dict[str, Any]:
    """Return what the results say of a run."""
    verdicts = [name.verdict for name in found.names]
    best = sorted(found.names, key=lambda name: (-name.verdict.low, name.feature))[:N_EXAMPLES]
    return {
        "judge": found.judge,
        "settings": dataclasses.asdict(found.settings),
        "rows": found.n_rows,
        "features": found.n_features,
        "dead": found.n_dead,
        "tried": found.n_tried,
        "too_rare": found.n_too_rare,
        "named": len(found.names),
        "score": found.mean_score(),
        "control": found.mean_control(),
        "hits": float(np.mean([verdict.hits for verdict in verdicts])),
        "ranked": float(np.mean([verdict.ranked for verdict in verdicts])),
        "bits": float(np.mean([verdict.bits for verdict in verdicts])),
        "score_by_kind": score_by_kind(found),
        "above_chance": sum(verdict.low > 0.5 for verdict in verdicts),
        "counts": [dataclasses.asdict(count) for count in found.counts()],
        "examples": {
            str(name.feature): [round(name.verdict.score, 3), name.explanation] for name in best
        },
    }


def score_by_kind(found: Names) -> dict[str, float]:
    """Return the share of right answers over the pairs of each kind, of all features."""
    pairs = [pair for name in found.names for pair in name.pairs]
    kinds = sorted({pair.kind for pair in pairs})
    return {kind: verdict([pair for pair in pairs if pair.kind == kind]).score for kind in kinds}


if __name__ == "__main__":
    sys.exit(main())
