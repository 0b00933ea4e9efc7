"""What a search asks of a codec."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from bitcodec.errors import ConfigError, NotFittedError

if TYPE_CHECKING:
    from bitcodec.scoring import QueryWeights, Side


class Codec(Protocol):
    """The part of a fitted `bitcodec.BitCodec` that a search uses."""

    @property
    def n_bits_(self) -> int:
        """Bits of one code, h."""

    @property
    def row_bytes_(self) -> int:
        """Bytes of one packed row."""

    @property
    def fingerprint_(self) -> str:
        """SHA-256 of the codec's tensors, hex."""

    def encode(self, hidden: Any) -> np.ndarray:
        """Turn (n, d) or (d,) hidden states into (n, row_bytes) or (row_bytes,) uint8."""

    def decode(self, packed: np.ndarray) -> np.ndarray:
        """Turn (n, row_bytes) uint8 into (n, d) float32."""

    def encode_batches(self, source: Any) -> Iterator[np.ndarray]:
        """Encode an array, path or stream of batches as a stream of (b, row_bytes) uint8."""


@runtime_checkable
class ScoringCodec(Codec, Protocol):
    """A codec that can also score packed rows for float queries."""

    @property
    def n_dims_(self) -> int:
        """Width d of the hidden states."""

    def query_weights(self, queries: Any) -> QueryWeights:
        """Turn (q, d) queries into linear functions of a row's bits."""

    def side(self, packed: np.ndarray) -> Side:
        """Give the factors and squared norms of (n, row_bytes) uint8 rows."""


def as_scoring_codec(codec: Codec) -> ScoringCodec:
    """Return a codec that can score.

    Raises:
        ConfigError: it lacks a method for that.
    """
    if not isinstance(codec, ScoringCodec):
        raise ConfigError(
            f"asymmetric scores need a codec with n_dims_, query_weights and side, got "
            f"{type(codec).__name__}: use bitcodec.BitCodec, or search by Hamming distance alone"
        )
    return codec


def check_rows(codec: Codec) -> None:
    """Refuse a codec that makes no rows, or rows too short for its bits.

    Raises:
        NotFittedError: it is not fitted.
        ConfigError: its rows are too short.
    """
    if getattr(codec, "n_bits_", None) is None:
        raise NotFittedError("a search needs a fitted codec: call fit first")
    if codec.row_bytes_ < (codec.n_bits_ + 7) // 8:
        raise ConfigError(
            f"rows of {codec.n_bits_} bits must have at least {(codec.n_bits_ + 7) // 8} bytes, "
            f"got a codec with {codec.row_bytes_}"
        )
