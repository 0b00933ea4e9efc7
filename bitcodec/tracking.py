"""Where the records of a training go: to a tracker, while it runs, and into a picture after it.

What `fit(on_record=...)` takes is a function of a record. These make one of a tracker's own object,
so that no tracker is needed to import this.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from bitcodec.errors import ShapeError
from bitcodec.extras import import_extra
from bitcodec.training import TrainingRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Recorder = Callable[[TrainingRecord], None]
SHOWN = {
    "fvu": "fraction of variance unexplained",
    "entropy_bits": "sum of the bits' entropies, bits",
    "entropy_weight": "weight of entropy",
    "n_revived": "bits revived",
}
SIZE_INCHES = (9.0, 5.2)


class ScalarWriter(Protocol):
    """What is used of a `torch.utils.tensorboard.SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any:
        """Write one number."""


class Run(Protocol):
    """What is used of a `wandb.Run`."""

    def log(self, data: dict[str, Any], step: int) -> Any:
        """Write some numbers."""


def to_tensorboard(writer: ScalarWriter, *, prefix: str = "bitcodec") -> Recorder:
    """Return a function that writes records to TensorBoard, for `fit(on_record=...)`.

    Args:
        writer: a `SummaryWriter`; whoever opened it closes it.
        prefix: of the tags, before a slash.
    """

    def write(record: TrainingRecord) -> None:
        for name, value in _numbers(record).items():
            writer.add_scalar(f"{prefix}/{name}", value, record.step)

    return write


def to_wandb(run: Run) -> Recorder:
    """Return a function that logs records to a Weights & Biases run, for `fit(on_record=...)`.

    Args:
        run: what `wandb.init` gives; whoever opened it finishes it.
    """
    return lambda record: run.log(dict(_numbers(record)), step=record.step)


def draw_history(history: Sequence[TrainingRecord]) -> Figure:
    """Draw error, rate, price and revivals against the steps.

    Args:
        history: as `BitCodec.history_` holds it.

    Returns:
        A figure of four pairs of axes; `figure.savefig` writes it. No global state of pyplot is
        touched.

    Raises:
        ShapeError: there are no records, as in a codec that was loaded.
        MissingExtraError: matplotlib is not installed.
    """
    if len(history) == 0:
        raise ShapeError("the history has no records: only a codec that was fitted here has some")
    figure: Figure = import_extra("matplotlib.figure", extra="report").Figure(figsize=SIZE_INCHES)
    steps = [record.step for record in history]
    for axes, (name, label) in zip(figure.subplots(2, 2).flat, SHOWN.items(), strict=True):
        axes.plot(steps, [getattr(record, name) for record in history], linewidth=1)
        axes.set(xlabel="step", ylabel=label, ylim=(0, None))
    figure.tight_layout()
    return figure


def _numbers(record: TrainingRecord) -> Mapping[str, float]:
    return {k: v for k, v in dataclasses.asdict(record).items() if k not in ("step", "n_steps")}
