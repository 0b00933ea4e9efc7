"""Made-up texts and features for the tests of naming."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitcodec import TokenTexts
from bitcodec_naming import Excerpt, FeatureRows

WORDS = (" the", " cat", " dog", " sat", " on", " a", " mat", " runs", " red", " is", ",", ".")


def word_rows(n_rows: int = 6000, *, n_documents: int = 40, seed: int = 0) -> TokenTexts:
    """Rows of random words, in documents of equal length."""
    drawn = np.random.default_rng(seed).integers(len(WORDS), size=n_rows)
    documents = [str(row * n_documents // n_rows) for row in range(n_rows)]
    return TokenTexts([WORDS[word] for word in drawn], documents=documents)


def at_tokens(texts: TokenTexts, *groups: Sequence[str]) -> FeatureRows:
    """Features that are on at the words of each group."""
    ids = texts.column("token_id")
    tokens = np.array([token_of(texts, int(np.argmax(ids == id_))) for id_ in range(ids.max() + 1)])
    active = np.stack([np.isin(tokens[ids], group) for group in groups], axis=1)
    return FeatureRows.from_active(active, texts)


def by_chance(texts: TokenTexts, n_features: int, *, activity: float = 0.1) -> FeatureRows:
    """Features that are on in random rows."""
    drawn = np.random.default_rng(5).random((len(texts), n_features))
    return FeatureRows.from_active(drawn < activity, texts)


def token_of(texts: TokenTexts, row: int) -> str:
    start, end = (int(texts.column(name)[row]) for name in ("start", "end"))
    return texts.document_text(row)[start:end]


class KeywordJudge:
    """Says what it was told to, and answers yes where the token is that."""

    name = "keyword"

    def __init__(self, explanation: str) -> None:
        self.explanation = explanation

    def explain(self, on: Sequence[Excerpt], off: Sequence[Excerpt]) -> str:
        return self.explanation

    def answer(self, explanation: str, excerpts: Sequence[Excerpt]) -> list[float]:
        return [float(excerpt.token.strip() == explanation) for excerpt in excerpts]
