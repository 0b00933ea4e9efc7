"""The parameters of a codec as scikit-learn's tools expect them."""

from __future__ import annotations

import inspect
from typing import Any, Self

from bitcodec import presets
from bitcodec.config import (
    CodecConfig,
    ConstantPolicy,
    Objective,
    Precision,
    Refine,
    Scaling,
    Start,
    Surrogate,
)
from bitcodec.errors import ConfigError
from bitcodec.extras import import_extra

_DEFAULT = CodecConfig()


class Parameters:
    """Parameters stored as given and checked when a fit begins.

    Args:
        expansion: bits per dimension; h = round(expansion * d), unless `n_bits` is given.
        n_bits: number of bits h of a code.
        target_bits: bits a coded row is to take; training steers `entropy_weight` to it.
        target_fvu: fraction of variance unexplained to end at, instead of `target_bits`.
        objective: what is minimised: "standard", or "published" for the paper's code's.
        entropy_weight: beta, the fraction of variance worth one bit of entropy per dimension;
            0 gives dense codes.
        covariance_weight: gamma, the weight of the mean absolute covariance of two bits.
        covariance_columns: columns of the covariance sampled at a step; None for all.
        scaling: divide by each "dimension"'s standard deviation, or by one "global" number that
            keeps the order of distances.
        sensitivity_share: share of what a model minds in an error, where `fit` is told.
        start: "directions" to train from data directions, "transform" for binary digits of
            principal components, "auto" to choose.
        side_bytes: bytes beside a row's bits: 0, 2 for an unbiasing factor, 4 for that and a norm.
        initial_activity: the share of rows in which each bit starts on.
        surrogate: the gradient that stands in for the step's: "sigmoid", "clipped", "gumbel",
            "identity" or "published".
        temperature: width of the surrogate.
        final_temperature: width at the end of training; None keeps `temperature`.
        learning_rate: Adam's largest rate.
        gradient_clip: largest norm of a step's gradient; None for no limit.
        precision: of the products of training: "float32" or "bfloat16".
        revive: give bits that died in training, or double others, a new start.
        pull: pull the encoder towards searched codes after training.
        prune: drop the bits that do not earn their price after training.
        patience: validations without a better one after which training stops; None never does.
        batch_size: rows of a minibatch.
        n_steps: minibatches of training.
        refine: how long encoding searches after the linear pass: "none", "fast" or "best".
        compute: of the products of encoding and decoding: "float32" or "bfloat16".
        refine_rounds: alternations of searching codes and refitting the decoder after training.
        constant: "refuse" data with dimensions that never vary, or "keep" their value.
        seed: of everything random in the fit.
        device: a torch device; "auto" is CUDA where there is one, else the CPU.
    """

    def __init__(
        self,
        *,
        expansion: float = _DEFAULT.expansion,
        n_bits: int | None = _DEFAULT.n_bits,
        target_bits: float | None = _DEFAULT.target_bits,
        target_fvu: float | None = _DEFAULT.target_fvu,
        objective: Objective = _DEFAULT.objective,
        entropy_weight: float = _DEFAULT.entropy_weight,
        covariance_weight: float = _DEFAULT.covariance_weight,
        covariance_columns: int | None = _DEFAULT.covariance_columns,
        scaling: Scaling = _DEFAULT.scaling,
        sensitivity_share: float = _DEFAULT.sensitivity_share,
        start: Start = _DEFAULT.start,
        side_bytes: int = _DEFAULT.side_bytes,
        initial_activity: float = _DEFAULT.initial_activity,
        surrogate: Surrogate = _DEFAULT.surrogate,
        temperature: float = _DEFAULT.temperature,
        final_temperature: float | None = _DEFAULT.final_temperature,
        learning_rate: float = _DEFAULT.learning_rate,
        gradient_clip: float | None = _DEFAULT.gradient_clip,
        precision: Precision = _DEFAULT.precision,
        revive: bool = _DEFAULT.revive,
        pull: bool = _DEFAULT.pull,
        prune: bool = _DEFAULT.prune,
        patience: int | None = _DEFAULT.patience,
        batch_size: int = _DEFAULT.batch_size,
        n_steps: int = _DEFAULT.n_steps,
        refine: Refine = _DEFAULT.refine,
        compute: Precision = _DEFAULT.compute,
        refine_rounds: int = _DEFAULT.refine_rounds,
        constant: ConstantPolicy = _DEFAULT.constant,
        seed: int = _DEFAULT.seed,
        device: str = _DEFAULT.device,
    ) -> None:
        self.expansion = expansion
        self.n_bits = n_bits
        self.target_bits = target_bits
        self.target_fvu = target_fvu
        self.objective = objective
        self.entropy_weight = entropy_weight
        self.covariance_weight = covariance_weight
        self.covariance_columns = covariance_columns
        self.scaling = scaling
        self.sensitivity_share = sensitivity_share
        self.start = start
        self.side_bytes = side_bytes
        self.initial_activity = initial_activity
        self.surrogate = surrogate
        self.temperature = temperature
        self.final_temperature = final_temperature
        self.learning_rate = learning_rate
        self.gradient_clip = gradient_clip
        self.precision = precision
        self.revive = revive
        self.pull = pull
        self.prune = prune
        self.patience = patience
        self.batch_size = batch_size
        self.n_steps = n_steps
        self.refine = refine
        self.compute = compute
        self.refine_rounds = refine_rounds
        self.constant = constant
        self.seed = seed
        self.device = device

    @classmethod
    def preset(cls, name: str, **parameters: Any) -> Self:
        """Build an unfitted codec for a purpose.

        Args:
            name: "archive" for sparse codes of low entropy (the defaults), "search" for dense
                codes whose asymmetric scores rank best, "hamming" for dense codes whose Hamming
                distance ranks well, "features" for bits that each stand for one thing, "paper" for
                the recipe of arXiv 2509.20997, "published" for that of its code.
            **parameters: parameters that differ from the preset's.

        Raises:
            ConfigError: there is no such preset.
        """
        return cls(**{**presets.preset(name), **parameters})

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name, as scikit-learn asks for them."""
        del deep  # there are no nested estimators
        return {name: getattr(self, name) for name in self._parameter_names()}

    def set_params(self, **parameters: Any) -> Self:
        """Set parameters by name.

        Raises:
            ConfigError: a name is unknown.
        """
        for name, value in parameters.items():
            if name not in self._parameter_names():
                known = ", ".join(self._parameter_names())
                raise ConfigError(f"unknown parameter {name!r}: known are {known}")
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn, which alone calls this, that a codec is a transformer."""
        utils = import_extra("sklearn.utils", extra="dev")
        return utils.Tags(
            estimator_type="transformer",
            target_tags=utils.TargetTags(required=False),
            transformer_tags=utils.TransformerTags(),
        )

    def __repr__(self) -> str:
        """Show the parameters that differ from the defaults."""
        changed = {
            name: value
            for name, value in self.get_params().items()
            if value != getattr(_DEFAULT, name)
        }
        return f"BitCodec({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    @classmethod
    def _parameter_names(cls) -> list[str]:
        return [
            name for name in inspect.signature(Parameters.__init__).parameters if name != "self"
        ]
