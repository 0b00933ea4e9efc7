"""The two products of a codec, x E and b D, a chunk of rows at a time.

Encoding is a product, a comparison and a packing; decoding an unpacking and a product, or a sum of
the rows that sparse bits choose. Buffers are those of the chunk before, and nothing of the size of
the whole input is made but the result.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch

from bitcodec.bit_products import pack, unpacked_product
from bitcodec.config import Precision
from bitcodec.errors import ConfigError
from bitcodec.model import BinaryAutoencoder, stage_groups
from bitcodec.row_products import ROW_MULTIPLE, laid_out, pad_columns, pad_rows
from bitcodec.scratch import Scratch
from bitcodec.sparse_products import are_few, decode_rows
from bitcodec.thresholds import BIAS_COLUMNS, Threshold

CPU_CHUNK_VALUES = 2**20
"""Logits in memory at a time on the CPU: few enough for its caches."""
DEVICE_CHUNK_VALUES = 2**26
"""The same on other devices."""

_DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class EncodingProduct:
    """Map hidden states to the packed bits of the linear pass.

    The scale is folded into the weights and the encoder bias into the threshold. The mean is
    subtracted from the input instead of folded: folded, a large mean would cancel against the
    bias and cost float32 digits.

    Args:
        model: the autoencoder, which must not change later.
        precision: of the products.
        fused: multiply, compare and pack in one kernel on CUDA, in place of the library's product
            and one kernel after it. Which is faster is for a GPU to say: `benchmarks.gpu_speed`.

    Threads may share an object.
    """

    @torch.no_grad()
    def __init__(
        self, model: BinaryAutoencoder, *, precision: Precision = "float32", fused: bool = False
    ) -> None:
        # A module looks up its tensors in Python each time that they are asked for.
        self._mean, self._device, self._dtype = model.mean, model.mean.device, _dtype_of(precision)
        self._n_dims, self._n_bits = model.n_dims, model.n_bits
        self._standardise = model.standardise if model.unit_rows else None
        self._scratch = Scratch()
        self._groups = stage_groups(model.stages)
        inverse, scale = model.inverse_scale(), model.scale
        if model.unit_rows:  # rows are scaled before they are brought to one length
            inverse, scale = torch.ones_like(inverse), torch.ones_like(scale)
        self._stages = [
            Threshold(model.encoder_weight[group] * inverse, model.encoder_bias[group], self._dtype)
            for group in self._groups
        ]
        self._taken = [
            _whole(model.decoder_weight[group] * scale, self._dtype) for group in self._groups[:-1]
        ]

    def encode(self, rows: torch.Tensor) -> torch.Tensor:
        """Return packed bits, (m, ceil(h / 8)) uint8 on the codec's device.

        Args:
            rows: (m, d) float32 there, without a gradient.
        """
        if self._taken:
            return self._encode_in_stages(rows)
        inputs = self._centred(rows, self._dtype)
        return self._stages[0].pack(inputs, self._scratch, n_rows=len(rows))

    def encode_to_host(self, rows: torch.Tensor) -> np.ndarray:
        """Return what `encode` returns, as an array; on the CPU without a tensor in between."""
        if self._taken:
            packed: np.ndarray = self._encode_in_stages(rows).cpu().numpy()
            return packed
        inputs = self._centred(rows, self._dtype)
        return self._stages[0].pack_to_host(inputs, self._scratch, n_rows=len(rows))

    def _encode_in_stages(self, rows: torch.Tensor) -> torch.Tensor:
        residual = self._centred(rows, torch.float32)
        bits = torch.empty(len(rows), self._n_bits, dtype=torch.bool, device=rows.device)
        for number, (group, stage) in enumerate(zip(self._groups, self._stages, strict=True)):
            on = stage.bits(self._inputs(residual), self._scratch)
            bits[:, group] = on[: len(rows)]
            if number < len(self._taken):
                taken = on.to(self._dtype) @ self._taken[number]
                residual[:, : self._n_dims] -= taken[:, : self._n_dims]
        return pack(bits)

    def _centred(self, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        room, inner = self._scratch.latest(
            f"inputs {dtype}", len(rows), lambda: self._room(len(rows), dtype)
        )
        if self._standardise is None:
            torch.sub(rows, self._mean, out=inner)
        else:
            inner.copy_(self._standardise(rows.contiguous()))
        return room

    def _inputs(self, residual: torch.Tensor) -> torch.Tensor:
        """Return a residual as the product of a stage takes it."""
        if self._dtype == torch.float32:
            return residual
        room, inner = self._room(len(residual), self._dtype)
        inner.copy_(residual)
        return room

    def _room(self, n_rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return room for inputs, whose columns after those of the data stay ones, and for data."""
        extra = 0 if dtype == torch.float32 else BIAS_COLUMNS
        shape = _up(n_rows, ROW_MULTIPLE), self._n_dims + extra
        room = self._scratch.take("inputs", shape, dtype, self._device, fill=1.0)
        return room, room[:n_rows, : self._n_dims]


