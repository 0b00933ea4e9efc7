"""The order in which training sees its rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bitcodec.batches import HiddenBatches
from bitcodec.errors import ConfigError


class Epochs:
    """Endless minibatches in random order, which can be left and taken up again.

    Args:
        batch_size: rows of a minibatch.
        seed: of the order.
    """

    def __init__(self, *, batch_size: int, seed: int) -> None:
        self._batch_size = batch_size
        self._order = torch.Generator().manual_seed(seed)
        self._epoch_start = self._order.get_state()
        self._n_taken = 0

    def minibatches(self, batches: HiddenBatches) -> Iterator[torch.Tensor]:
        """Yield (batch_size, d) for ever, after those of the present epoch that were taken before.

        Raises:
            ConfigError: an epoch has no minibatch.
        """
        while True:
            self._epoch_start = self._order.get_state()
            n_to_skip, n_seen = self._n_taken, 0
            for minibatch in batches.shuffled(self._batch_size, self._order):
                n_seen += 1
                if n_seen > n_to_skip:
                    self._n_taken = n_seen
                    yield minibatch
            if n_seen == 0:
                raise ConfigError(
                    "the source gave no rows when it was read again: pass a list, a file, or "
                    "an object whose __iter__ starts anew"
                )
            self._n_taken = 0

    def state(self) -> dict[str, torch.Tensor]:
        """Return the place in the order."""
        return {"epoch_start": self._epoch_start, "n_taken": torch.tensor(self._n_taken)}

    def take(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from a state."""
        self._epoch_start = state["epoch_start"]
        self._order.set_state(self._epoch_start)
        self._n_taken = int(state["n_taken"])
