"""New starts for bits that died in training, or that double others."""

from __future__ import annotations

from collections import deque

import torch

from bitcodec.model import BinaryAutoencoder
from bitcodec.objective import Terms
from bitcodec.parallel import n_processes, sum_over_processes, take_from_first

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
"""Latest minibatches in which doubles are looked for."""
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
        self._latest: deque[torch.Tensor] = deque(maxlen=KEPT_BATCHES)

    def observe(self, bits: torch.Tensor) -> None:
        """Count a minibatch, (b, h) float of 0 and 1."""
        self.counts += bits.sum(dim=0, dtype=torch.float32)
        self.n_rows += len(bits)
        self._latest.append(bits.to(torch.uint8))

    def state(self) -> dict[str, torch.Tensor]:
        """Return what the next revival depends on."""
        latest = {f"latest.{index}": bits for index, bits in enumerate(self._latest)}
        return {"counts": self.counts, "n_rows": torch.tensor(self.n_rows), **latest}

    def take(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from a state."""
        self.counts.copy_(state["counts"])
        self.n_rows = int(state["n_rows"])
        n_latest = sum(name.startswith("latest.") for name in state)
        self._latest.extend(
            state[f"latest.{index}"].to(self.counts.device) for index in range(n_latest)
        )

    def is_due(self, n_steps_done: int, n_steps: int) -> bool:
        """Say whether bits are to be revived after so many steps."""
        first, last = WINDOW
        every = max(1, round(INTERVAL * n_steps))
        inside = first <= n_steps_done / n_steps <= last
        n_rows = self.n_rows * n_processes()
        return inside and n_steps_done % every == 0 and n_rows >= MIN_ROWS

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
        counts, n_rows = self.counts, self.counts.new_tensor(self.n_rows)
        sum_over_processes(counts, n_rows)
        restarted = counts < DEAD * float(n_rows)
        for double, other in reversed(self._doubles(~restarted)):
            model.decoder_weight[other] += model.decoder_weight[double]
            restarted[double] = True
        self._restart(model, standardised, terms.residual, restarted, activity)
        marks = restarted.float()
        take_from_first([marks, *(weight.data for weight in model.parameters())])
        restarted = marks > 0
        self.counts.zero_()
        self.n_rows = 0
        self._latest.clear()
        return restarted

    def _doubles(self, alive: torch.Tensor) -> list[tuple[int, int]]:
        """Return pairs of a bit and an earlier one that it doubles, in the latest minibatches."""
        bits = torch.cat(list(self._latest)).float()
        centred = bits - bits.mean(dim=0)
        scale = centred.norm(dim=0).clamp(min=1e-12)
        centred /= scale
        pairs = []
        for start in range(0, centred.shape[1], 1024):  # never the whole (h, h) matrix
            correlation = centred[:, start : start + 1024].T @ centred
            correlation.tril_(start - 1)  # with earlier bits only
            value, other = correlation.max(dim=1)
            for row in (
                ((value > DOUBLE) & alive[start : start + 1024]).nonzero().flatten().tolist()
            ):
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