@dataclass(frozen=True)
class _Unpacked:
    """Where a number of rows is decoded."""

    bits: torch.Tensor
    """(m, h) floats, with rows to whole tiles."""
    wanted: torch.Tensor
    """(n, h) of them."""
    product: torch.Tensor
    """(m, d') floats, with columns to whole tiles, too."""
    hidden: torch.Tensor
    """(n, d) of them."""


class DecodingProduct:
    """Map packed bits to how the hidden states that they stand for differ from the mean.

    On the CPU the rows of the decoder are summed for codes with few bits on, which is several times
    as fast; which way a row goes is a matter of its own bits.

    Args:
        model: the autoencoder; later changes of it have no effect here.
        precision: of the weights, and of products of matrices; sums are float32.

    Threads may share an object.
    """

    @torch.no_grad()
    def __init__(self, model: BinaryAutoencoder, *, precision: Precision = "float32") -> None:
        self._scratch, self._dtype = Scratch(), _dtype_of(precision)
        self._offset = model.decoder_bias * model.scale
        self._device, self._n_bits = self._offset.device, model.n_bits
        rows = (model.decoder_weight * model.scale).to(self._dtype)
        if self._device.type == "cpu":
            self._rows = rows.float().contiguous().numpy()
        else:
            self._weight = _whole(rows, self._dtype)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return b D + c in the units of hidden states, (m, d) float32 on the codec's device.

        Args:
            codes: (m, ceil(h / 8)) uint8 there, pad bits 0.
        """
        if self._device.type == "cpu":
            return self.decode_from_host(codes.numpy())
        padded = pad_rows(codes)
        shape = len(padded), self._weight.shape[1]
        product = self._scratch.take("product", shape, self._dtype, self._device)
        unpacked_product(padded, self._weight, out=product)
        return self._offset + product[: len(codes), : len(self._offset)]

    def decode_from_host(self, codes: np.ndarray) -> torch.Tensor:
        """Return what `decode` returns for an array, strided or read-only ones included."""
        if self._device.type != "cpu":
            return self.decode(torch.from_numpy(np.array(codes)).to(self._device))
        few = are_few(codes, n_bits=self._n_bits)
        if few.all():
            return self._sum(codes)
        if not few.any():
            return self._multiply(codes)
        hidden = torch.empty(len(codes), len(self._offset))
        which = torch.from_numpy(few)
        hidden[which], hidden[~which] = self._sum(codes[few]), self._multiply(codes[~few])
        return hidden

    def _sum(self, codes: np.ndarray) -> torch.Tensor:
        return decode_rows(codes, self._rows, self._offset.numpy())

    def _multiply(self, codes: np.ndarray) -> torch.Tensor:
        room = self._scratch.latest("rows", len(codes), lambda: self._room(len(codes)))
        bits = np.unpackbits(codes, axis=1, count=self._n_bits, bitorder="little")
        room.wanted.copy_(torch.from_numpy(bits))
        torch.mm(room.bits, self._weight, out=room.product)
        return self._offset + room.hidden

    @functools.cached_property
    def _weight(self) -> torch.Tensor:
        """D as a product takes it, (h, d'); many a codec on the CPU never needs one."""
        return _whole(torch.from_numpy(self._rows), self._dtype)

    def _room(self, n_rows: int) -> _Unpacked:
        n_bits, n_columns = self._weight.shape
        n_padded = _up(n_rows, ROW_MULTIPLE)
        bits = self._scratch.take("bits", (n_padded, n_bits), self._dtype, self._device)
        product = self._scratch.take("product", (n_padded, n_columns), self._dtype, self._device)
        hidden = product[:n_rows, : len(self._offset)]
        return _Unpacked(bits, wanted=bits[:n_rows], product=product, hidden=hidden)


def chunk_rows(n_bits: int, device: torch.device) -> int:
    """Return how many rows at a time a device is to compute, a multiple of `ROW_MULTIPLE`."""
    values = CPU_CHUNK_VALUES if device.type == "cpu" else DEVICE_CHUNK_VALUES
    return _up(max(64, min(2**14, values // n_bits)), ROW_MULTIPLE)


def _dtype_of(precision: Precision) -> torch.dtype:
    if precision not in _DTYPES:
        raise ConfigError(f"compute must be one of {', '.join(_DTYPES)}, got {precision!r}")
    return _DTYPES[precision]


def _whole(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a matrix with whole tiles of columns, laid out for the device's product."""
    return laid_out(pad_columns(weight).to(dtype))


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
