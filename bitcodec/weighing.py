"""Errors weighed by what a language model minds, as coordinates whose squared error they are.

To second order, a model's loss rises by e F eᵀ / 2 when an error e is added to a layer's state, F
the layer's Fisher matrix. In standardised coordinates F becomes S F S, S the diagonal matrix of
standard deviations. An error counts

    M = (1 - w) I + w d S F S / trace(S F S),

a mixture of what a codec counts without knowing the model, and of what the model minds; the first
keeps every direction from being free. With M = R Rᵀ, the error of z is the squared one of z R: a
codec is fitted on z R and R is folded into its weights, so that encoding and decoding cost what
they always do. Only a search of codes needs R again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bitcodec.batches import HiddenBatches
from bitcodec.config import CodecConfig
from bitcodec.errors import ConfigError, ShapeError, ValueRangeError
from bitcodec.model import BinaryAutoencoder
from bitcodec.start import draw_sample

SYMMETRY = 1e-5
"""By how much of its largest entry a sensitivity may differ from its transpose, or of its largest
eigenvalue be negative: what rounding leaves."""


@dataclass(frozen=True)
class Weighing:
    """Coordinates y = z R, in which squared errors are weighed ones.

    Args:
        mean: (d,) float32 on the device of the training.
        scale: (d,) float32 there, 0 for constant dimensions; z = (x - mean) / scale.
        root: R, (d, d) float64 there, symmetric.
        inverse: of R.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    root: torch.Tensor
    inverse: torch.Tensor

    @classmethod
    def of(
        cls,
        sensitivity: np.ndarray,
        batches: HiddenBatches,
        config: CodecConfig,
        *,
        device: torch.device,
    ) -> Weighing:
        """Take mean and scale from hidden states, and the root of the mixture.

        Args:
            sensitivity: F, (d, d) floats, symmetric and positive semidefinite, in the units of
                the hidden states.
            batches: the training data; a random part of it is read.
            config: the sensitivity's share and the scaling of z.
            device: where training is to be.

        Raises:
            ConfigError: codes of this kind cannot weigh errors, or a dimension is constant.
            ShapeError: the sensitivity is not (d, d), or there are fewer rows than a minibatch.
            ValueRangeError: it is not finite, symmetric, positive semidefinite, or is all zeros;
                or a hidden state is not finite.
        """
        _check_weighable(config)
        sample = draw_sample(batches, config, torch.Generator().manual_seed(config.seed))
        units = sample.scale.double().numpy()
        minded = _checked(sensitivity, len(units)) * units[:, None] * units
        trace, share = np.trace(minded), config.sensitivity_share
        if not trace > 0:
            raise ValueRangeError(
                "the sensitivity is 0 in every dimension that varies: pass that of the model and "
                "layer the hidden states are from, or None"
            )
        mixture = (1 - share) * np.eye(len(units)) + share * minded * len(units) / trace
        values, vectors = np.linalg.eigh(mixture)
        roots = np.sqrt(values.clip(min=1 - share))  # rounding aside, no eigenvalue is less
        matrices = ((vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T)
        root, inverse = (torch.from_numpy(matrix).to(device) for matrix in matrices)
        return cls(sample.mean.to(device), sample.scale.to(device), root, inverse)

    @torch.no_grad()
    def weigh(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return y, (n, d) float32 on the weighing's device, of hidden states (n, d)."""
        inverse_scale = torch.where(self.scale > 0, 1 / self.scale, 0.0)
        standardised = (hidden.to(self.mean.device) - self.mean) * inverse_scale
        return standardised @ self.root.float()

    @torch.no_grad()
    def fold(self, fitted: BinaryAutoencoder) -> BinaryAutoencoder:
        """Return the autoencoder of hidden states that is `fitted` on their y.

        Its codes are those of `fitted`, and its decoded rows are those of `fitted` mapped back.

        Args:
            fitted: without side bytes.
        """
        state = fitted.state_dict()
        # y is standardised once more by the fit: y = y_mean + y_scale u, and u is what it encodes.
        y_scale, y_inverse = fitted.scale.double(), fitted.inverse_scale().double()
        encoder = state["encoder_weight"].double() * y_inverse
        decoder = state["decoder_weight"].double() * y_scale @ self.inverse
        offset = fitted.mean.double() + state["decoder_bias"].double() * y_scale
        folded = state | {
            "encoder_weight": encoder @ self.root.T,
            "encoder_bias": state["encoder_bias"].double() - encoder @ fitted.mean.double(),
            "decoder_weight": decoder,
            "decoder_bias": offset @ self.inverse,
            "mean": self.mean,
            "scale": self.scale,
            "error_root": self.root * y_inverse,
        }
        model = BinaryAutoencoder(n_dims=fitted.n_dims, n_bits=fitted.n_bits, weighed=True)
        model.to(self.mean.device).load_state_dict(folded)
        return model


def _checked(sensitivity: np.ndarray, n_dims: int) -> np.ndarray:
    """Return a sensitivity as symmetric float64."""
    given = np.asarray(sensitivity)
    if given.shape != (n_dims, n_dims):
        raise ShapeError(
            f"sensitivity must be ({n_dims}, {n_dims}) as the hidden states are (n, {n_dims}), "
            f"got {given.shape}"
        )
    if given.dtype.kind != "f" or not np.isfinite(given).all():
        raise ValueRangeError(f"sensitivity must be finite floats, got dtype {given.dtype}")
    matrix = given.astype(np.float64)
    symmetric = (matrix + matrix.T) / 2
    off = np.abs(matrix - symmetric).max()
    if off > SYMMETRY * np.abs(matrix).max():
        raise ValueRangeError(
            f"sensitivity must be symmetric, got entries that differ by {2 * off:g} from the "
            "transpose's"
        )
    values = np.linalg.eigvalsh(symmetric)
    if values[0] < -SYMMETRY * values[-1]:
        raise ValueRangeError(
            "sensitivity must be positive semidefinite, as a mean of products of gradients is, got "
            f"an eigenvalue of {values[0]:g}"
        )
    return symmetric


def _check_weighable(config: CodecConfig) -> None:
    if config.side_bytes:
        raise ConfigError(
            f"sensitivity needs side_bytes=0, got {config.side_bytes}: rows with a factor are "
            'brought to one length and scored as they are; fit a preset like "archive"'
        )
    if config.objective == "published":
        raise ConfigError("the published objective takes data as they come: leave sensitivity out")
