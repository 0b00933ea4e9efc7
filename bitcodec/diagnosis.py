"""What can go wrong in a fit that ends, found and named together with its remedy."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np

from bitcodec.errors import TrainingWarning
from bitcodec.statistics import BitStatistics
from bitcodec.training import Trainer, TrainingRecord

DENSE = (0.4, 0.6)
"""Activities between which a bit says nothing sparse."""
DENSE_SHARE = 0.05
"""Share of such bits from which a codec with a price on entropy went dense."""
DEAD = 1e-4
"""Activity below which a bit is dead."""
DEAD_SHARE = 0.5
"""Share of such bits from which a codec collapsed."""
LATE = 0.1
"""Share of the steps, the last, in which training should be calm."""
UNREST = 0.25
"""Standard deviation of the FVU of those steps, as a share of their mean, that is not calm."""
MISS = 0.05
"""Share of a target by which it may be missed."""


def warn_of(trainer: Trainer, statistics: BitStatistics) -> None:
    """Warn of everything wrong with a finished training.

    Args:
        trainer: after `finish`.
        statistics: of the finished bits.

    Warns:
        TrainingWarning: one for each thing that is wrong.
    """
    findings = [
        *_missed_target(trainer),
        *_unused_bits(trainer, statistics.activity),
        *_unrest(trainer.history),
    ]
    for finding in findings:
        warnings.warn(finding, TrainingWarning, stacklevel=3)


def _missed_target(trainer: Trainer) -> Iterator[str]:
    if trainer.reached is None:
        return
    fvu, entropy_bits = trainer.reached
    if abs(trainer.steering.miss(fvu=fvu, entropy_bits=entropy_bits)) <= MISS:
        return
    config = trainer.config
    wish = (
        f"target_bits={config.target_bits:g}"
        if config.target_bits is not None
        else f"target_fvu={config.target_fvu:g}"
    )
    yield (
        f"{wish} was not reached: on rows kept from training the codec has {entropy_bits:.4g} bits "
        f"and an FVU of {fvu:.3g} with an entropy_weight of {trainer.steering.weight:.3g}: change "
        f"n_bits (now {trainer.model.n_bits}) or n_steps (now {config.n_steps}), or ask for less"
    )


def _unused_bits(trainer: Trainer, activity: np.ndarray) -> Iterator[str]:
    config = trainer.config
    if config.entropy_weight == 0 or config.objective == "published":
        return  # dense codes are what such a codec is for, or what it is known for
    dense = float(np.mean((activity > DENSE[0]) & (activity < DENSE[1])))
    if dense > DENSE_SHARE and not config.prune:
        yield (
            f"{dense:.0%} of the bits are on in about half of the rows: the codec went dense. "
            f"Lower initial_activity (now {config.initial_activity}) or raise entropy_weight "
            f"(now {trainer.steering.weight:.3g}), and see that n_steps (now {config.n_steps}) "
            "suffice"
        )
    dead = float(np.mean(activity < DEAD))
    if dead > DEAD_SHARE:
        yield (
            f"{dead:.0%} of the bits are never on: the codec collapsed. Lower entropy_weight (now "
            f"{trainer.steering.weight:.3g}), or ask for fewer bits (now {trainer.model.n_bits})"
        )


def _unrest(history: list[TrainingRecord]) -> Iterator[str]:
    late = np.array([record.fvu for record in history[-round(LATE * len(history)) :]])
    if len(late) < 10:
        return
    if late.std() > UNREST * late.mean() and late.mean() > 0.01:
        yield (
            f"training oscillated to its end: the FVU of the last {len(late)} minibatches is "
            f"{late.mean():.3g} with a standard deviation of {late.std():.2g}. Lower "
            "learning_rate, or raise batch_size"
        )
