"""Single features of a codec switched on or off while a model runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from bitcodec.errors import ConfigError, ShapeError, ValueRangeError
from bitcodec_transformers.causal import edited
from bitcodec_transformers.forward import check_layers, find_blocks
from bitcodec_transformers.models import LanguageModel


class FeatureCodec(Protocol):
    """What `switched` needs of a codec; a fitted `BitCodec` has it."""

    n_dims_: int
    """Width d of the hidden states."""
    n_bits_: int
    """Number of features h."""
    side_bytes_: int
    """0, so that a feature adds the same direction to every row."""

    def encode_bits(self, hidden: np.ndarray, *, refine: Any = None) -> np.ndarray:
        """Encode (n, d) into (n, h) uint8, values 0 or 1."""

    def query_weights(self, queries: np.ndarray) -> Any:
        """Give (q, h) `weights`, what each bit adds to the inner product with a query."""


@dataclass
class SwitchCounts:
    """What happened while features were switched; the model's passes add to it."""

    n_rows: int = 0
    """States seen, padding included."""
    n_changed: int = 0
    """States that were changed."""
    n_massive: int = 0
    """States left as they are for their norm."""


def feature_directions(codec: FeatureCodec, features: Any) -> np.ndarray:
    """Return what switching a feature on adds to a hidden state.

    Args:
        codec: a fitted codec without side bytes.
        features: k numbers of features.

    Returns:
        (k, d) float32, rows of the decoder in the units of the hidden states.

    Raises:
        ConfigError: the codec has side bytes, which scale every row by a factor of its own.
        ValueRangeError: there is no such feature.
    """
    numbers = np.asarray(features, dtype=np.int64)
    if codec.side_bytes_:
        raise ConfigError(
            f"the codec must have no side bytes, got {codec.side_bytes_}: its features add "
            "another direction to every row; fit it with side_bytes=0"
        )
    wrong = numbers[(numbers < 0) | (numbers >= codec.n_bits_)]
    if len(wrong):
        raise ValueRangeError(
            f"features must be between 0 and {codec.n_bits_ - 1}, got {int(wrong[0])}"
        )
    weights = codec.query_weights(np.eye(codec.n_dims_, dtype=np.float32)).weights
    directions: np.ndarray = np.ascontiguousarray(weights[:, numbers].T, dtype=np.float32)
    return directions


@contextlib.contextmanager
def switched(
    model: LanguageModel,
    codec: FeatureCodec,
    *,
    layer: int,
    features: Mapping[int, bool],
    median_norm: float,
    massive: float = 10.0,
    refine: Any = None,
) -> Iterator[SwitchCounts]:
    """Hold features of a codec on or off at a layer while the context lasts.

    Every state x that the layer puts out is encoded. Where a feature's bit is not the wanted one,
    its direction is added (to switch it on) or taken away (off): x + sum_j (wanted_j - b_j) v_j,
    with v_j the feature's decoder row in the units of the states. What the codec does not
    reconstruct of x stays as it was, and a state whose bits are as wanted is not touched at all.
    Massive states, such as that of the first token in most layers, are left alone, for a codec is
    not fitted on them.

    Args:
        model: any model with blocks; its forward passes and its `generate` are changed.
        codec: fitted on states of this layer, without side bytes.
        layer: the block, from 0.
        features: for each feature whether it is to be on.
        median_norm: the layer's median norm, which a harvest knows.
        massive: a state is massive when its norm exceeds this many times the median.
        refine: how long to search for the codes, as in the codec's `encode_bits`.

    Yields:
        Counts of the states seen and changed.

    Raises:
        ConfigError: the layer is beyond the model, the median is no positive number, or the codec
            has side bytes.
        ShapeError: the codec is of another width than the model.
        ValueRangeError: there is no such feature, none was named, or one is to be neither on nor
            off.
    """
    switch = _Switch(
        model, codec, features=features, limit=massive * _positive(median_norm), refine=refine
    )
    blocks = find_blocks(model.model)
    check_layers([layer], n_layers=len(blocks))
    with edited(blocks[layer], switch.edit):
        yield switch.counts


class _Switch:
    """The change of a block's output."""

    def __init__(
        self,
        model: LanguageModel,
        codec: FeatureCodec,
        *,
        features: Mapping[int, bool],
        limit: float,
        refine: Any,
    ) -> None:
        if codec.n_dims_ != model.n_dims:
            raise ShapeError(
                f"the codec must be of {model.n_dims} dimensions, the width of {model.name!r}, "
                f"got one fitted on {codec.n_dims_}"
            )
        if not features:
            raise ValueRangeError("features must name at least one feature, got none")
        if odd := {number: on for number, on in features.items() if on not in (False, True)}:
            raise ValueRangeError(f"features must be held on or off, True or False, got {odd}")
        self._numbers = list(features)
        self._wanted = np.array([bool(on) for on in features.values()], dtype=np.float32)
        self._directions = feature_directions(codec, self._numbers)
        self._codec, self._limit, self._refine = codec, limit, refine
        self.counts = SwitchCounts()

    def edit(self, states: torch.Tensor) -> torch.Tensor:
        """Return (b, t, d) states with the features as wanted."""
        rows = states.detach().reshape(-1, states.shape[-1])
        hidden = rows.float().cpu().numpy()
        massive = np.linalg.norm(hidden, axis=1) > self._limit
        free = np.flatnonzero(~massive)
        flips = np.zeros((len(hidden), len(self._numbers)), dtype=np.float32)
        if len(free):
            bits = self._codec.encode_bits(hidden[free], refine=self._refine)
            flips[free] = self._wanted - bits[:, self._numbers]
        changed = np.flatnonzero(flips.any(axis=1))
        self.counts.n_rows += len(hidden)
        self.counts.n_massive += int(massive.sum())
        self.counts.n_changed += len(changed)
        if len(changed) == 0:
            return states
        moved = rows.clone()
        new = hidden[changed] + flips[changed] @ self._directions
        moved[torch.from_numpy(changed).to(moved.device)] = torch.from_numpy(new).to(moved)
        return moved.reshape(states.shape)


def _positive(median_norm: float) -> float:
    if not isinstance(median_norm, int | float | np.number) or not median_norm > 0:
        raise ConfigError(f"median_norm must be a number above 0, got {median_norm!r:.80}")
    return float(median_norm)
