"""What this adapter asks of a codec."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np


class Codec(Protocol):
    """The part of a fitted `bitcodec.BitCodec` that an index uses."""

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
