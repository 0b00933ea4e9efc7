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

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from bitcodec.batches import HiddenBatches
from bitcodec.config import CodecConfig
from bitcodec.errors import ConfigError, ShapeError, ValueRangeError
from bitcodec.model import BinaryAutoencoder
from bitcodec.start import draw_sample

_ORIGIN = ": pass what bitcodec_transformers.sensitivity returns, or another mean of g gᵀ"
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
        digest: SHA-256 of the sensitivity, hexadecimal.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    root: torch.Tensor
    inverse: torch.Tensor
    digest: str

    @classmethod
    def of(
        cls,
        sensitivity: np.ndarray | torch.Tensor,
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
            ConfigError: codes of this kind cannot weigh errors, a dimension is constant, or the
                data can be read only once.
            ShapeError: the sensitivity is not (d, d), or there are fewer rows than a minibatch.
            ValueRangeError: it is not finite, symmetric, positive semidefinite, or is all zeros;
                or a hidden state is not finite.
        """
        _check_weighable(config)
        batches.require_rereadable()
        matrix = _checked(sensitivity)
        sample = draw_sample(batches, config, torch.Generator().manual_seed(config.seed))
        units = sample.scale.double().cpu().numpy()
        if len(matrix) != len(units):
            raise ShapeError(
                f"sensitivity must be ({len(units)}, {len(units)}) as the hidden states are (n, "
                f"{len(units)}), got {matrix.shape}: measure it on the layer they are from"
            )
        minded = matrix * units[:, None] * units
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
        digest = hashlib.sha256(matrix.astype("<f8").tobytes()).hexdigest()
        return cls(sample.mean.to(device), sample.scale.to(device), root, inverse, digest)

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
            "error_root": self.root * y_inverse,  # an error of u is one of z times this
        }
        model = BinaryAutoencoder(n_dims=fitted.n_dims, n_bits=fitted.n_bits, weighed=True)
        model.to(self.mean.device).load_state_dict(folded)
        return model


def _checked(sensitivity: np.ndarray | torch.Tensor) -> np.ndarray:
    """Return a sensitivity as symmetric float64."""
    given = _as_array(sensitivity)
    if given.ndim != 2 or given.shape[0] != given.shape[1]:
        raise ShapeError(f"sensitivity must be (d, d), got {given.shape}{_ORIGIN}")
    if given.dtype.kind != "f":
        raise ValueRangeError(f"sensitivity must be floats, got dtype {given.dtype}{_ORIGIN}")
    if not np.isfinite(given).all():
        row, column = np.argwhere(~np.isfinite(given))[0]
        value = given[row, column]
        raise ValueRangeError(
            f"sensitivity must be finite, got {value} in row {row}, column {column}{_ORIGIN}"
        )
    matrix = given.astype(np.float64)
    symmetric = (matrix + matrix.T) / 2
    off = 2 * np.abs(matrix - symmetric).max()
    if off > SYMMETRY * np.abs(matrix).max():
        raise ValueRangeError(
            f"sensitivity must be symmetric, got entries that differ by {off:g} from the "
            f"transpose's{_ORIGIN}"
        )
    values = np.linalg.eigvalsh(symmetric)
    if values[0] < -SYMMETRY * values[-1]:
        raise ValueRangeError(
            "sensitivity must be positive semidefinite, got an eigenvalue of "
            f"{values[0]:g}{_ORIGIN}"
        )
    return symmetric


def _as_array(sensitivity: np.ndarray | torch.Tensor) -> np.ndarray:
    if isinstance(sensitivity, torch.Tensor):
        return np.asarray(sensitivity.detach().cpu().double())
    return np.asarray(sensitivity)


def _check_weighable(config: CodecConfig) -> None:
    if config.side_bytes:
        raise ConfigError(
            f"sensitivity needs side_bytes=0, got {config.side_bytes}: rows with a factor are "
            'brought to one length and scored as they are; fit a preset like "archive"'
        )
    if config.objective == "published":
        raise ConfigError("the published objective takes data as they come: leave sensitivity out")
