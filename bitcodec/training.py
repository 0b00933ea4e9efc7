"""Training a binary autoencoder, minibatch by minibatch."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bitcodec import objective
from bitcodec.batches import HiddenBatches
from bitcodec.checkpoints import Checkpoint, State, Stateful, gather, held_signals, scatter
from bitcodec.config import CodecConfig
from bitcodec.epochs import Epochs
from bitcodec.errors import ConfigError, FileError, FormatError, MismatchError, ValueRangeError
from bitcodec.files import one_line
from bitcodec.finishing import Finisher
from bitcodec.model import BinaryAutoencoder
from bitcodec.parallel import any_process, is_alike, n_processes, rank
from bitcodec.replay import recorder_for
from bitcodec.revival import Revival, n_steps_left
from bitcodec.start import draw_sample, start_model
from bitcodec.statistics import BitStatistics
from bitcodec.steering import Steering
from bitcodec.steps import Seen, Step
from bitcodec.validation import Validation

DIVERGED = 2.0
"""An FVU at the end of training that nothing but divergence explains."""

SAME_SCALE = 1e-3
"""Part of a standard deviation by which two looks at the same data may differ."""


@dataclass(frozen=True)
class TrainingRecord:
    """What one step of training saw."""

    step: int
    """Steps done, from 1."""
    n_steps: int
    """Steps planned."""
    loss: float
    """The objective on this minibatch."""
    fvu: float
    """Fraction of variance unexplained on this minibatch."""
    entropy_bits: float
    """Sum of the bits' entropies over this minibatch, in bits."""
    covariance: float
    """Sum of absolute covariances over this minibatch; 0 where its weight is 0."""
    entropy_weight: float
    """beta at this step; it moves where a target steers it."""
    n_revived: int
    """Bits that were given a new start after this step."""
    seconds: float
    """Since training began, stops not counted."""


