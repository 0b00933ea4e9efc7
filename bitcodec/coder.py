"""Encoding to packed bytes and back: one product, one comparison, one packing."""

from __future__ import annotations

import numpy as np
import torch

from bitcodec.bits import check_packed, pack, unpack
from bitcodec.model import BinaryAutoencoder
from bitcodec.refine import Effort, Refiner

CPU_CHUNK_ROWS = 512
"""Rows at a time on the CPU, so that logits and bits stay in cache."""
GPU_CHUNK_ROWS = 2**14
"""Rows at a time on other devices."""


class PackedCoder:
    """A trained autoencoder as maps between hidden states and packed rows.

    The scale is folded into the weights and the encoder bias into the threshold. The mean is
    subtracted from the input instead of folded: folded, a large mean would cancel against the
    bias and cost float32 digits.

    Args:
        model: the autoencoder; later changes of it have no effect here.

    Objects are read-only after construction, so threads may share one.
    """

    def __init__(self, model: BinaryAutoencoder) -> None:
        self.n_bits = model.n_bits
        with torch.no_grad():
            self._mean = model.mean.clone()
            self._inverse_scale = model.inverse_scale()
            self._encoder = (model.encoder_weight * model.inverse_scale()).T.contiguous()
            self._threshold = -model.encoder_bias
            self._decoder = (model.decoder_weight * model.scale).contiguous()
            self._offset = model.decoder_bias * model.scale + model.mean
        on_cpu = self._mean.device.type == "cpu"
        self._chunk_rows = CPU_CHUNK_ROWS if on_cpu else GPU_CHUNK_ROWS

    @torch.inference_mode()
    def encode(self, hidden: torch.Tensor) -> np.ndarray:
        """Encode checked hidden states.

        Args:
            hidden: (n, d) float32, finite, on any device.

        Returns:
            (n, ceil(h / 8)) uint8.
        """
        chunks = [self._encode_chunk(rows) for rows in hidden.split(self._chunk_rows)]
        return np.concatenate(chunks) if len(chunks) != 1 else chunks[0]

    def search(
        self, hidden: torch.Tensor, packed: np.ndarray, *, refiner: Refiner, effort: Effort
    ) -> np.ndarray:
        """Search for better codes, from given ones.

        Args:
            hidden: (n, d) float32, finite, on any device.
            packed: (n, ceil(h / 8)) uint8, where the search starts: what `encode` gives.
            refiner: of the same autoencoder.
            effort: how long to search.

        Returns:
            (n, ceil(h / 8)) uint8, no row worse than it was.
        """
        standardised = (hidden.to(self._mean.device) - self._mean) * self._inverse_scale
        starts = unpack(packed, n_bits=self.n_bits)
        return pack(refiner.refine(standardised.cpu().numpy(), starts, effort=effort))

    @torch.inference_mode()
    def decode(self, packed: np.ndarray) -> np.ndarray:
        """Decode packed rows.

        Args:
            packed: (n, ceil(h / 8)) uint8 with pad bits 0.

        Returns:
            (n, d) float32.

        Raises:
            ShapeError: the width is not that of h bits.
            ValueRangeError: the dtype is not uint8, or a pad bit is set.
        """
        check_packed(packed, n_bits=self.n_bits)
        hidden = np.empty((len(packed), len(self._offset)), dtype=np.float32)
        for start in range(0, len(packed), self._chunk_rows):
            rows = slice(start, start + self._chunk_rows)
            bits = torch.from_numpy(unpack(packed[rows], n_bits=self.n_bits))
            bits = bits.to(self._offset.device).to(torch.float32)
            hidden[rows] = torch.addmm(self._offset, bits, self._decoder).cpu().numpy()
        return hidden

    def _encode_chunk(self, rows: torch.Tensor) -> np.ndarray:
        logits = (rows.to(self._mean.device) - self._mean) @ self._encoder
        bits = logits >= self._threshold
        return (
            pack(bits.numpy()) if bits.device.type == "cpu" else pack_on_device(bits).cpu().numpy()
        )


def pack_on_device(bits: torch.Tensor) -> torch.Tensor:
    """Pack bits eight to a byte, least significant bit first, on the device where they are.

    Args:
        bits: (n, h) bool.

    Returns:
        (n, ceil(h / 8)) uint8 on the same device, equal to `bitcodec.bits.pack`.
    """
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, -bits.shape[1] % 8))
    powers = 2 ** torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (padded.view(len(bits), padded.shape[1] // 8, 8) * powers).sum(dim=-1, dtype=torch.uint8)
