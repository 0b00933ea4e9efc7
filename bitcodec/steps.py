"""A step of training as work that a device does without asking the host for anything."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bitcodec import objective, schedule
from bitcodec.config import CodecConfig
from bitcodec.descent import Descent
from bitcodec.model import BinaryAutoencoder
from bitcodec.parallel import own_rows
from bitcodec.replay import Recorder, Replay


@dataclass(frozen=True)
class Seen:
    """What a step saw of its minibatch; recorded steps write to the same memory each time."""

    standardised: torch.Tensor
    """z, (b, d), this process's rows."""
    terms: objective.Terms
    """The parts of the loss."""
    numbers: torch.Tensor
    """(4,) float32: loss, FVU, entropy, covariance."""


class Step:
    """Gradient descent on one minibatch after another.

    Whatever changes from step to step is written to buffers on the device first. The rest is the
    same work each time, run as it stands or, given a recorder, recorded and replayed.

    Args:
        model: the autoencoder, changed in place.
        config: weights, rate and schedule.
        noise: of a stochastic surrogate, on the model's device.
        recorder: of the device; None to run every step as it stands.
    """

    def __init__(
        self,
        model: BinaryAutoencoder,
        config: CodecConfig,
        *,
        noise: torch.Generator,
        recorder: Recorder | None = None,
    ) -> None:
        self._model, self._config, self._noise = model, config, noise
        self._descent = Descent(model, config, recorded=recorder is not None)
        self._recorder = recorder
        self._replay: Replay[Seen] | None = None
        self._inputs: dict[str, torch.Tensor] = {}

    def __call__(
        self,
        hidden: torch.Tensor,
        *,
        columns: torch.Tensor | None,
        entropy_weight: float,
        n_steps_done: int,
    ) -> Seen:
        """Learn from one minibatch; where its loss is not finite, the weights stay.

        Args:
            hidden: (b, d) float32; of several processes, each learns from its part.
            columns: of the covariance, as `objective.draw_columns` returns them.
            entropy_weight: beta as it is now.
            n_steps_done: where in the schedule this is.

        Raises:
            ConfigError: the rows do not divide among the processes.
        """
        config, progress = self._config, n_steps_done / self._config.n_steps
        weights = objective.weights_at(
            config,
            n_bits=self._model.n_bits,
            n_dims=self._model.n_dims,
            entropy_weight=entropy_weight,
            progress=progress,
        )
        settings = [weights.entropy, weights.covariance, schedule.temperature(config, progress)]
        inputs = {"hidden": own_rows(hidden), "settings": torch.tensor(settings)}
        self._put(inputs if columns is None else {**inputs, "columns": columns})
        self._descent.set_rate(n_steps_done)
        return self._work() if self._replay is None else self._replay()

    def forget(self, bits: torch.Tensor) -> None:
        """Forget what was learned of the gradients of some bits, (h,) bool."""
        self._descent.forget(bits)

    def state(self) -> dict[str, torch.Tensor]:
        """Return what the next step depends on, besides the weights."""
        return self._descent.state()

    def take(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from a state."""
        self._descent.take(state)
        self._inputs, self._replay = {}, None  # a recording would go on with the old moments

    def _put(self, inputs: dict[str, torch.Tensor]) -> None:
        device = self._model.mean.device
        if self._recorder is None:
            self._inputs = {name: value.to(device) for name, value in inputs.items()}
            return
        shapes = {name: value.shape for name, value in inputs.items()}
        if shapes != {name: value.shape for name, value in self._inputs.items()}:
            self._inputs = {
                name: torch.empty_like(value, device=device) for name, value in inputs.items()
            }
            self._replay = Replay(self._work, self._recorder)
        for name, value in inputs.items():
            self._inputs[name].copy_(value, non_blocking=True)

    def _work(self) -> Seen:
        entropy, covariance, temperature = self._inputs["settings"].unbind()
        standardised = self._model.standardise(self._inputs["hidden"])
        terms = objective.measure(
            self._model,
            standardised,
            self._config,
            temperature=temperature,
            columns=self._inputs.get("columns"),
            noise=self._noise,
        )
        loss = objective.total(terms, objective.Weights(entropy, covariance))
        self._descent.step(loss)
        seen = loss, terms.fvu, terms.entropy, terms.covariance
        numbers = torch.stack([number.detach().float() for number in seen])
        return Seen(standardised, _without_graph(terms), numbers)


def _without_graph(terms: objective.Terms) -> objective.Terms:
    """Return terms that keep nothing of what their gradients were computed with."""
    return objective.Terms(**{name: value.detach() for name, value in vars(terms).items()})
