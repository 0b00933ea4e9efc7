"""Reports of made-up features, as large as a test likes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bitcodec.metrics import Evaluation
from bitcodec.report import (
    Coactive,
    CodecFacts,
    Context,
    CounterExample,
    Distributions,
    Entropy,
    Feature,
    Histogram,
    Nearest,
    Pair,
    Passage,
    PositionGroup,
    Report,
    ReportSettings,
    Rows,
    SurprisingBit,
    TokenCount,
    WorstRow,
)
from bitcodec_html import EncodedText, TokenEffects

WORDS = ("the", " cat", " sat", " on", " a", " mat", ".", "\n", " Paris", " def", "(", ")", " 42")


def synthetic_report(
    n_features: int = 40, *, words: tuple[str, ...] = WORDS, n_rows: int = 400, seed: int = 0
) -> Report:
    """Make a report of random bits at random words; feature 3 is dead, feature 5 dense."""
    generator = np.random.default_rng(seed)
    token_ids = generator.integers(len(words), size=n_rows)
    tokens = [words[i] for i in token_ids]
    activity = generator.uniform(0.01, 0.4, n_features)
    activity[3] = 0.0
    bits = generator.random((n_rows, n_features)) < activity
    starts = np.concatenate([[0], np.cumsum([len(token) for token in tokens])])
    counts = np.eye(len(words), dtype=np.int64)[token_ids].T @ bits
    n_rows_of = np.bincount(token_ids, minlength=len(words)).tolist()
    features = tuple(
        _feature(j, bits[:, j], _most_often(words, counts[:, j], n_rows_of), n_features)
        for j in range(n_features)
    )
    entropy = sum(feature.entropy_bits for feature in features)
    prices = tuple(float(price) for price in generator.normal(entropy, 5, n_rows).round(2))
    histogram = Histogram((-3.0, -2.0, -1.0, 0.0), (2, n_features - 3, 0), 1)
    return Report(
        codec=CodecFacts("f" * 64, 16, n_features, 0, 1000, {"model": {"name": "toy"}, "layer": 1}),
        settings=ReportSettings(),
        evaluation=Evaluation(
            n_rows, 16, n_features, 0.25, 0.2, 0.95, 0.97, entropy, entropy + 1, 5.0, 4.0, 32.0
        ),
        fvu_per_dimension=tuple(generator.uniform(0.1, 0.4, 16).tolist()),
        entropy=Entropy(entropy, entropy, 0.1, entropy * 0.9, n_features - 1, entropy + 1, None),
        distributions=Distributions(*[histogram] * 6),
        positions=(PositionGroup(0, 255, n_rows, entropy, 0.25),),
        features=features,
        pairs=(Pair(0, 1, 12, 0.5, 0.1),),
        worst_rows=(WorstRow(7, 2.5, 0.8, (SurprisingBit(1, True, 4.0, -0.1),)),),
        rows=Rows(
            row=tuple(range(n_rows)),
            price_bits=prices,
            error=tuple(generator.random(n_rows).tolist()),
            n_on=tuple(bits.sum(axis=1).tolist()),
            passage=(0,) * n_rows,
            start=tuple(starts[:-1].tolist()),
            end=tuple(starts[1:].tolist()),
            position=tuple(range(n_rows)),
            token_id=tuple(token_ids.tolist()),
        ),
        passages=(Passage("a document", 0, "".join(tokens)),),
    )


def synthetic_effects(n_features: int) -> TokenEffects:
    """Make four promoted and four suppressed words for every feature."""
    generator = np.random.default_rng(1)
    shape = (n_features, 4)
    logits = np.sort(generator.uniform(0.5, 9, (2, *shape)))[..., ::-1]
    promoted, suppressed = generator.integers(len(WORDS), size=(2, *shape))
    return TokenEffects(WORDS, promoted, logits[0], suppressed, -logits[1], "Of a toy.")


def synthetic_text(words: tuple[str, ...], n_features: int) -> EncodedText:
    """Make a text of words at which random features are on."""
    ends = np.cumsum([len(word) for word in words])
    starts = ends - [len(word) for word in words]
    bits = np.random.default_rng(2).random((len(words), n_features)) < 0.15
    places = np.arange(len(words))
    return EncodedText("a text", "".join(words), starts, ends, places, bits.astype(np.uint8))


def without_text(report: Report) -> Report:
    """Return a report as it would be had it been measured without text."""
    rows = replace(report.rows, passage=(), start=(), end=(), position=(), token_id=())
    features = tuple(
        replace(
            feature,
            tokens=(),
            n_tokens=None,
            token_entropy_bits=None,
            n_documents=None,
            document_entropy_bits=None,
            token_share=None,
            document_share=None,
        )
        for feature in report.features
    )
    return replace(report, rows=rows, features=features, passages=(), positions=())


def _most_often(
    words: tuple[str, ...], counts: np.ndarray, n_rows: list[int]
) -> tuple[TokenCount, ...]:
    most = [i for i in np.argsort(-counts, kind="stable")[:5].tolist() if counts[i]]
    return tuple(TokenCount(i, words[i], int(counts[i]), n_rows[i]) for i in most)


def _feature(
    number: int, on: np.ndarray, tokens: tuple[TokenCount, ...], n_features: int
) -> Feature:
    p, n = float(on.mean()), len(on)
    rows, off = np.flatnonzero(on), np.flatnonzero(~on)
    entropy = 0.0 if p in (0, 1) else float(-p * np.log2(p) - (1 - p) * np.log2(1 - p))
    other = (number + 1) % n_features
    flags = (*(("dead",) if p == 0 else ()), *(("dense",) if number == 5 else ()))

    def context(row: int) -> Context:
        near = range(max(0, row - 8), min(n, row + 9))
        return Context(row, 0.5, tuple(other for other in near if on[other]))

    return Feature(
        feature=number,
        n_on=len(rows),
        activity=p,
        activity_standard_error=0.01,
        activity_clustered_error=None,
        entropy_bits=entropy,
        entropy_standard_error=0.0,
        mean_burstiness=-p,
        firing_burstiness=float(np.log2(1 - p)),
        price_on_bits=float("inf") if p == 0 else float(-np.log2(p)),
        decoder_norm=1.0 + number / n_features,
        nearest=(Nearest(other, 0.4),),
        coactive=(Coactive(other, 0.3, 11),),
        flags=flags,
        tokens=tokens,
        n_tokens=len(tokens),
        token_entropy_bits=2.0,
        n_documents=1,
        document_entropy_bits=0.0,
        token_share=None if p == 0 else number / n_features,
        document_share=None if p == 0 else 0.3,
        top=tuple(context(int(row)) for row in rows[:3]),
        random=tuple(context(int(row)) for row in rows[-3:]),
        counter=tuple(
            CounterExample(int(row), 0.2, context(int(row)).on, "nearest") for row in off[:1]
        ),
    )
