"""What asking a paid judge costs, and the cap that stops it before it costs more."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from bitcodec.errors import BudgetError, ConfigError
from bitcodec_naming.prompts import Message

_FRAME_TOKENS = 16
"""More than any chat template adds to a message, and to the whole."""
_MILLION = 1_000_000


@dataclass(frozen=True)
class Prices:
    """What an endpoint charges, in US dollars per million tokens.

    Raises:
        ConfigError: a price is negative.
    """

    prompt: float = 0.0
    """Of what it reads."""
    completion: float = 0.0
    """Of what it writes."""

    def __post_init__(self) -> None:
        if not (self.prompt >= 0 and self.completion >= 0):
            raise ConfigError(f"prices must be at least 0, got {self.prompt} and {self.completion}")

    def cost(self, n_prompt: float, n_completion: float) -> float:
        """Return the price of tokens in US dollars."""
        return (n_prompt * self.prompt + n_completion * self.completion) / _MILLION


@dataclass
class Spending:
    """What was asked so far."""

    n_requests: int = 0
    """Requests sent, or in a dry run those that would be."""
    n_cached: int = 0
    """Answers found in the cache."""
    prompt_tokens: int = 0
    """Tokens read; in a dry run at most so many."""
    completion_tokens: int = 0
    """Tokens written; in a dry run at most so many."""
    dollars: float = 0.0
    """What they cost; in a dry run at most so much."""


class Purse:
    """Counts what requests cost and refuses those that could exceed a budget; for many threads.

    What a request can cost at most is set aside before it is sent and settled afterwards, so the
    budget holds whatever the endpoint does. What came of an attempt that failed is not known: it
    counts as the most it could cost.

    Args:
        prices: of the endpoint.
        budget: US dollars that may be spent; None is no limit.

    Raises:
        ConfigError: the budget is not above 0, or there are no prices to hold it against.
    """

    def __init__(self, prices: Prices, *, budget: float | None) -> None:
        if budget is not None and not budget > 0:
            raise ConfigError(f"the budget must be above 0 dollars, got {budget}")
        if budget is not None and prices == Prices():
            raise ConfigError(
                "a budget needs the endpoint's prices: give dollars per million tokens read and "
                "written"
            )
        self.prices, self.budget = prices, budget
        self.spending = Spending()
        self._set_aside = 0.0
        self._lock = threading.Lock()

    def reserve(self, n_prompt: int, n_completion: int) -> float:
        """Set aside what a request can cost at most, and return it.

        Raises:
            BudgetError: it could exceed the budget.
        """
        most = self.prices.cost(n_prompt, n_completion)
        with self._lock:
            total = self.spending.dollars + self._set_aside + most
            if self.budget is not None and total > self.budget:
                raise BudgetError(
                    f"the next request could exceed the budget of ${self.budget:.4f}: "
                    f"${self.spending.dollars:.4f} are spent on {self.spending.n_requests} "
                    "requests; answers so far are kept in the cache, raise the budget to go on"
                )
            self._set_aside += most
        return most

    def settle(self, reserved: float, n_prompt: int, n_completion: int) -> None:
        """Count a request's tokens in place of what was set aside for it."""
        with self._lock:
            self._set_aside -= reserved
            self.spending.n_requests += 1
            self.spending.prompt_tokens += n_prompt
            self.spending.completion_tokens += n_completion
            self.spending.dollars += self.prices.cost(n_prompt, n_completion)

    def count_cached(self) -> None:
        """Count an answer that cost nothing."""
        with self._lock:
            self.spending.n_cached += 1


def most_tokens(messages: Sequence[Message]) -> int:
    """Return more tokens than a chat can have: each token is at least a byte of UTF-8."""
    n_bytes = sum(len(message["content"].encode()) for message in messages)
    return n_bytes + _FRAME_TOKENS * (len(messages) + 1)
