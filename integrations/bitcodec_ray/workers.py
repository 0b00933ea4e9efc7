"""How many workers do a job, and what each may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bitcodec.errors import ConfigError


@dataclass(frozen=True)
class Workers:
    """Actors of a job: one for each group of cores, or one for each GPU."""

    count: int = 1
    """Actors at the same time."""
    num_cpus: int = 1
    """Cores of each, and the threads that torch gets there."""
    num_gpus: float = 0
    """GPUs of each; with any, the codec computes there."""
    batch_rows: int = 4096
    """Rows encoded or decoded at a time."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: one is out of range.
        """
        if self.count < 1 or self.num_cpus < 1 or self.num_gpus < 0 or self.batch_rows < 1:
            raise ConfigError(
                "workers need count, num_cpus and batch_rows of at least 1 and num_gpus of at "
                f"least 0, got {self}"
            )

    @property
    def device(self) -> str:
        """Where the codec computes."""
        return "cuda" if self.num_gpus else "cpu"

    def options(self) -> dict[str, Any]:
        """Return the arguments of `map_batches` that ask Ray for these actors."""
        from ray.data import ActorPoolStrategy

        asked: dict[str, Any] = {"compute": ActorPoolStrategy(size=self.count)}
        asked["num_cpus"] = self.num_cpus
        if self.num_gpus:
            asked["num_gpus"] = self.num_gpus
        return asked
