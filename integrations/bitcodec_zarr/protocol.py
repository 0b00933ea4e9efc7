"""What an archive asks of a codec."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from bitcodec.config import Precision
from bitcodec.statistics import BitStatistics


class Codec(Protocol):
    """The part of a fitted `bitcodec.BitCodec` that an archive uses."""

    @property
    def n_bits_(self) -> int:
        """Bits of one code, h."""

    @property
    def side_bytes_(self) -> int:
        """Bytes of one packed row after those of its bits: 0, 2 or 4."""

    @property
    def compute(self) -> Precision:
        """Precision of the products that make codes."""

    @property
    def fingerprint_(self) -> str:
        """SHA-256 of the codec's tensors, hex."""

    @property
    def statistics_(self) -> BitStatistics:
        """Counts of the bits on the rows of the fit."""

    def decode(self, packed: np.ndarray) -> np.ndarray:
        """Turn (n, row_bytes) uint8, side bytes included, into (n, d) float32."""
