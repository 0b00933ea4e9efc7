"""Contexts to name a feature from, and others, of other documents, to test the name on.

Contexts come in pairs: a row where the feature is on, and a counter-example, a row where it is off.
A feature that is on by chance, whatever the text, is on in either row of a pair equally often, so
that no name of it can be right in more than half of the answers: whatever a judge does, the chance
level is 1/2. Rows that are merely alike in their codes would not be so matched, because some rows
are near to many.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from bitcodec.best_rows import random_keys
from bitcodec.errors import ValueRangeError
from bitcodec_naming.excerpts import Excerpt, ExcerptReader
from bitcodec_naming.settings import NamingSettings
from bitcodec_naming.sources import FeatureSource, bursty_contexts

Kind = Literal["same_token", "beside", "elsewhere"]
"""Where a counter-example is from: a row of the same token, a row at most `REACH` rows away in the
same text, or any row."""
KINDS: tuple[Kind, ...] = get_args(Kind)
REACH = 20
_DRAWS = 16
"""Candidates looked at for a counter-example before another kind is tried."""


@dataclass(frozen=True)
class Pair:
    """A context and its counter-example."""

    on: Excerpt
    """A row where the feature is on, and among the most bursty."""
    off: Excerpt
    """A row where it is off."""
    kind: Kind
    """Where the counter-example is from."""


@dataclass(frozen=True)
class Trial:
    """One feature's contexts."""

    feature: int
    """Its number."""
    n_contexts: int
    """Rows that are contexts of it, in all documents."""
    examples: tuple[Pair, ...]
    """To name it from."""
    tests: tuple[Pair, ...]
    """To test the name on, from other documents."""


class TrialMaker:
    """Trials of a source's features; each depends on the feature's number and the seed alone.

    Args:
        source: the features.
        settings: how many contexts.

    Raises:
        ValueRangeError: all rows are of one document.
    """

    def __init__(self, source: FeatureSource, settings: NamingSettings) -> None:
        self._source, self._settings = source, settings
        self._reader = ExcerptReader(source.texts, width=settings.width)
        self._document = np.asarray(source.texts.column("document"))
        self._held_out = held_out_rows(self._document, settings)
        self._part = [np.flatnonzero(self._held_out == tested) for tested in (False, True)]
        self._contexts = bursty_contexts(source, k=settings.top_k)
        self._token = np.unique(source.texts.column("token_id"), return_inverse=True)[1]
        self._by_token = np.argsort(self._token, kind="stable")
        self._first_of_token = np.concatenate([[0], np.cumsum(np.bincount(self._token))])
        self._by_place = np.lexsort((source.texts.column("start"), self._document))
        self._place = np.argsort(self._by_place)

    def trial(self, feature: int) -> Trial | None:
        """Draw the contexts of a feature, None if it has too few of different text.

        Raises:
            ValueRangeError: there is no such feature.
        """
        if not 0 <= feature < self._source.n_features:
            raise ValueRangeError(
                f"feature must be between 0 and {self._source.n_features - 1}, got {feature}"
            )
        generator = np.random.default_rng([self._settings.seed, feature])
        rows = generator.permutation(self._contexts[feature])
        tested, settings = self._held_out[rows], self._settings
        seen: set[Excerpt] = set()
        parts = ((rows[~tested], settings.n_named), (rows[tested], settings.n_tested))
        if any(len(part) < n_pairs for part, n_pairs in parts):
            return None
        examples, tests = (
            self._pairs(feature, part.tolist(), n_pairs, generator, seen) for part, n_pairs in parts
        )
        if len(examples) < settings.n_named or len(tests) < settings.n_tested:
            return None
        if settings.labels == "shuffled":
            examples = [_shuffled(pair, generator) for pair in examples]
        return Trial(feature, len(rows), tuple(examples), tuple(tests))

    def _pairs(
        self,
        feature: int,
        rows: list[int],
        n_pairs: int,
        generator: np.random.Generator,
        seen: set[Excerpt],
    ) -> list[Pair]:
        """Pair rows with counter-examples, their kinds in turn; no excerpt is used twice."""
        pairs: list[Pair] = []
        for row in rows:
            if len(pairs) == n_pairs:
                break
            on = self._reader.read(row)
            if on in seen:
                continue
            turn = len(pairs) % len(KINDS)
            for kind in (*KINDS[turn:], *KINDS[:turn]):
                off = self._counter_example(feature, row, kind, generator, seen | {on})
                if off is not None:
                    pairs.append(Pair(on, off, kind))
                    seen |= {on, off}
                    break
        return pairs

    def _counter_example(
        self,
        feature: int,
        row: int,
        kind: Kind,
        generator: np.random.Generator,
        seen: set[Excerpt],
    ) -> Excerpt | None:
        for other in self._candidates(feature, row, kind, generator):
            excerpt = self._reader.read(other)
            if excerpt not in seen:
                return excerpt
        return None

    def _candidates(
        self, feature: int, row: int, kind: Kind, generator: np.random.Generator
    ) -> Iterator[int]:
        """Draw rows of a kind where the feature is off, of the same part of the documents."""
        if kind == "same_token":
            token = self._token[row]
            rows = self._by_token[self._first_of_token[token] : self._first_of_token[token + 1]]
        elif kind == "beside":
            place = int(self._place[row])
            rows = self._by_place[max(0, place - REACH) : place + REACH + 1]
            rows = rows[self._document[rows] == self._document[row]]
        else:
            part = self._part[int(self._held_out[row])]
            rows = part[generator.integers(len(part), size=_DRAWS)]
        off = self._source.codes[rows, feature // 8] >> (feature % 8) & 1 == 0
        rows = rows[off & (self._held_out[rows] == self._held_out[row])]
        yield from generator.permutation(rows)[:_DRAWS].tolist()


def held_out_rows(document: np.ndarray, settings: NamingSettings) -> np.ndarray:
    """Choose the documents that names are tested on.

    Args:
        document: (n,) number of each row's document.
        settings: the share and the seed.

    Returns:
        (n,) bool.

    Raises:
        ValueRangeError: all rows are of one document.
    """
    numbers, places = np.unique(document, return_inverse=True)
    if len(numbers) < 2:
        raise ValueRangeError(
            f"the rows must be of two documents at least, got {len(numbers)}: names are tested on "
            "other documents than they come from; split the text, for example into the lines of "
            "a .jsonl file"
        )
    by_key = np.argsort(random_keys(numbers, seed=settings.seed), kind="stable")
    n_held_out = min(max(1, round(settings.held_out * len(numbers))), len(numbers) - 1)
    chosen = np.zeros(len(numbers), dtype=bool)
    chosen[by_key[:n_held_out]] = True
    held_out: np.ndarray = chosen[places]
    return held_out


def _shuffled(pair: Pair, generator: np.random.Generator) -> Pair:
    return Pair(pair.off, pair.on, pair.kind) if generator.random() < 0.5 else pair
