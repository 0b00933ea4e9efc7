"""The facade: one object that learns binary codes, encodes, decodes and is saved."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch

from bitcodec import storage
from bitcodec.batches import HiddenBatches, HiddenSource
from bitcodec.checkpoints import Checkpoint
from bitcodec.coder import PackedCoder
from bitcodec.config import CodecConfig
from bitcodec.devices import resolve_device
from bitcodec.diagnosis import warn_of
from bitcodec.errors import ConfigError, ShapeError
from bitcodec.files import PathLike
from bitcodec.fitted import STREAM_ROWS
from bitcodec.reported import ReportedCodec
from bitcodec.start import draw_sample, mean_of, start_model, take_rows
from bitcodec.statistics import BitStatistics
from bitcodec.training import Trainer, TrainingRecord, start_training
from bitcodec.validation import ONE_IN, Validation
from bitcodec.weighing import Weighing

SHRINKAGE_ROWS = 2**12
"""Rows on which shrinkage is measured."""


class BitCodec(ReportedCodec):
    """Learn binary codes for hidden states, and map between the two.

    The keyword arguments are those of `Parameters`; `BitCodec.preset` gives them by purpose.

    Attributes:
        n_dims_: width d of the hidden states.
        n_bits_: bits h of a code.
        side_bytes_: bytes beside the bits of a packed row.
        row_bytes_: bytes of a packed row.
        fingerprint_: SHA-256 of the codec's tensors, hexadecimal; every artefact carries it.
        statistics_: counts of the bits on the rows of the fit.
        history_: a `TrainingRecord` for every step of the fit.
        provenance_: where the hidden states came from, as told to `fit`.

    Parameters are checked when a fit begins. `get_params`, `set_params`, `transform` and
    `inverse_transform` are scikit-learn's.

    The method is the binary autoencoder of arXiv 2509.20997, with the sigmoid's true derivative
    as surrogate gradient.
    """

    _trainer: Trainer | None = None

    def fit(
        self,
        hidden: HiddenSource,
        y: object = None,
        *,
        on_record: Callable[[TrainingRecord], None] | None = None,
        provenance: dict[str, Any] | None = None,
        validation: HiddenSource | None = None,
        sensitivity: np.ndarray | torch.Tensor | None = None,
        checkpoint: PathLike | None = None,
        checkpoint_every: int = 100,
        capture: bool = False,
    ) -> Self:
        """Learn codes for hidden states, anew.

        Args:
            hidden: an array or tensor (n, d), path(s) of .npy, .safetensors or .arrow files,
                or a re-iterable of (b, d) batches; read several times, never whole.
            y: ignored, for scikit-learn.
            on_record: called with the record of every step.
            provenance: JSON-ready facts about the hidden states, kept in the codec's file.
            validation: rows to measure on while training, for a target and for `patience`; None
                keeps one row in twenty of `hidden` from training where these need some.
            sensitivity: (d, d) floats, symmetric and positive semidefinite: what an error of a
                hidden state costs its model, see `bitcodec_transformers.sensitivity`. Errors then
                count so in the share `sensitivity_share`, in training (its FVU, a `target_fvu`)
                and when codes are searched; `evaluate` and reports' errors count as ever. Its
                SHA-256 goes into the provenance.
            checkpoint: a file that keeps the state of training; where it exists, training goes on
                from it and ends as if it had never stopped. It stays after the fit.
            checkpoint_every: steps between two states, and so the most that a crash can lose.
            capture: record a step of training as a CUDA graph and replay it, so that the host
                launches one thing a step; not run on a GPU yet. Where it cannot be done, a log
                line says so and the fit goes on without.

        Returns:
            The codec itself, fitted.

        Warns:
            TrainingWarning: a target was not reached, or the codes are dense, dead or oscillated.

        Raises:
            ConfigError: a parameter is out of range, a dimension is constant, the source can be
                read only once, or codes of this kind cannot weigh errors.
            ShapeError: rank or width is wrong, or there are fewer rows than a minibatch.
            ValueRangeError: a value is not a finite float, or training diverged.
            MismatchError: the checkpoint is of another configuration, sensitivity or data.
            FormatError: the checkpoint is damaged or foreign.
            FileError: another process is training into the checkpoint.
        """
        del y
        settings = CodecConfig.from_dict(self.get_params())
        told = storage.checked_provenance(provenance)
        device = resolve_device(self.device)
        batches, held = HiddenBatches(hidden), None
        if validation is not None:
            held = HiddenBatches(validation, n_dims=batches.n_dims)
        weighing = None
        if sensitivity is not None:
            weighing = Weighing.of(sensitivity, batches, settings, device=device)
            batches = batches.mapped(weighing.weigh)
            held = None if held is None else held.mapped(weighing.weigh)
        batches, measured = _training_and_validation(batches, held, settings)
        kept = None
        if checkpoint is not None:
            digest = "" if weighing is None else weighing.digest
            kept = Checkpoint(checkpoint, every=checkpoint_every, sensitivity=digest)
        with contextlib.nullcontext() if kept is None else kept.alone():
            state = None if kept is None else kept.load(settings)
            trainer = start_training(
                batches,
                settings,
                device=device,
                validation=measured,
                capture=capture,
                weighed=weighing is not None,
            )
            if state is not None:
                trainer.resume(state, batches)
            for record in trainer.run(batches, checkpoint=kept):
                if on_record is not None:
                    on_record(record)
        statistics = trainer.finish(batches)
        settings = dataclasses.replace(settings, entropy_weight=trainer.steering.weight)
        self._trainer, self._settings = None, settings
        self.history_ = trainer.history
        training = dataclasses.asdict(self.history_[-1]) if self.history_ else {}
        model = trainer.model
        if weighing is not None:
            model = weighing.fold(model)
            told["sensitivity_sha256"] = weighing.digest
        self._adopt(model, statistics, told, training=training)
        if settings.side_bytes:
            generator = torch.Generator().manual_seed(settings.seed)
            shuffled = batches.shuffled(settings.batch_size, generator, keep_rest=True)
            self._learn_shrinkage(torch.cat(list(take_rows(shuffled, SHRINKAGE_ROWS))))
        warn_of(trainer, statistics)
        return self

    def partial_fit(self, hidden: HiddenSource, y: object = None) -> Self:
        """Learn from one minibatch: a single step of training.

        The first call on an unfitted codec also takes mean, scale and directions from its rows, so
        give it some thousands. The schedule is that of `n_steps` calls. After each call
        `statistics_` counts the rows of that call.

        Args:
            hidden: an array or tensor (n, d) that is one minibatch.
            y: ignored, for scikit-learn.

        Returns:
            The codec itself.

        Raises:
            As `fit`.
        """
        del y
        width = None if self._packed_coder is None else self.n_dims_
        rows = list(HiddenBatches(hidden, n_dims=width).batches(2**16))
        n_rows = sum(len(part) for part in rows)
        if n_rows < 2:
            raise ShapeError(f"hidden must have at least 2 rows to learn from, got {n_rows}")
        minibatch = torch.cat(rows)
        if self._trainer is None:
            self._trainer = self._start_trainer(minibatch)
        try:
            record = self._trainer.step(minibatch)
        except BaseException:
            self._trainer = None  # its model may be half changed; the codec's own is not
            raise
        self.history_.append(record)
        weight = self._trainer.steering.weight
        self._settings = dataclasses.replace(self._trainer.config, entropy_weight=weight)
        model = self._trainer.model
        codes = PackedCoder(model).encode(minibatch)
        statistics = BitStatistics.empty(model.n_bits).update(codes)
        self._adopt(model, statistics, self.provenance_, training=dataclasses.asdict(record))
        if self.side_bytes_:
            self._learn_shrinkage(minibatch)
        return self

    def recenter(self, hidden: HiddenSource) -> Self:
        """Make a codec for data whose mean is another, everything else as it is.

        A codec fitted on other text gives the documents of one field much alike codes; around
        their own mean they differ. The new codec has its own fingerprint.

        `statistics_` stay those of the fit.

        Args:
            hidden: a source as `fit` takes it, of the rows to be encoded or a sample of them; read
                once.

        Raises:
            NotFittedError: the codec was not fitted.
            ShapeError: the width is not d, or there are no rows.
            ValueRangeError: a value is not a finite float.
        """
        self._coder()
        model = copy.deepcopy(self._model)
        model.mean.copy_(mean_of(HiddenBatches(hidden, n_dims=self.n_dims_).batches(STREAM_ROWS)))
        other = type(self)(**self.get_params())
        other.history_, other._settings = [], self._settings
        told = {**self.provenance_, "recentred": True}
        other._adopt(model, self._counted, told, training=self._training)
        return other

    def _learn_shrinkage(self, rows: torch.Tensor) -> None:
        """Set what makes decoded rows as long, in the mean square, as least error wants.

        An unbiased estimate y of x - m is too long by what it misses: of all multiples k y, the
        one of least squared error has k = sum |x - m|^2 / sum |y|^2.
        """
        rows, mean = rows.cpu(), self._model.mean.cpu()
        decoded = torch.from_numpy(self.decode(self.encode(rows))) - mean  # y, shrunk as it is now
        ratio = (rows - mean).double().square().sum() / decoded.double().square().sum()
        self._model.shrinkage.mul_(self._model.shrinkage * float(ratio))
        self._adopt(self._model, self._counted, self.provenance_, training=self._training)

    def _start_trainer(self, rows: torch.Tensor) -> Trainer:
        if self._packed_coder is not None:  # a fitted codec goes on, at the schedule's end
            settings = CodecConfig.from_dict(self.get_params())
            self._check_goes_on(settings)
            trainer = Trainer(copy.deepcopy(self._model), settings, n_steps_done=settings.n_steps)
            trainer.steering.start_at(self._settings.entropy_weight)
            return trainer
        settings = CodecConfig.from_dict({**self.get_params(), "batch_size": max(2, len(rows))})
        if settings.starts_from_transform(rows.shape[1]):
            raise ConfigError(
                'a transform code does not learn in steps: call fit, or pass start="directions"'
            )
        generator = torch.Generator().manual_seed(settings.seed)
        sample = draw_sample(HiddenBatches(rows), settings, generator)
        model = start_model(
            sample, settings, generator=generator, device=resolve_device(self.device)
        )
        self.history_, self.provenance_, self._settings = [], {}, settings
        return Trainer(model, settings)

    def _check_goes_on(self, settings: CodecConfig) -> None:
        """Raise if a fitted codec cannot learn on under these parameters."""
        if self._model.error_root is not None:
            raise ConfigError(
                "partial_fit does not weigh errors as this codec's fit did: call fit to start anew"
            )
        if (self._model.stages != 0).any():
            raise ConfigError("a transform code does not learn in steps: call fit to start anew")
        n_bits = self.n_bits_ if settings.prune else settings.resolve_n_bits(self.n_dims_)
        now = (n_bits, settings.side_bytes)
        if now != (self.n_bits_, self.side_bytes_):
            raise ConfigError(
                f"partial_fit goes on with {self.n_bits_} bits and {self.side_bytes_} side bytes, "
                f"the parameters now say {now[0]} and {now[1]}: call fit to start anew"
            )


def _training_and_validation(
    batches: HiddenBatches, validation: HiddenBatches | None, settings: CodecConfig
) -> tuple[HiddenBatches, Validation | None]:
    """Return the rows to train on, and those to measure on where something needs them."""
    if validation is not None:
        return batches, Validation(validation, settings)
    if not settings.has_target and settings.patience is None:
        return batches, None
    batches, held = batches.split(one_in=ONE_IN)
    return batches, Validation(held, settings)
