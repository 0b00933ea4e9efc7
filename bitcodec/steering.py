"""Steering the entropy's weight to a wanted rate or error."""

from __future__ import annotations

import math

import torch

from bitcodec.config import CodecConfig

SEARCH_BITS, SEARCH_FVU = 0.97, 0.72
"""What searching the codes after training does to rate and error of the linear pass, roughly."""
START = 0.3
"""Share of the steps after which to steer: the penalties have most of their weight."""
TIME_CONSTANT = 0.12
"""Share of the steps in which steering makes up for most of a difference."""
SLOPE_BITS, SLOPE_FVU = -1.0, 0.6
"""d log(rate) / d log(weight), and of the error, roughly."""
RANGE = (1e-4, 1e2)
"""Weights that steering may use."""


class Steering:
    """The entropy's weight beta in the course of training.

    An integral controller in log beta: each step moves it in proportion to the logarithm of what
    is measured over what is wanted.

    Args:
        config: the wish, and the weight to begin with. For a wanted FVU of D that is 2 ln 2 D,
            by rate-distortion theory (a Gaussian's dD/dR is -2 ln 2 D).
    """

    def __init__(self, config: CodecConfig) -> None:
        self._config = config
        self.weight = config.entropy_weight
        if config.target_fvu is not None:
            self.weight = 2 * math.log(2) * config.target_fvu
        self._searched = config.refine != "none" and config.refine_rounds > 0

    def update(self, *, progress: float, fvu: float, entropy_bits: float) -> None:
        """Move the weight after a step of training.

        Args:
            progress: the share of the steps done.
            fvu: of the step's minibatch.
            entropy_bits: of the step's minibatch.
        """
        if not self._config.has_target or progress < START:
            return
        exponent = self.correction(fvu=fvu, entropy_bits=entropy_bits, searched=self._searched)
        self.move(exponent / (TIME_CONSTANT * self._config.n_steps))

    def correction(self, *, fvu: float, entropy_bits: float, searched: bool = False) -> float:
        """Return by how much log beta should change.

        Args:
            fvu: measured.
            entropy_bits: measured.
            searched: the measure is the linear pass's, and codes will be searched.
        """
        if self._config.target_bits is not None:
            wanted = self._config.target_bits / (SEARCH_BITS if searched else 1)
            return math.log(wanted / max(entropy_bits, 1e-3)) / SLOPE_BITS
        assert self._config.target_fvu is not None
        wanted = self._config.target_fvu / (SEARCH_FVU if searched else 1)
        return math.log(wanted / max(fvu, 1e-9)) / SLOPE_FVU

    def move(self, exponent: float) -> None:
        """Change log beta, within the range that makes sense."""
        low, high = RANGE
        self.weight = min(high, max(low, self.weight * math.exp(exponent)))

    def miss(self, *, fvu: float, entropy_bits: float) -> float:
        """Return how far what was measured is from what was wanted, as a share of it."""
        if self._config.target_bits is not None:
            return entropy_bits / self._config.target_bits - 1
        assert self._config.target_fvu is not None
        return fvu / self._config.target_fvu - 1

    def state(self) -> dict[str, torch.Tensor]:
        """Return the weight as it is now."""
        return {"weight": torch.tensor(self.weight, dtype=torch.float64)}

    def take(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from a state."""
        self.weight = float(state["weight"])
