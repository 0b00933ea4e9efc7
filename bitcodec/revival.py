"""New starts for bits that died in training, or that double others."""

from __future__ import annotations

import torch

from bitcodec.bit_products import pack, unpack, whole_product
from bitcodec.model import BinaryAutoencoder
from bitcodec.objective import Terms
from bitcodec.parallel import (
    gather_rows,
    n_processes,
    rank,
    sum_over_processes,
    take_from_first,
)

DEAD = 1e-4
"""Activity below which a bit is dead."""
DOUBLE = 0.95
"""Correlation above which one bit doubles another."""
WINDOW = (0.1, 0.65)
"""Shares of the steps between which bits are revived: later they could not learn."""
INTERVAL = 0.05
"""Share of the steps between two revivals."""
MIN_ROWS = 10_000
"""Rows that must have been counted to call a bit dead."""
KEPT_BATCHES = 8
"""Minibatches before a revival in which doubles are looked for."""
DECODER_SHARE = 0.3
"""Of the best decoder row of a new bit by itself: several new bits often see the same error."""


class Revival:
    """Counts bits over minibatches and restarts the useless ones.

    A dead bit is on in fewer than one row in ten thousand; of two bits that correlate above .95
    one takes the other's decoder row over. A restarted bit looks along the error of a badly
    reconstructed row.

    Args:
        n_bits: number of bits h.
        device: where the model is.
    """

    def __init__(self, n_bits: int, *, device: torch.device) -> None:
        self.counts = torch.zeros(n_bits, dtype=torch.float64, device=device)
        self.n_rows = 0
        self._latest: list[torch.Tensor] = []

    def observe(self, bits: torch.Tensor, *, n_steps_left: int | None = 0) -> None:
        """Count a minibatch.

        Args:
            bits: (b, h) float of 0 and 1, this process's rows of it; every process has as many.
            n_steps_left: steps until the next revival, None before none: the last `KEPT_BATCHES`
                minibatches before it are kept, eight bits to a byte.
        """
        self.counts += bits.sum(dim=0, dtype=torch.float32)
        self.n_rows += len(bits) * n_processes()
        if n_steps_left is not None and n_steps_left < KEPT_BATCHES:
            self._latest = [*self._latest, pack(bits > 0)][-KEPT_BATCHES:]

    def state(self) -> dict[str, torch.Tensor]:
        """Return what the next revival depends on, of all processes together, which all ask."""
        counts = self.counts.clone()
        sum_over_processes(counts)
        return {
            "counts": counts,
            "n_rows": torch.tensor(self.n_rows),
            "latest": self._all_latest(),
        }

    def take(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from a state, of however many processes: the first one holds the sums so far.

        Raises:
            ValueError: it is of other bits.
        """
        counts, latest = state["counts"], state["latest"].to(self.counts.device)
        n_bytes = -(-len(self.counts) // 8)
        if counts.shape != self.counts.shape or latest.shape[2:] != (n_bytes,):
            raise ValueError(
                f"expected counts ({len(self.counts)},) and minibatches (k, b, {n_bytes}), got "
                f"{tuple(counts.shape)} and {tuple(latest.shape)}"
            )
        self.counts.copy_(counts * (1 if rank() == 0 else 0))
        self.n_rows = int(state["n_rows"])
        self._latest = list(latest[:, rank() :: n_processes()].to(torch.uint8))

    def is_due(self, n_steps_done: int, n_steps: int) -> bool:
        """Say whether bits are to be revived after so many steps."""
        return n_steps_left(n_steps_done, n_steps) == 0 and self.n_rows >= MIN_ROWS

    @torch.no_grad()
    def revive(
        self,
        model: BinaryAutoencoder,
        standardised: torch.Tensor,
        terms: Terms,
        *,
        activity: float,
    ) -> torch.Tensor:
        """Restart dead and double bits, and begin to count anew.

        Args:
            model: changed in place.
            standardised: z, (b, d), a minibatch.
            terms: of the same.
            activity: the share of the minibatch in which a restarted bit is on.

        Returns:
            (h,) bool, the bits that were restarted.
        """
        sum_over_processes(self.counts)
        restarted = self.counts < DEAD * self.n_rows
        for double, other in reversed(self._doubles(~restarted)):
            model.decoder_weight[other] += model.decoder_weight[double]
            restarted[double] = True
        self._restart(model, standardised, terms.residual, restarted, activity)
        marks = restarted.float()
        take_from_first([marks, *(weight.data for weight in model.parameters())])
        restarted = marks > 0
        self.counts.zero_()
        self.n_rows, self._latest = 0, []
        return restarted

    def _all_latest(self) -> torch.Tensor:
        """Return the latest minibatches of all processes, (k, b, ceil(h / 8)) uint8."""
        if not self._latest:
            n_bytes = -(-len(self.counts) // 8)
            return torch.empty(0, 0, n_bytes, dtype=torch.uint8, device=self.counts.device)
        return gather_rows(torch.stack(self._latest, dim=1)).transpose(0, 1).contiguous()

    def _doubles(self, alive: torch.Tensor) -> list[tuple[int, int]]:
        """Return pairs of a bit and an earlier one that it doubles, in the latest minibatches."""
        latest = self._all_latest().flatten(0, 1)
        rows = unpack(latest, n_bits=len(self.counts)).to(torch.int8)
        if len(rows) == 0:
            return []
        n_rows, sums = len(rows), rows.sum(dim=0).double()
        scale = (n_rows * sums - sums.square()).clamp(min=1e-12).sqrt()
        pairs = []
        for start in range(0, len(sums), 1024):  # never a whole (h, h) matrix
            some = slice(start, start + 1024)
            correlation = n_rows * whole_product(rows[:, some].T, rows).double()
            correlation -= sums[some, None] * sums
            correlation /= scale[some, None] * scale
            correlation.tril_(start - 1)  # with earlier bits only
            value, other = correlation.max(dim=1)
            for row in ((value > DOUBLE) & alive[some]).nonzero().flatten().tolist():
                pairs.append((start + row, int(other[row])))
        return pairs

    @staticmethod
    def _restart(
        model: BinaryAutoencoder,
        standardised: torch.Tensor,
        residual: torch.Tensor,
        restarted: torch.Tensor,
        activity: float,
    ) -> None:
        which = restarted.nonzero().flatten()
        if len(which) == 0:
            return
        worst = residual.norm(dim=1).argsort(descending=True)
        directions = residual[worst[torch.arange(len(which)) % len(worst)]]
        logits = standardised @ directions.T
        spread = logits.std(dim=0).clamp(min=torch.finfo(torch.float32).tiny)
        threshold = torch.quantile(logits / spread, 1 - activity, dim=0)
        model.encoder_weight[which] = directions / spread[:, None]
        model.encoder_bias[which] = -threshold
        bits = (logits / spread >= threshold).float()
        bits -= bits.mean(dim=0)
        squares = bits.square().sum(dim=0).clamp(min=1)
        model.decoder_weight[which] = DECODER_SHARE * (bits.T @ residual) / squares[:, None]


def n_steps_left(n_steps_done: int, n_steps: int) -> int | None:
    """Return the steps until bits may be revived next, 0 for now; None after the last time."""
    every = max(1, round(INTERVAL * n_steps))
    first, last = WINDOW
    step = -(-n_steps_done // every) * every
    while step / n_steps < first:
        step += every
    return step - n_steps_done if step / n_steps <= last else None
