"""A judge behind an endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bitcodec.errors import ConfigError, RemoteError
from bitcodec.extras import import_extra
from bitcodec.files import PathLike, one_line
from bitcodec_naming.answer_cache import AnswerCache
from bitcodec_naming.conditions import EXTRA
from bitcodec_naming.excerpts import Excerpt
from bitcodec_naming.prompts import (
    MOST_CHARACTERS,
    Message,
    answer_messages,
    explain_messages,
    explanation_of,
    yes_or_no,
)
from bitcodec_naming.spending import Prices, Purse, Spending, most_tokens

DEFAULT_URL = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"
"""Environment variable that holds the key; it is read nowhere else and never kept."""
EXPLAIN_TOKENS, ANSWER_TOKENS = 64, 8
"""Tokens that a model may write."""
_UNKNOWN_NAME = "x" * MOST_CHARACTERS
"""Stands for a name in a dry run, as long as a name may be."""


class EndpointJudge:
    """Asks a chat model behind an endpoint, each context by itself.

    Answers are yes or no, so their probabilities are 1 or 0, and 1/2 where a reply is neither.

    Args:
        model: what the endpoint calls the model.
        cache: folder that keeps all replies; the same question is asked once.
        url: of the endpoint, for example of a server on this machine.
        key_variable: environment variable with the key. An endpoint at another `url` than the
            default may do without.
        prices: dollars per million tokens.
        budget: dollars that may be spent; see `Purse`.
        dry_run: send nothing and count what would be sent, at most; all answers are undecided.
        n_parallel: requests under way at once.
        n_retries: further attempts, after growing pauses, where the endpoint is busy or fails.
        timeout: seconds to wait for a reply.

    Raises:
        ConfigError: there is no key, or the budget or a price makes no sense.
        MissingExtraError: openai is not installed.
    """

    def __init__(
        self,
        model: str,
        *,
        cache: PathLike,
        url: str = DEFAULT_URL,
        key_variable: str = KEY_VARIABLE,
        prices: Prices | None = None,
        budget: float | None = None,
        dry_run: bool = False,
        n_parallel: int = 4,
        n_retries: int = 5,
        timeout: float = 60.0,
    ) -> None:
        self._purse = Purse(prices or Prices(), budget=None if dry_run else budget)
        self._model, self._url, self._dry_run = model, url, dry_run
        self._n_parallel, self._n_attempts = n_parallel, n_retries + 1
        self._openai: Any = None
        if not dry_run:
            self._openai = import_extra("openai", extra=EXTRA)
            self._client = self._openai.OpenAI(
                api_key=_key(key_variable, url=url),
                base_url=url,
                timeout=timeout,
                max_retries=n_retries,
            )
        self._cache = AnswerCache(cache)

    @property
    def name(self) -> str:
        """See `Judge.name`."""
        return self._model

    @property
    def spending(self) -> Spending:
        """What was asked so far."""
        return self._purse.spending

    def explain(self, on: Sequence[Excerpt], off: Sequence[Excerpt]) -> str:
        """See `Judge.explain`.

        Raises:
            BudgetError: the next request could exceed the budget.
            RemoteError: the endpoint refuses, or does not answer as it should.
        """
        reply = self._reply(explain_messages(on, off), most=EXPLAIN_TOKENS)
        return _UNKNOWN_NAME if reply is None else explanation_of(reply)

    def answer(self, explanation: str, excerpts: Sequence[Excerpt]) -> Sequence[float]:
        """See `Judge.answer`.

        Raises:
            BudgetError: the next request could exceed the budget.
            RemoteError: the endpoint refuses, or does not answer as it should.
        """

        def asked(excerpt: Excerpt) -> float:
            reply = self._reply(answer_messages(explanation, excerpt), most=ANSWER_TOKENS)
            return 0.5 if reply is None else yes_or_no(reply)

        with ThreadPoolExecutor(self._n_parallel) as threads:
            return list(threads.map(asked, excerpts))

    def _reply(self, messages: list[Message], *, most: int) -> str | None:
        """Return the reply from the cache or the endpoint, None in a dry run."""
        # OpenAI renamed the limit; servers elsewhere mostly know the old name.
        limit = "max_completion_tokens" if self._url == DEFAULT_URL else "max_tokens"
        request = {"model": self._model, "messages": messages, limit: most, "temperature": 0}
        kept = self._cache.get({"url": self._url} | request)
        if kept is not None:
            self._purse.count_cached()
            return kept
        n_prompt = most_tokens(messages)
        if self._dry_run:
            self._purse.settle(self._purse.reserve(n_prompt, most), n_prompt, most)
            return None
        reply = self._paid(request, n_prompt=n_prompt, n_completion=most)
        self._cache.put({"url": self._url} | request, reply)
        return reply

    def _paid(self, request: dict[str, Any], *, n_prompt: int, n_completion: int) -> str:
        """Send a request, paying for failed attempts as if each had cost the most it could."""
        attempts, n_attempts = self._n_attempts, self._n_attempts
        reserved = self._purse.reserve(n_attempts * n_prompt, n_attempts * n_completion)
        used = (n_attempts * n_prompt, n_attempts * n_completion)
        try:
            raw = self._client.chat.completions.with_raw_response.create(**request)
            attempts = raw.retries_taken
            completion = raw.parse()
            told = _usage(completion, most=(n_prompt, n_completion))
            used = (attempts * n_prompt + told[0], attempts * n_completion + told[1])
            return _content(completion, url=self._url)
        except self._openai.OpenAIError as error:
            raise RemoteError(
                f"{self._url} does not answer as an OpenAI-compatible endpoint should: "
                f"{one_line(error)[:200]}"
            ) from error
        except ValueError as error:  # the reply is no JSON
            raise RemoteError(
                f"{self._url} does not answer in JSON: {one_line(error)[:200]}"
            ) from error
        finally:
            self._purse.settle(reserved, *used)


def _content(completion: Any, *, url: str) -> str:
    """Return the text of a reply; a refusal without one is an empty text."""
    try:
        content = completion.choices[0].message.content
    except (AttributeError, IndexError, TypeError) as error:
        raise RemoteError(
            f"{url} must answer with a chat completion, got {str(completion)[:80]!r}: check the "
            "address, most end in /v1"
        ) from error
    return content if isinstance(content, str) else ""


def _usage(completion: Any, *, most: tuple[int, int]) -> tuple[int, int]:
    """Return the tokens read and written as the reply tells, `most` where it tells none."""
    usage = getattr(completion, "usage", None)
    read, written = (getattr(usage, f"{kind}_tokens", None) for kind in ("prompt", "completion"))
    if isinstance(read, int) and isinstance(written, int) and min(read, written) >= 0:
        return read, written
    return most


def _key(variable: str, *, url: str) -> str:
    key = os.environ.get(variable, "")
    if not key and url == DEFAULT_URL:
        raise ConfigError(
            f"the environment variable {variable} must hold the key of {url}: set it, or name "
            "another variable or address"
        )
    return key or "none"  # openai insists on one; servers without keys ignore it
