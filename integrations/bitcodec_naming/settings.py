"""How features are named and their names tested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bitcodec.errors import ConfigError

Labels = Literal["true", "shuffled"]


@dataclass(frozen=True)
class NamingSettings:
    """How many contexts a judge is shown and asked about, and which.

    Raises:
        ConfigError: a number is out of range.
    """

    n_features: int | None = None
    """Features to name, a uniform sample of those that are on often enough; None names all."""
    n_named: int = 20
    """Contexts that a feature is named from, and as many counter-examples."""
    n_tested: int = 12
    """Contexts of other documents that the name is tested on, and as many counter-examples."""
    top_k: int | None = 10
    """A row counts as a context of its most bursty features only, so many; None counts all."""
    held_out: float = 0.5
    """Share of the documents that tests are drawn from; names come from the others."""
    width: int = 60
    """Characters of text before and after a token."""
    control: bool = True
    """Also ask about each feature's contexts under the name of another feature."""
    labels: Labels = "true"
    """"shuffled" lets a coin exchange context and counter-example in every pair that a feature is
    named from: a control, in which no judge can do better than chance."""
    seed: int = 0
    """Of every choice."""

    def __post_init__(self) -> None:
        for name in ("n_named", "n_tested", "width"):
            _check_at_least(name, getattr(self, name), 1)
        for name in ("n_features", "top_k"):
            if getattr(self, name) is not None:
                _check_at_least(name, getattr(self, name), 1)
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out must be between 0 and 1, got {self.held_out}")
        if self.labels not in ("true", "shuffled"):
            raise ConfigError(f'labels must be "true" or "shuffled", got {self.labels!r}')


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name} must be at least {least}, got {value}")
