"""Who names features and answers by the names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bitcodec_naming.excerpts import Excerpt

NO_NAME = ""
"""The explanation of a judge that found none."""


class Judge(Protocol):
    """Names a feature from contexts, and tells by the name alone where it is on.

    All that a judge may remember of a feature is in its explanation, a text: it can be printed,
    kept and answered by another day, and it cannot leak the contexts it came from unseen.
    """

    @property
    def name(self) -> str:
        """What the judge is called in results."""

    def explain(self, on: Sequence[Excerpt], off: Sequence[Excerpt]) -> str:
        """Say what contexts have in common.

        Args:
            on: contexts where the feature is on.
            off: as many where it is off, each paired with the one before it in `on`.

        Returns:
            An explanation of one line; `NO_NAME` if there is none.
        """

    def answer(self, explanation: str, excerpts: Sequence[Excerpt]) -> Sequence[float]:
        """Tell by an explanation where a feature is on.

        Args:
            explanation: what a judge of this kind said.
            excerpts: contexts, each to be judged by itself.

        Returns:
            A probability that the feature is on for each, in [0, 1]; above 1/2 counts as yes, and
            exactly 1/2 as no answer.
        """
