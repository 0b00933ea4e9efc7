"""What changes in the course of training, each a function of the share of its steps done."""

from __future__ import annotations

from bitcodec.config import CodecConfig

WARM_UP, RAMP, DECAY = 0.05, (0.1, 0.5), 0.7
"""Shares of the steps: rate warm-up ends; penalties ramp from, to; rate decay begins."""
PUBLISHED_START = 0.25
"""Share after which the published recipe counts entropy: 500 of its 2,000 epochs."""


def learning_rate(config: CodecConfig, n_steps_done: int) -> float:
    """Return Adam's rate at a step: warm-up, a plateau, linear decay to a hundredth.

    The published recipe keeps its rate.
    """
    if config.objective == "published":
        return config.learning_rate
    warm_up = min(1.0, (n_steps_done + 1) / max(1.0, WARM_UP * config.n_steps))
    decay = min(1.0, max(0.01, (1 - n_steps_done / config.n_steps) / (1 - DECAY)))
    return config.learning_rate * warm_up * decay


def penalty_share(progress: float) -> float:
    """Return the share of their weight that the penalties have, in [0, 1]."""
    start, end = RAMP
    return min(1.0, max(0.0, (progress - start) / (end - start)))


def temperature(config: CodecConfig, progress: float) -> float:
    """Return the surrogate's width: from `temperature` geometrically to `final_temperature`."""
    if config.final_temperature is None:
        return config.temperature
    ratio = config.final_temperature / config.temperature
    return config.temperature * float(ratio ** min(1.0, progress))