class Trainer:
    """One model in training; each step is one minibatch.

    Args:
        model: the autoencoder, changed in place.
        config: weights, rate and schedule.
        n_steps_done: where in the schedule to begin.
        validation: rows kept from training, for targets and for `patience`.
        capture: record a step as a CUDA graph and replay it, see `bitcodec.replay`.

    Attributes:
        history: a record for every step.
        reached: FVU and bits on the validation rows after `finish`, where there is a target.

    Raises:
        ConfigError: several processes are to train with the published objective.
    """

    def __init__(
        self,
        model: BinaryAutoencoder,
        config: CodecConfig,
        *,
        n_steps_done: int = 0,
        validation: Validation | None = None,
        capture: bool = False,
    ) -> None:
        if config.objective == "published" and n_processes() > 1:
            raise ConfigError("the published objective is for one process: start only one")
        self.model = model
        self.config = config
        self.n_steps_done = n_steps_done
        self.steering = Steering(config)
        self.history: list[TrainingRecord] = []
        self.reached: tuple[float, float] | None = None
        device = model.mean.device
        self._validation = validation
        self._began = time.monotonic()
        self._columns = torch.Generator().manual_seed(config.seed)
        self._noise = torch.Generator(device).manual_seed(config.seed)  # alike in all processes
        recorder = recorder_for(self._noise) if capture else None
        self._step = Step(model, config, noise=self._noise, recorder=recorder)
        self._epochs = Epochs(batch_size=config.batch_size, seed=config.seed)
        self._revival = Revival(model.n_bits, device=device) if config.revive else None

    def step(self, hidden: torch.Tensor) -> TrainingRecord:
        """Learn from one minibatch.

        Args:
            hidden: (b, d) float32; of several processes, each learns from its part.

        Returns:
            The record of this step.

        Raises:
            ConfigError: the rows do not divide among the processes.
            ValueRangeError: the loss is no longer finite.
        """
        config, weight = self.config, self.steering.weight
        progress = self.n_steps_done / config.n_steps
        seen = self._step(
            hidden,
            columns=objective.draw_columns(config, self.model.n_bits, self._columns),
            entropy_weight=weight,
            n_steps_done=self.n_steps_done,
        )
        numbers = seen.numbers.tolist()  # together: on a GPU every reading waits for all its work
        if not math.isfinite(numbers[0]):
            raise ValueRangeError(
                f"the loss is {numbers[0]} after {self.n_steps_done} steps: lower learning_rate "
                f"(now {config.learning_rate})"
            )
        self.n_steps_done += 1
        record = TrainingRecord(
            step=self.n_steps_done,
            n_steps=config.n_steps,
            loss=numbers[0],
            fvu=numbers[1],
            entropy_bits=numbers[2],
            covariance=numbers[3],
            entropy_weight=weight,
            n_revived=self._revive(seen),
            seconds=time.monotonic() - self._began,
        )
        self.steering.update(progress=progress, fvu=record.fvu, entropy_bits=record.entropy_bits)
        if self._validation is not None and self.steering.looks(self.n_steps_done):
            bits_ratio, fvu_ratio = self._validation.search_ratios(self.model, weight)
            self.steering.take_search(bits_ratio=bits_ratio, fvu_ratio=fvu_ratio)
        self.history.append(record)
        return record

    def run(
        self, batches: HiddenBatches, *, checkpoint: Checkpoint | None = None
    ) -> Iterator[TrainingRecord]:
        """Take the remaining steps, epoch after epoch in random order.

        Args:
            batches: the training data, at least one minibatch of it.
            checkpoint: where to keep the state. A SIGINT or SIGTERM then waits for the end of a
                step, and the state is written before it takes effect.

        Yields:
            The record of every step.

        Raises:
            ValueRangeError: a value is not finite, or training diverged.
            FileError: processes that train together do not see the same checkpoint.
        """
        if checkpoint is not None and not is_alike(self.n_steps_done):
            raise FileError(
                f"processes go on from different steps, this one from {self.n_steps_done}: keep "
                f"{checkpoint.path} where all of them see the same file"
            )
        if self.config.starts_from_transform(self.model.n_dims):
            return  # gradient steps through the stages gained nothing on held-out rows
        if self.n_steps_done < self.config.n_steps:
            steps = self._steps(batches)
            yield from steps if checkpoint is None else self._kept(steps, batches, checkpoint)
        if self._validation is not None and self._validation.best_state:
            self.model.load_state_dict(self._validation.best_state)
        last_fvu = self.history[-1].fvu if self.history else 0.0
        if last_fvu > DIVERGED and self.config.objective == "standard":
            raise ValueRangeError(
                f"training diverged: it ended with an FVU of {last_fvu:.3g} where predicting the "
                f"mean has 1: lower learning_rate (now {self.config.learning_rate})"
            )

    def finish(self, batches: HiddenBatches) -> BitStatistics:
        """Make the trained model final, see `bitcodec.finishing`; `model` may be a new one.

        Args:
            batches: the training data.

        Returns:
            The counts of the finished bits.
        """
        finisher = Finisher(
            self.model, self.config, steering=self.steering, validation=self._validation
        )
        statistics = finisher.finish(batches)
        self.model, self.reached = finisher.model, finisher.reached
        return statistics

    def state(self, batches: HiddenBatches) -> State:
        """Return all that the next step depends on; of several processes, all must ask.

        It says nothing of how many there are, so any number can go on from it.

        Args:
            batches: the training data, whose size a resumed training must find again.
        """
        records = [dataclasses.astuple(record) for record in self.history]
        return {
            **gather(self._parts()),
            **{f"model.{k}": v.detach().clone() for k, v in self.model.state_dict().items()},
            "columns": self._columns.get_state(),
            "noise": self._noise.get_state(),
            "records": torch.tensor(records, dtype=torch.float64),
            "data": _shape(batches),
        }

    def resume(self, state: State, batches: HiddenBatches) -> None:
        """Go on from a state as if there had been no stop.

        Args:
            state: of `state`, of a training of the same configuration.
            batches: the training data.

        Raises:
            MismatchError: the data are of another size or scale.
            FormatError: something is missing or has another shape.
        """
        try:
            shape, records = state["data"], state["records"]
            if not torch.equal(shape, _shape(batches)):
                raise MismatchError(
                    f"the checkpoint is of hidden states {tuple(shape.tolist())}, got "
                    f"{tuple(_shape(batches).tolist())}: pass the same data, or name another file"
                )
            now = self.model.scale.cpu()
            if not torch.allclose(state["model.scale"], now, rtol=SAME_SCALE, atol=0):
                raise MismatchError(
                    "the checkpoint is of hidden states of other standard deviations: pass the "
                    "same data, or name another file"
                )
            self.model.load_state_dict(
                {name: state[f"model.{name}"] for name in self.model.state_dict()}
            )
            self._columns.set_state(state["columns"])
            self._noise.set_state(state["noise"])
            self.history = [_record(row) for row in records.tolist()]
            self.n_steps_done = self.history[-1].step
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, MismatchError):
                raise
            raise FormatError(f"the checkpoint is damaged: {one_line(error)}") from error
        scatter(state, self._parts())
        self._began = time.monotonic() - self.history[-1].seconds

    # inside

    def _steps(self, batches: HiddenBatches) -> Iterator[TrainingRecord]:
        if self._is_impatient():
            return
        for minibatch in self._epochs.minibatches(batches):
            record = self.step(minibatch)
            self._look()
            yield record
            if self.n_steps_done >= self.config.n_steps or self._is_impatient():
                return

    def _kept(
        self, steps: Iterator[TrainingRecord], batches: HiddenBatches, checkpoint: Checkpoint
    ) -> Iterator[TrainingRecord]:
        stopped = True
        while stopped:
            stopped = False
            with held_signals() as received:
                for record in steps:
                    last = record.step == self.config.n_steps
                    if last or record.step % checkpoint.every == 0:
                        self._save(batches, checkpoint)
                    yield record
                    stopped = any_process(bool(received))
                    if stopped:
                        self._save(batches, checkpoint)
                        break
            for number in received:  # now that they are no longer held
                signal.raise_signal(number)
            # Whoever lives on, because the signal was another's or is handled, goes on.

    def _save(self, batches: HiddenBatches, checkpoint: Checkpoint) -> None:
        state = self.state(batches)  # by all processes: parts of it are sums over them
        if rank() == 0:
            checkpoint.save(state, self.config)
        any_process(False)  # nobody goes on before it is written

    def _revive(self, seen: Seen) -> int:
        """Restart useless bits where that is due, and return how many."""
        if self._revival is None:
            return 0
        left = n_steps_left(self.n_steps_done, self.config.n_steps)
        self._revival.observe(seen.terms.bits, n_steps_left=left)
        if not self._revival.is_due(self.n_steps_done, self.config.n_steps):
            return 0
        restarted = self._revival.revive(
            self.model, seen.standardised, seen.terms, activity=self.config.initial_activity
        )
        self._step.forget(restarted)
        return int(restarted.sum())

    def _look(self) -> None:
        """Compare the model with the best so far, where that is due."""
        watched = self._validation if self.config.patience is not None else None
        if watched is not None and Validation.is_due(self.n_steps_done, self.config.n_steps):
            watched.look(self.model)

    def _is_impatient(self) -> bool:
        """Say whether `patience` looks have brought nothing better."""
        if self._validation is None or self.config.patience is None:
            return False
        return self._validation.n_since_best >= self.config.patience

    def _parts(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful | None] = {
            "descent": self._step,
            "epochs": self._epochs,
            "steering": self.steering,
            "revival": self._revival,
            "validation": self._validation,
        }
        return {name: part for name, part in parts.items() if part is not None}


