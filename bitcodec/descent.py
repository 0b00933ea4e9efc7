"""Gradient descent with Adam: rates, clipping, averaging over processes, a state to save."""

from __future__ import annotations

import torch

from bitcodec import schedule
from bitcodec.config import CodecConfig
from bitcodec.model import BinaryAutoencoder
from bitcodec.parallel import average_gradients

MOMENTS = ("exp_avg", "exp_avg_sq")
STANDARD_BETAS, PUBLISHED_BETAS = (0.9, 0.99), (0.9, 0.999)


class Descent:
    """Adam on one model's weights.

    Args:
        model: the autoencoder, changed in place.
        config: rate, clipping, objective.
        recorded: steps will be recorded and replayed: the rate is then read from the device.
    """

    def __init__(
        self, model: BinaryAutoencoder, config: CodecConfig, *, recorded: bool = False
    ) -> None:
        self._model, self._config = model, config
        self._weights = list(model.parameters())
        published, device = config.objective == "published", model.mean.device
        rate: float | torch.Tensor = config.learning_rate
        if recorded:  # each device's kernel reads one type only
            kind = torch.float32 if device.type == "cuda" else torch.float64
            rate = torch.tensor(rate, dtype=kind, device=device)
        self._adam = torch.optim.Adam(
            self._weights,
            lr=rate,
            betas=PUBLISHED_BETAS if published else STANDARD_BETAS,
            fused=True,
            capturable=recorded and device.type == "cuda",
        )

    def set_rate(self, n_steps_done: int) -> None:
        """Set the rate of the next step."""
        rate, group = schedule.learning_rate(self._config, n_steps_done), self._adam.param_groups[0]
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate

    def step(self, loss: torch.Tensor) -> None:
        """Change the weights by one step against the gradient of a loss, if that is finite."""
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self._weights)
        if self._config.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self._weights, self._config.gradient_clip)
        # As torch.amp.GradScaler does: where this is 1, fused Adam leaves everything as it was.
        self._adam.found_inf = (~torch.isfinite(loss.detach())).float()  # type: ignore[attr-defined]
        self._adam.step()

    def forget(self, bits: torch.Tensor) -> None:
        """Forget what was learned of the gradients of some bits, (h,) bool."""
        model = self._model
        for weight in (model.encoder_weight, model.encoder_bias, model.decoder_weight):
            for name in MOMENTS:
                self._adam.state[weight][name][bits] = 0

    def state(self) -> dict[str, torch.Tensor]:
        """Return what the next step depends on, besides the weights."""
        return {
            f"{index}.{name}": self._adam.state[weight][name]
            for index, weight in enumerate(self._weights)
            for name in (*MOMENTS, "step")
        }

    def take(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from a state."""
        for index, weight in enumerate(self._weights):
            self._adam.state[weight] = {
                name: state[f"{index}.{name}"].to(weight.device) for name in (*MOMENTS, "step")
            }
