"""The parameters of a codec and of its training."""

from __future__ import annotations

import dataclasses
import math
import numbers
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np

from bitcodec.errors import ConfigError

Surrogate = Literal["sigmoid", "clipped", "gumbel", "identity", "published"]
Objective = Literal["standard", "published"]
Precision = Literal["float32", "bfloat16"]
ConstantPolicy = Literal["refuse", "keep"]
Scaling = Literal["dimension", "global"]
Refine = Literal["none", "fast", "best"]
Start = Literal["auto", "directions", "transform"]
SIDE_BYTES = (0, 2, 4)
TRANSFORM_EXPANSION = 3.0
"""Dense bits per dimension from which a transform code has less error than a trained dictionary: on
SmolLM2's hidden states the dictionary was ahead at 2, the transform code at 4."""


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """Everything that decides what a fit makes of its data."""

    expansion: float = 4.0
    """Bits per dimension: h = round(expansion * d), unless `n_bits` is given."""
    n_bits: int | None = None
    """Number of bits h of a code."""
    target_bits: float | None = None
    """Bits a coded row is to take: training steers `entropy_weight` to it, from its value here."""
    target_fvu: float | None = None
    """Fraction of variance unexplained to end at, instead of `target_bits`."""
    objective: Objective = "standard"
    """What is minimised: "standard" as in `bitcodec.losses`; "published" as in the code of
    arXiv 2509.20997, on data as they come, with weights and start of its own."""
    entropy_weight: float = 0.4
    """beta: the fraction of variance worth one bit of entropy per dimension. By rate-distortion
    theory a wanted FVU of D asks for about 1.4 D. 0 gives dense codes."""
    covariance_weight: float = 10.0
    """gamma: weight of the mean absolute covariance of two different bits."""
    covariance_columns: int | None = 256
    """Columns of the covariance sampled at a step; None for all."""
    scaling: Scaling = "dimension"
    """Divide by each dimension's standard deviation, so that all count alike, or by one number, so
    that distances keep their order: what search wants."""
    sensitivity_share: float = 0.5
    """Share of what the model minds in what an error counts, where `fit` is given a sensitivity;
    the rest is the squared error. At least 0 and below 1."""
    start: Start = "auto"
    """Where a codec comes from: "directions" trains bits that start as thresholds along data
    directions; "transform" spells the principal components of the data in binary digits, without
    training; "auto" is "transform" for dense codes of at least 3 bits per dimension."""
    side_bytes: int = 0
    """Bytes beside the bits of each row: 0; 2 for the factor that makes inner products unbiased; 4
    for that and the norm. With a factor, rows are brought to one length before they are coded."""
    initial_activity: float = 0.05
    """The share of rows in which each bit starts on; in (0, 1)."""
    surrogate: Surrogate = "sigmoid"
    """The gradient that stands in for the step's."""
    temperature: float = 0.5
    """Width of the surrogate, in standard deviations of the initial logits."""
    final_temperature: float | None = None
    """Width at the end of training, approached geometrically; None keeps `temperature`."""
    learning_rate: float = 5e-3
    """Adam's largest rate, for data of unit variance."""
    gradient_clip: float | None = None
    """Largest norm of a step's gradient; None for no limit."""
    precision: Precision = "float32"
    """Of the products of training; weights, sums and everything after it are float32."""
    revive: bool = True
    """Give bits that died in training, or in the searches after it, and bits that double others, a
    new start."""
    pull: bool = False
    """Pull the encoder towards searched codes after training, so that the linear pass comes near
    them. Codes are then searched in training even where `refine` is "none"."""
    prune: bool = False
    """Drop the bits that do not earn their price after training; `n_bits_` says what is left."""
    patience: int | None = None
    """Stop training after this many validations without a better one; None never stops early."""
    batch_size: int = 512
    """Rows of a minibatch; entropy and covariance are those of the minibatch."""
    n_steps: int = 1000
    """Minibatches of training."""
    refine: Refine = "fast"
    """How long encoding searches for a better code after the linear pass, unless told otherwise.
    Codes that are compared by Hamming distance want "none"."""
    compute: Precision = "float32"
    """Of the products of encoding and decoding. "bfloat16" is faster where the processor has it;
    of sparse codes it changes one bit in some thousands, of dense ones one in a hundred."""
    refine_rounds: int = 3
    """Alternations of searching codes and refitting the decoder after training; they need a
    `refine` other than "none", or `pull`."""
    constant: ConstantPolicy = "refuse"
    """Dimensions that never vary: refuse the data, or keep their value in the codec. Those that
    vary by float32's rounding alone, beside the others, keep their mean; a log line says so."""
    seed: int = 0
    """Seed of everything random in the fit."""
    device: str = "auto"
    """A torch device; "auto" is CUDA where there is one, else the CPU."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _plain(field, getattr(self, field.name)))
        _require(self.expansion > 0, "expansion", "positive", self.expansion)
        _require(self.n_bits is None or self.n_bits >= 1, "n_bits", "at least 1", self.n_bits)
        _require(self.entropy_weight >= 0, "entropy_weight", "at least 0", self.entropy_weight)
        _require(
            self.covariance_weight >= 0, "covariance_weight", "at least 0", self.covariance_weight
        )
        _require(
            self.covariance_columns is None or self.covariance_columns >= 1,
            "covariance_columns",
            "at least 1, or None for all",
            self.covariance_columns,
        )
        _require(
            0 < self.initial_activity < 1,
            "initial_activity",
            "between 0 and 1",
            self.initial_activity,
        )
        _require(self.temperature > 0, "temperature", "positive", self.temperature)
        _require(
            self.final_temperature is None or self.final_temperature > 0,
            "final_temperature",
            "positive, or None for no schedule",
            self.final_temperature,
        )
        _require(self.learning_rate > 0, "learning_rate", "positive", self.learning_rate)
        _require(
            self.gradient_clip is None or self.gradient_clip > 0,
            "gradient_clip",
            "positive, or None for no limit",
            self.gradient_clip,
        )
        _require(
            self.patience is None or self.patience >= 1,
            "patience",
            "at least 1, or None",
            self.patience,
        )
        self._check_targets()
        if self.objective == "published" and (self.prune or self.pull):
            raise ConfigError("prune and pull need the standard objective")
        if self.pull and self.refine_rounds == 0:
            raise ConfigError("pull imitates searched codes: it needs refine_rounds of at least 1")
        _require(self.batch_size >= 2, "batch_size", "at least 2", self.batch_size)
        _require(
            0 <= self.sensitivity_share < 1,
            "sensitivity_share",
            "at least 0 and below 1",
            self.sensitivity_share,
        )
        _require(self.n_steps >= 1, "n_steps", "at least 1", self.n_steps)
        _require(0 <= self.seed < 2**63, "seed", "at least 0 and below 2^63", self.seed)
        _require(self.refine_rounds >= 0, "refine_rounds", "at least 0", self.refine_rounds)
        _require(self.side_bytes in SIDE_BYTES, "side_bytes", "0, 2 or 4", self.side_bytes)
        _require_choice(self.start, "start", get_args(Start))
        _require_choice(self.refine, "refine", get_args(Refine))
        _require_choice(self.scaling, "scaling", get_args(Scaling))
        _require_choice(self.surrogate, "surrogate", get_args(Surrogate))
        _require_choice(self.objective, "objective", get_args(Objective))
        _require_choice(self.precision, "precision", get_args(Precision))
        _require_choice(self.compute, "compute", get_args(Precision))
        _require_choice(self.constant, "constant", get_args(ConstantPolicy))

    def _check_targets(self) -> None:
        """Raise if a wish for a rate or an error cannot be granted by any training."""
        if not self.has_target:
            return
        if self.target_bits is not None and self.target_fvu is not None:
            raise ConfigError("target_bits and target_fvu exclude each other: pass one of them")
        if self.target_bits is not None:
            _require(self.target_bits > 0, "target_bits", "above 0", self.target_bits)
            if self.n_bits is not None and self.target_bits > self.n_bits:
                raise ConfigError(
                    f"target_bits must be at most the {self.n_bits} bits of a code, "
                    f"got {self.target_bits}"
                )
        if self.target_fvu is not None:
            _require(0 < self.target_fvu < 1, "target_fvu", "above 0 and below 1", self.target_fvu)
        _require(self.side_bytes == 0, "side_bytes", "0 with a target", self.side_bytes)
        if self.patience is not None:
            raise ConfigError(
                "patience compares models at one entropy_weight, which a target moves: pass one of "
                "the two"
            )
        if self.entropy_weight == 0 or self.start == "transform" or self.objective == "published":
            raise ConfigError(
                "a target steers the entropy's weight in training: it needs an entropy_weight "
                'above 0, a start that is not "transform" and the standard objective'
            )

    @property
    def search_effort(self) -> Refine:
        """How long codes are searched in training: "none" where they are not."""
        if self.refine_rounds == 0 or (self.refine == "none" and not self.pull):
            return "none"
        return "fast" if self.refine == "none" else self.refine

    @property
    def has_target(self) -> bool:
        """Whether training is to steer to a rate or an error."""
        return self.target_bits is not None or self.target_fvu is not None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build a configuration from names and values, as `to_dict` gives them.

        Raises:
            ConfigError: a name is unknown or a value is out of range or of another type.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"parameters must be an object, got {type(values).__name__}")
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigError(f"unknown parameter {unknown[0]!r}: known are {', '.join(known)}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"a parameter has the wrong type: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as JSON-ready names and values."""
        return dataclasses.asdict(self)

    def resolve_n_bits(self, n_dims: int) -> int:
        """Return h for hidden states of `n_dims` dimensions, at least 1."""
        return self.n_bits if self.n_bits is not None else max(1, round(self.expansion * n_dims))

    def starts_from_transform(self, n_dims: int) -> bool:
        """Say whether the codec of hidden states of `n_dims` dimensions is a transform code."""
        if self.start != "auto":
            return self.start == "transform"
        dense = self.entropy_weight == 0
        return dense and self.resolve_n_bits(n_dims) >= TRANSFORM_EXPANSION * n_dims


def _plain(field: dataclasses.Field[Any], value: Any) -> Any:
    """Return a number as Python's own, so that it can be compared and written as JSON."""
    kind = str(field.type)
    if kind.endswith(" | None") and value is None:
        return None
    kind = kind.removesuffix(" | None")
    if kind == "bool" and not isinstance(value, (bool, np.bool_)):
        raise ConfigError(f"{field.name} must be True or False, got {value!r}")
    if kind not in ("int", "float"):
        return value
    if kind == "float":
        if isinstance(value, numbers.Real) and _is_finite(value):
            return float(value)
        raise ConfigError(f"{field.name} must be a finite number, got {value!r}")
    if isinstance(value, numbers.Integral):
        return int(value)
    raise ConfigError(f"{field.name} must be a whole number, got {value!r}")


def _is_finite(value: numbers.Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float reaches
        return False


def _require(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise ConfigError(f"{name} must be {expected}, got {got}")


def _require_choice(value: object, name: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
