"""Bits from a product: which logits are at least their threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bitcodec.bit_products import pack_logits, packed_product
from bitcodec.bits import row_bytes
from bitcodec.row_products import laid_out, pad_columns
from bitcodec.scratch import Scratch

BIAS_COLUMNS = 16
"""Columns of ones that carry a bias through a bfloat16 product; all but three have no weight."""
FEW_LOGITS = 2**18
"""Up to this many, numpy's comparison on one core beats torch's on all."""


@dataclass(frozen=True)
class _Room:
    """Where a number of rows is compared on the host, as tensors and as arrays."""

    logits: torch.Tensor
    """(m, h') floats, with rows and columns to whole tiles."""
    wanted: torch.Tensor
    """(n, h') of them."""
    numbers: np.ndarray
    """The same, in a type that numpy has."""
    on: torch.Tensor
    """(n, h') bool."""
    bits: np.ndarray
    """The same."""


class Threshold:
    """A matrix, and the threshold of each of its columns.

    In bfloat16 the bias goes through the product, in three parts that add up to nearly all its
    float32 digits: only inputs and weights are rounded, and a sign needs no digits.

    Args:
        weight: (m, d) float32.
        bias: (m,) float32.
        dtype: of the product.
        fused: multiply, compare and pack in one kernel on a device that has kernels.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype, *, fused: bool = False
    ) -> None:
        self._fused = fused
        self._n_bits, self._n_bytes = len(bias), row_bytes(len(bias))
        biases = pad_columns(bias, value=-1)
        matrix, self._threshold = pad_columns(weight.T).to(dtype), -biases
        if dtype != torch.float32:
            matrix = torch.cat([matrix, _bias_rows(biases, dtype)])
            self._threshold = torch.zeros_like(biases)
        self._weight = laid_out(matrix)
        self._limits = _limits(self._threshold, dtype) if bias.device.type == "cpu" else None

    def bits(self, inputs: torch.Tensor, scratch: Scratch) -> torch.Tensor:
        """Return bits, (n, m) bool, of inputs (n, d) on their device."""
        return (self.logits(inputs, scratch) >= self._threshold)[:, : self._n_bits]

    def pack(self, inputs: torch.Tensor, scratch: Scratch, *, n_rows: int) -> torch.Tensor:
        """Return the packed bits of the first rows, (n_rows, ceil(m / 8)) uint8, where they are."""
        if self._limits is not None:
            return torch.from_numpy(self.pack_to_host(inputs, scratch, n_rows=n_rows))
        if self._fused:
            packed = packed_product(inputs, self._weight, self._threshold)
        else:
            packed = pack_logits(self.logits(inputs, scratch), self._threshold)
        return packed[:n_rows, : self._n_bytes]

    def pack_to_host(self, inputs: torch.Tensor, scratch: Scratch, *, n_rows: int) -> np.ndarray:
        """Return the packed bits of the first rows, (n_rows, ceil(m / 8)) uint8, as an array."""
        if self._limits is None:
            array: np.ndarray = self.pack(inputs, scratch, n_rows=n_rows).cpu().numpy()
            return array
        key = len(inputs), n_rows
        room = scratch.latest("compared", key, lambda: self._room(inputs, scratch, n_rows))
        torch.mm(inputs, self._weight, out=room.logits)
        if room.numbers.size <= FEW_LOGITS or room.numbers.dtype == np.int16:
            np.greater_equal(room.numbers, self._limits, out=room.bits)
        else:
            torch.ge(room.wanted, self._threshold, out=room.on)
        return np.packbits(room.bits, axis=1, bitorder="little")[:, : self._n_bytes]

    def logits(self, inputs: torch.Tensor, scratch: Scratch) -> torch.Tensor:
        """Return the product, (n, m) and columns to a whole tile; the next call overwrites it."""
        shape = len(inputs), self._weight.shape[1]
        logits = scratch.take("logits", shape, inputs.dtype, inputs.device)
        return torch.mm(inputs, self._weight, out=logits)

    def _room(self, inputs: torch.Tensor, scratch: Scratch, n_rows: int) -> _Room:
        shape = len(inputs), self._weight.shape[1]
        logits = scratch.take("logits", shape, inputs.dtype, inputs.device)
        on = scratch.take("on", shape, torch.bool, inputs.device)[:n_rows]
        wanted = logits[:n_rows]
        # The sign of a bfloat16 is that of the same bytes as an integer.
        known = wanted if wanted.dtype == torch.float32 else wanted.view(torch.int16)
        return _Room(logits, wanted, numbers=known.numpy(), on=on, bits=on.numpy())


def _limits(threshold: torch.Tensor, dtype: torch.dtype) -> np.ndarray:
    """Return thresholds as numpy compares them with logits, or their bytes, of a dtype."""
    limits: np.ndarray = threshold.numpy()
    return limits if dtype == torch.float32 else np.zeros(len(limits), dtype=np.int16)


def _bias_rows(biases: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return (`BIAS_COLUMNS`, m): rows whose sum is the biases, to three times a dtype's digits."""
    rows = torch.zeros(BIAS_COLUMNS, len(biases), dtype=dtype, device=biases.device)
    rest = biases.clone()
    for row in rows[:3]:
        row.copy_(rest)
        rest -= row
    return rows
