"""Steering the entropy's weight to a wanted rate or error."""

from __future__ import annotations

import math

import torch

from bitcodec.config import CodecConfig
from bitcodec.schedule import RAMP, penalty_share

REFIT_BITS, REFIT_FVU = 1.0, 0.92
"""What refitting the decoder to searched codes does to their rate and error, roughly."""
LOOK_START, LOOK_INTERVAL = 0.2, 0.05
"""Share of the steps after which to look what searching would do, and between two looks."""
FIRST_SHARE = 0.1
"""Of the weight that is expected, the part to begin with: bits that died of too high a price do not
come back."""
PROPORTIONAL = 1.5
"""Part of a difference that beta makes up for at once."""
TIME_CONSTANT = 0.05
"""Share of the steps in which steering makes up for most of a difference."""
SLOPE_BITS, SLOPE_FVU = -1.0, 0.6
"""d log(rate) / d log(weight), and of the error, roughly."""
SETTLED_BITS, SETTLED_FVU = -0.5, 0.3
"""The same of codes searched with a decoder as it is."""
SETTLED_RANGE = (0.1, 2.0)
"""Sizes of these that are believed when they are measured."""
RANGE = (1e-4, 1e2)
"""Weights that steering may use."""


class Steering:
    """The entropy's weight beta in the course of training.

    Without a target, beta rises from 0 to its place between two shares of the steps. With one, an
    integral controller moves log beta at each step, in proportion to the logarithm of what is
    measured over what is wanted then: a rate is to fall geometrically to its target while beta
    would otherwise rise, so that it is approached from above.

    Args:
        config: the wish, and the weight that is expected. For a wanted FVU of D that is 2 ln 2 D,
            by rate-distortion theory (a Gaussian's dD/dR is -2 ln 2 D).
    """

    def __init__(self, config: CodecConfig) -> None:
        self._config = config
        self._first_bits = 0.0
        self._settled = 0.0
        self._measured: tuple[float, float] | None = None
        self.search_bits, self.search_fvu = 1.0, 1.0
        self.weight = config.entropy_weight
        if config.target_fvu is not None:
            self.weight = 2 * math.log(2) * config.target_fvu
        if config.has_target:
            self.weight *= FIRST_SHARE
        self._settled = self.weight

    def start_at(self, weight: float) -> None:
        """Begin with a weight that was found before, where there is a target."""
        if self._config.has_target:
            self.weight = self._settled = weight

    def update(self, *, progress: float, fvu: float, entropy_bits: float) -> None:
        """Move the weight after a step of training.

        Args:
            progress: the share of the steps done.
            fvu: of the step's minibatch.
            entropy_bits: of the step's minibatch.
        """
        if not self._config.has_target:
            return
        if progress < RAMP[0]:
            self._first_bits = entropy_bits
            return
        exponent = self.correction(
            fvu=fvu * self.search_fvu, entropy_bits=entropy_bits * self.search_bits
        )
        if self._config.target_bits is not None and self._first_bits > 0:
            ratio = self._first_bits / self._config.target_bits
            exponent += (1 - penalty_share(progress)) * math.log(max(1.0, ratio)) / SLOPE_BITS
        exponent = max(-1.0, min(1.0, exponent))
        self._settled = _within(
            self._settled * math.exp(exponent / (TIME_CONSTANT * self._config.n_steps))
        )
        self.weight = _within(self._settled * math.exp(PROPORTIONAL * exponent))

    def looks(self, n_steps_done: int) -> bool:
        """Say whether to look, after so many steps, what searching does to rate and error."""
        config = self._config
        if not config.has_target or config.refine == "none" or config.search_effort == "none":
            return False
        every = max(1, round(LOOK_INTERVAL * config.n_steps))
        return n_steps_done >= LOOK_START * config.n_steps and n_steps_done % every == 0

    def take_search(self, *, bits_ratio: float, fvu_ratio: float) -> None:
        """Remember what searching does to rate and error of the linear pass."""
        self.search_bits, self.search_fvu = bits_ratio * REFIT_BITS, fvu_ratio * REFIT_FVU

    def correction(self, *, fvu: float, entropy_bits: float) -> float:
        """Return by how much log beta should change where codes are as measured."""
        slope = SLOPE_FVU if self._config.target_bits is None else SLOPE_BITS
        return self._log_miss(fvu=fvu, entropy_bits=entropy_bits) / -slope

    def settle(self, *, fvu: float, entropy_bits: float) -> None:
        """Change the weight where nothing else changes: by the secant of the last two measures."""
        miss = self._log_miss(fvu=fvu, entropy_bits=entropy_bits)
        place, slope = math.log(self.weight), self._settled_slope
        if self._measured is not None and self._measured[0] != place:
            seen = (miss - self._measured[1]) / (place - self._measured[0])
            low, high = SETTLED_RANGE
            slope = math.copysign(min(high, max(low, seen * math.copysign(1, slope))), slope)
        self._measured = place, miss
        self.move(max(-1.0, min(1.0, miss / -slope)))

    @property
    def _settled_slope(self) -> float:
        return SETTLED_FVU if self._config.target_bits is None else SETTLED_BITS

    def _log_miss(self, *, fvu: float, entropy_bits: float) -> float:
        """Return the logarithm of what was measured over what was wanted."""
        if self._config.target_bits is not None:
            return math.log(max(entropy_bits, 1e-3) / self._config.target_bits)
        assert self._config.target_fvu is not None
        return math.log(max(fvu, 1e-9) / self._config.target_fvu)

    def move(self, exponent: float) -> None:
        """Change log beta, within the range that makes sense."""
        self.weight = _within(self.weight * math.exp(exponent))

    def miss(self, *, fvu: float, entropy_bits: float) -> float:
        """Return how far what was measured is from what was wanted, as a share of it."""
        if self._config.target_bits is not None:
            return entropy_bits / self._config.target_bits - 1
        assert self._config.target_fvu is not None
        return fvu / self._config.target_fvu - 1

    def state(self) -> dict[str, torch.Tensor]:
        """Return the weight as it is now, and the rate where steering began."""
        numbers = [self.weight, self._settled, self._first_bits, self.search_bits, self.search_fvu]
        return {"numbers": torch.tensor(numbers, dtype=torch.float64)}

    def take(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from a state."""
        numbers = state["numbers"].tolist()
        self.weight, self._settled, self._first_bits, self.search_bits, self.search_fvu = numbers


def _within(weight: float) -> float:
    low, high = RANGE
    return min(high, max(low, weight))
