"""A slow judge whose answers are kept on disk, so that a stopped run goes on where it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from bitcodec.errors import FormatError
from bitcodec.files import PathLike
from bitcodec_naming.answer_cache import AnswerCache
from bitcodec_naming.excerpts import Excerpt
from bitcodec_naming.judge import Judge


class KeptJudge:
    """Asks another judge only what it has not been asked before.

    Args:
        judge: must answer alike on every run, as a `ChatJudge` does; an `EndpointJudge` keeps its
            replies itself.
        cache: folder of the answers; those of judges of other names are not mixed up with them.
    """

    def __init__(self, judge: Judge, *, cache: PathLike) -> None:
        self._judge, self._cache = judge, AnswerCache(cache)

    @property
    def name(self) -> str:
        """See `Judge.name`."""
        return self._judge.name

    def explain(self, on: Sequence[Excerpt], off: Sequence[Excerpt]) -> str:
        """See `Judge.explain`."""
        request = self._request(on=_plain(on), off=_plain(off))
        explanation = self._cache.get(request)
        if explanation is None:
            explanation = self._judge.explain(on, off)
            self._cache.put(request, explanation)
        return explanation

    def answer(self, explanation: str, excerpts: Sequence[Excerpt]) -> Sequence[float]:
        """See `Judge.answer`.

        Raises:
            FormatError: a kept answer is no number.
        """
        requests = [
            self._request(explanation=explanation, about=_plain([excerpt])) for excerpt in excerpts
        ]
        answers = [self._kept(request) for request in requests]
        new = [at for at, answer in enumerate(answers) if answer is None]
        if new:
            given = self._judge.answer(explanation, [excerpts[at] for at in new])
            for at, answer in zip(new, given, strict=True):
                self._cache.put(requests[at], repr(float(answer)))
                answers[at] = answer
        return [answer for answer in answers if answer is not None]

    def _kept(self, request: dict[str, Any]) -> float | None:
        reply = self._cache.get(request)
        if reply is None:
            return None
        try:
            return float(reply)
        except ValueError as error:
            raise FormatError(f"a kept answer must be a number, got {reply[:40]!r}") from error

    def _request(self, **content: Any) -> dict[str, Any]:
        return {"judge": self._judge.name, **content}


def _plain(excerpts: Sequence[Excerpt]) -> list[dict[str, str]]:
    return [dataclasses.asdict(excerpt) for excerpt in excerpts]
