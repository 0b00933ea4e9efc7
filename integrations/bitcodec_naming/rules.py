"""Judges without a language model: rules over conditions, learned from a feature's contexts."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from bitcodec.errors import FormatError
from bitcodec_naming.conditions import Conditions, lexical_conditions, token_conditions
from bitcodec_naming.excerpts import Excerpt

PRICE = 0.5
"""Of a condition, in units of log2 of the number of conditions it was chosen from."""
MOST_CONDITIONS = 12
_ONE = r'[a-z ]+ "(?:[^"\\]|\\.)*"'
_RULE = re.compile(
    rf"(?:(?P<any>{_ONE}(?: or {_ONE})*): on in (?P<held>\d+)%, else|on) in (?P<other>\d+)%"
)


@dataclass(frozen=True)
class Rule:
    """Where a feature is on: in some share of the contexts in which any of its conditions holds.

    Shares are of contexts and as many counter-examples, in whole percent from 1 to 99.
    """

    conditions: tuple[str, ...]
    """See `bitcodec_naming.conditions`."""
    held: int
    """Percent of contexts among those where one holds."""
    other: int
    """Percent of contexts among the others."""

    def __str__(self) -> str:
        """Write the rule as `parse` reads it."""
        if not self.conditions:
            return f"on in {self.other}%"
        return f"{' or '.join(self.conditions)}: on in {self.held}%, else in {self.other}%"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a rule that `str` wrote.

        Raises:
            FormatError: it is none.
        """
        found = _RULE.fullmatch(text)
        if found is None:
            raise FormatError(f"expected a rule that such a judge wrote, got {text[:80]!r}")
        other = int(found["other"])
        if found["any"] is None:
            return cls((), other, other)
        parts = re.findall(rf"(?:^| or )({_ONE})", found["any"])
        return cls(tuple(parts), int(found["held"]), other)

    def probability(self, conditions: frozenset[str]) -> float:
        """Return how probable the feature is where some conditions hold."""
        return (self.held if conditions.intersection(self.conditions) else self.other) / 100


class RuleJudge:
    """Explains a feature by a short list of conditions, found greedily, and answers by it.

    Conditions are added while they raise the evidence of the contexts by more than they cost to
    name. The evidence is that of a coin of unknown bias (Krichevsky and Trofimov, 1981) for the
    contexts where a condition holds, and another for the rest; a condition costs `PRICE` times
    log2 of the number of conditions that hold in more than one context. Nothing is random.

    Args:
        conditions: what may be said of a context.
        name: of the judge.
    """

    def __init__(self, conditions: Conditions, *, name: str) -> None:
        self._conditions, self._name = conditions, name

    @property
    def name(self) -> str:
        """See `Judge.name`."""
        return self._name

    def explain(self, on: Sequence[Excerpt], off: Sequence[Excerpt]) -> str:
        """Return the rule as text; see `Judge.explain`."""
        found = [self._conditions(excerpt) for excerpt in (*on, *off)]
        label = np.arange(len(found)) < len(on)
        counts = Counter(itertools.chain.from_iterable(found))
        names = sorted(name for name, count in counts.items() if count > 1)
        holds = np.array([[name in conditions for conditions in found] for name in names])
        chosen, covered = cover(holds.reshape(len(names), len(found)), label)
        return str(
            Rule(
                tuple(names[index] for index in chosen),
                _percent(label[covered]),
                _percent(label[~covered]),
            )
        )

    def answer(self, explanation: str, excerpts: Sequence[Excerpt]) -> Sequence[float]:
        """Apply a rule; see `Judge.answer`.

        Raises:
            FormatError: the explanation is no such rule.
        """
        rule = Rule.parse(explanation)
        return [rule.probability(self._conditions(excerpt)) for excerpt in excerpts]


def token_judge() -> RuleJudge:
    """Return the judge that knows tokens and nothing else."""
    return RuleJudge(token_conditions, name="tokens")


def lexical_judge() -> RuleJudge:
    """Return the judge that knows tokens, words, their classes and the words about them."""
    return RuleJudge(lexical_conditions, name="lexical")


def cover(holds: np.ndarray, label: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Choose conditions whose union tells the labels.

    Args:
        holds: (c, n) bool, where each condition holds.
        label: (n,) bool.

    Returns:
        The indices of the conditions, in the order of their choice, the first of equals; and where
        any of them holds, (n,) bool.
    """
    chosen: list[int] = []
    covered = np.zeros(len(label), dtype=bool)
    if len(holds) == 0:
        return chosen, covered
    best, price = _evidence(covered[None], label)[0], PRICE * np.log2(len(holds))
    while len(chosen) < MOST_CONDITIONS:
        gained = _evidence(covered | holds, label)
        index = int(np.argmax(gained))
        if gained[index] <= best + price:
            break
        chosen.append(index)
        best, covered = gained[index], covered | holds[index]
    return chosen, covered


def _evidence(covered: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return log2 of the evidence of labels split in two, (c,) for (c, n) splits."""
    log_gamma = np.concatenate([[0], np.cumsum(np.log2(np.arange(len(label)) + 0.5))])
    log_factorial = np.concatenate([[0], np.cumsum(np.log2(np.arange(len(label)) + 1.0))])
    n_on, n_off = (covered @ side.astype(np.int64) for side in (label, ~label))
    total: np.ndarray = np.zeros(len(covered))
    for on, off in ((n_on, n_off), (label.sum() - n_on, (~label).sum() - n_off)):
        total += log_gamma[on] + log_gamma[off] - log_factorial[on + off]
    return total


def _percent(label: np.ndarray) -> int:
    """Return the share of true labels, (k + 1/2) / (n + 1), in whole percent from 1 to 99."""
    return int(np.clip(round(100 * (label.sum() + 0.5) / (len(label) + 1)), 1, 99))