def start_training(
    batches: HiddenBatches,
    config: CodecConfig,
    *,
    device: torch.device,
    validation: Validation | None = None,
    capture: bool = False,
    weighed: bool = False,
) -> Trainer:
    """Look at the data and set up an autoencoder to train on it.

    Args:
        batches: the training data; a random part of it is read.
        config: what to train.
        device: where to train.
        validation: rows kept from training.
        capture: record a step as a CUDA graph and replay it.
        weighed: the data's lengths are what errors count, so that one scale is for all dimensions.

    Raises:
        ConfigError: the data can be read only once, or a dimension is constant.
        ShapeError: there are fewer rows than a minibatch.
        ValueRangeError: a value is not finite.
    """
    batches.require_rereadable()
    generator = torch.Generator().manual_seed(config.seed)
    looked = dataclasses.replace(config, scaling="global") if weighed else config
    sample = draw_sample(batches, looked, generator)
    model = start_model(sample, config, generator=generator, device=device)
    return Trainer(model, config, validation=validation, capture=capture)


def _shape(batches: HiddenBatches) -> torch.Tensor:
    """Return rows and width of the data, -1 where only reading would tell."""
    unknown = -1
    shape = (batches.n_rows, batches.n_dims)
    return torch.tensor([unknown if size is None else size for size in shape])


def _record(row: list[float]) -> TrainingRecord:
    """Return the record that `dataclasses.astuple` made numbers of."""
    fields = dataclasses.fields(TrainingRecord)
    kinds = {"int": int, "float": float}
    values = {f.name: kinds[str(f.type)](v) for f, v in zip(fields, row, strict=True)}
    return TrainingRecord(**values)
