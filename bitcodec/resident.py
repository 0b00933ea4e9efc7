"""Codes and hidden states that stay on the device where they are computed."""

from __future__ import annotations

import torch

from bitcodec.batches import check_finite, check_floating, to_float32
from bitcodec.bits import row_bytes
from bitcodec.coder import PackedCoder
from bitcodec.errors import ConfigError, ShapeError, ValueRangeError
from bitcodec.fitted import FittedCodec


class ResidentCodec(FittedCodec):
    """Encode and decode tensors without a way through the host's memory."""

    def encode_on_device(self, hidden: torch.Tensor) -> torch.Tensor:
        """Encode hidden states into packed rows that stay on the codec's device.

        These are the codes of the linear pass, `encode(hidden, refine="none")`.

        Args:
            hidden: (n, d) floats on any device.

        Returns:
            (n, ceil(h / 8)) uint8 on the codec's device, bits least significant first.

        Raises:
            NotFittedError: the codec was not fitted.
            ConfigError: the codec's rows have side bytes.
            ShapeError: the shape is another.
            ValueRangeError: a value is not a finite float.
        """
        coder = self._resident_coder()
        self._check_tensor(hidden, self.n_dims_, name="hidden")
        check_floating(hidden)
        rows = to_float32(hidden)
        check_finite(rows)
        return coder.encode_on_device(rows)

    def decode_on_device(self, packed: torch.Tensor) -> torch.Tensor:
        """Decode packed rows into hidden states that stay on the codec's device.

        Args:
            packed: (n, ceil(h / 8)) uint8 on any device.

        Returns:
            (n, d) float32 on the codec's device.

        Raises:
            NotFittedError: the codec was not fitted.
            ConfigError: the codec's rows have side bytes.
            ShapeError: the shape is another.
            ValueRangeError: the dtype is not uint8, or a pad bit is set.
        """
        coder = self._resident_coder()
        self._check_tensor(packed, row_bytes(self.n_bits_), name="packed")
        if packed.dtype != torch.uint8:
            raise ValueRangeError(
                f"packed must be uint8, got {packed.dtype}: pass the packed bytes"
            )
        spare = -self.n_bits_ % 8
        if spare and bool((packed[:, -1] >> (8 - spare)).any()):
            raise ValueRangeError(
                f"a pad bit is set beyond bit {self.n_bits_ - 1}: the rows have another bit count "
                "or another bit order"
            )
        return coder.decode_on_device(packed)

    def _resident_coder(self) -> PackedCoder:
        coder = self._coder()
        if self.side_bytes_:
            raise ConfigError(
                f"rows with {self.side_bytes_} side bytes are made on the host: use encode and "
                "decode, or a codec with side_bytes=0"
            )
        return coder

    def _check_tensor(self, rows: torch.Tensor, width: int, *, name: str) -> None:
        if not isinstance(rows, torch.Tensor) or rows.ndim != 2 or rows.shape[1] != width:
            got = tuple(rows.shape) if isinstance(rows, torch.Tensor) else type(rows).__name__
            raise ShapeError(
                f"{name} must be a tensor (n, {width}), got {got}: this codec has "
                f"{self.n_dims_} dimensions and {self.n_bits_} bits"
            )
