"""Rows kept from training, on which a model in training is measured."""

from __future__ import annotations

import copy

import torch

from bitcodec.batches import HiddenBatches
from bitcodec.config import CodecConfig
from bitcodec.errors import ShapeError
from bitcodec.model import BinaryAutoencoder
from bitcodec.refine import Effort, Refiner, rate_prices
from bitcodec.start import take_rows
from bitcodec.statistics import binary_entropy

ROWS = 4096
"""Rows to measure on, at most about."""
ONE_IN = 20
"""Of so many parts of the data, one is kept from training."""
MIN_ROWS = 64
"""Fewer rows than this measure nothing."""
START, INTERVAL = 0.5, 0.02
"""Share of the steps after which to look for the best model, the penalties then being whole; and
between two looks."""


class Validation:
    """A few rows, and the best model seen on them.

    Args:
        batches: rows that training does not see.
        config: the seed; the refine effort of a measure.

    Raises:
        ShapeError: there are too few rows.
    """

    def __init__(self, batches: HiddenBatches, config: CodecConfig) -> None:
        generator = torch.Generator().manual_seed(config.seed)
        parts = list(take_rows(batches.shuffled(512, generator, keep_rest=True), ROWS))
        n_rows = sum(len(part) for part in parts)
        if n_rows < MIN_ROWS:
            raise ShapeError(
                f"{n_rows} rows are kept from training to measure on, and it takes {MIN_ROWS}: "
                f"fit at least {MIN_ROWS * ONE_IN} rows, or pass {MIN_ROWS} as validation"
            )
        self._rows = torch.cat(parts)
        self._config = config
        self.best_score = float("inf")
        self.n_since_best = 0
        self.best_state: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def measure(
        self, model: BinaryAutoencoder, *, refiner: Refiner | None = None
    ) -> tuple[float, float]:
        """Return FVU and sum of the bits' entropies.

        Args:
            model: the autoencoder.
            refiner: searches the codes; None measures the linear pass.
        """
        rows = model.standardise(self._rows.to(model.mean.device))
        bits = model.encode(rows)
        if refiner is not None:
            starts = bits.to(torch.uint8).cpu().numpy()
            effort: Effort = "fast" if self._config.refine == "none" else self._config.refine
            found = refiner.refine(rows.cpu().numpy(), starts, effort=effort)
            bits = torch.from_numpy(found).to(bits)
        errors = (rows - model.reconstruct(bits)).double().square().mean(dim=0)
        variances = rows.double().var(dim=0, correction=0)
        varies = variances > 0
        activity = bits.double().mean(dim=0).cpu().numpy()
        return float((errors / variances)[varies].mean()), float(binary_entropy(activity).sum())

    @torch.no_grad()
    def search_ratios(self, model: BinaryAutoencoder, weight: float) -> tuple[float, float]:
        """Return what searching the codes multiplies rate and FVU of the linear pass by.

        Args:
            model: the autoencoder.
            weight: beta, the price of a bit.
        """
        rows = model.standardise(self._rows.to(model.mean.device))
        counts = model.encode(rows).sum(dim=0).cpu().numpy()
        prices = rate_prices(counts, len(rows), entropy_weight=weight)
        refiner = Refiner(model.decoder_weight, model.decoder_bias, price=prices)
        before, after = self.measure(model), self.measure(model, refiner=refiner)
        return after[1] / max(before[1], 1e-3), after[0] / before[0]

    @torch.no_grad()
    def look(self, model: BinaryAutoencoder) -> None:
        """Compare a model with the best so far, and keep a copy of the better."""
        fvu, entropy_bits = self.measure(model)
        score = fvu + self._config.entropy_weight * entropy_bits / model.n_dims
        self.n_since_best += 1
        if score < self.best_score:
            self.best_score, self.n_since_best = score, 0
            self.best_state = copy.deepcopy(model.state_dict())

    def state(self) -> dict[str, torch.Tensor]:
        """Return what the next look depends on."""
        best = {f"best.{name}": value for name, value in self.best_state.items()}
        score = torch.tensor([self.best_score, self.n_since_best], dtype=torch.float64)
        return {"score": score, **best}

    def take(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from a state."""
        score, n_since_best = state["score"].tolist()
        self.best_score, self.n_since_best = score, int(n_since_best)
        self.best_state = {
            name.removeprefix("best."): value
            for name, value in state.items()
            if name.startswith("best.")
        }

    @staticmethod
    def is_due(n_steps_done: int, n_steps: int) -> bool:
        """Say whether to look after so many steps."""
        every = max(1, round(INTERVAL * n_steps))
        return n_steps_done >= START * n_steps and n_steps_done % every == 0
