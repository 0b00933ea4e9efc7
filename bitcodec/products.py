"""The two products of a codec, x E and b D, a chunk of rows at a time.

Encoding is a product, a comparison and a packing; decoding an unpacking and a product. Buffers
are those of the chunk before, and nothing of the size of the whole input is made but the result.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import torch

from bitcodec.bit_products import pack, pack_logits, unpacked_product
from bitcodec.config import Precision
from bitcodec.errors import ConfigError
from bitcodec.model import BinaryAutoencoder, stage_groups
from bitcodec.row_products import ROW_MULTIPLE, pad_columns

CPU_CHUNK_VALUES = 2**20
"""Logits in memory at a time on the CPU: few enough for its caches."""
DEVICE_CHUNK_VALUES = 2**26
"""The same on other devices."""
BIAS_COLUMNS = 16
"""Columns of ones that carry a bias through a bfloat16 product; all but three have no weight."""

_DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Scratch:
    """Buffers that a thread's next call uses again; each thread has its own."""

    def __init__(self) -> None:
        self._local = threading.local()

    def __reduce__(self) -> tuple[type[Scratch], tuple[()]]:
        return Scratch, ()

    def take(
        self, name: str, shape: tuple[int, int], dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """Return room of a shape: zeros at first, and later what was left there."""
        kept: dict[Any, torch.Tensor] = self._local.__dict__
        n_rows, n_columns = shape
        key = f"{name} {n_columns} {dtype}"
        if key not in kept or len(kept[key]) < n_rows:
            kept[key] = torch.zeros(shape, dtype=dtype, device=device)
        return kept[key][:n_rows]


class EncodingProduct:
    """Map hidden states to the packed bits of the linear pass.

    The scale is folded into the weights and the encoder bias into the threshold. The mean is
    subtracted from the input instead of folded: folded, a large mean would cancel against the
    bias and cost float32 digits.

    Args:
        model: the autoencoder, which must not change later.
        precision: of the products.

    Threads may share an object.
    """

    @torch.no_grad()
    def __init__(self, model: BinaryAutoencoder, *, precision: Precision = "float32") -> None:
        self._model, self._dtype = model, _dtype_of(precision)
        self._scratch = Scratch()
        self._groups = stage_groups(model.stages)
        inverse, scale = model.inverse_scale(), model.scale
        if model.unit_rows:  # rows are scaled before they are brought to one length
            inverse, scale = torch.ones_like(inverse), torch.ones_like(scale)
        self._stages = [
            _Threshold(
                model.encoder_weight[group] * inverse, model.encoder_bias[group], self._dtype
            )
            for group in self._groups
        ]
        self._taken = [
            _whole(model.decoder_weight[group] * scale, self._dtype) for group in self._groups[:-1]
        ]

    def encode(self, rows: torch.Tensor) -> torch.Tensor:
        """Return packed bits, (m, ceil(h / 8)) uint8 on the codec's device.

        Args:
            rows: (m, d) float32 there.
        """
        if len(self._stages) == 1:
            inputs = self._centred(rows, self._dtype)
            return self._stages[0].pack(inputs, self._scratch)[: len(rows)]
        residual = self._centred(rows, torch.float32)
        bits = torch.empty(len(rows), self._model.n_bits, dtype=torch.bool, device=rows.device)
        for number, (group, stage) in enumerate(zip(self._groups, self._stages, strict=True)):
            on = stage.bits(self._inputs(residual), self._scratch)
            bits[:, group] = on[: len(rows)]
            if number < len(self._taken):
                taken = on.to(self._dtype) @ self._taken[number]
                residual[:, : self._model.n_dims] -= taken[:, : self._model.n_dims]
        return pack(bits)

    def _centred(self, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        room = self._room(_up(len(rows), ROW_MULTIPLE), dtype)
        inner = room[: len(rows), : self._model.n_dims]
        if self._model.unit_rows:
            inner.copy_(self._model.standardise(rows.contiguous()))
        else:
            torch.sub(rows, self._model.mean, out=inner)
        return room

    def _inputs(self, residual: torch.Tensor) -> torch.Tensor:
        """Return a residual as the product of a stage takes it."""
        if self._dtype == torch.float32:
            return residual
        room = self._room(len(residual), self._dtype)
        room[:, : self._model.n_dims] = residual
        return room

    def _room(self, n_rows: int, dtype: torch.dtype) -> torch.Tensor:
        n_dims, device = self._model.n_dims, self._model.mean.device
        extra = 0 if dtype == torch.float32 else BIAS_COLUMNS
        room = self._scratch.take("inputs", (n_rows, n_dims + extra), dtype, device)
        room[:, n_dims:] = 1
        return room


class DecodingProduct:
    """Map packed bits to how the hidden states that they stand for differ from the mean.

    Args:
        model: the autoencoder; later changes of it have no effect here.
        precision: of the product; its sum with the offset is float32.

    Threads may share an object.
    """

    @torch.no_grad()
    def __init__(self, model: BinaryAutoencoder, *, precision: Precision = "float32") -> None:
        self._scratch = Scratch()
        self._offset = model.decoder_bias * model.scale
        self._weight = _whole(model.decoder_weight * model.scale, _dtype_of(precision))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return b D + c in the units of hidden states, (m, d) float32 on the codec's device.

        Args:
            codes: (m, ceil(h / 8)) uint8 there, pad bits 0.
        """
        (n_bits, n_columns), dtype, device = self._weight.shape, self._weight.dtype, codes.device
        n_rows = _up(len(codes), ROW_MULTIPLE)
        product = self._scratch.take("product", (n_rows, n_columns), dtype, device)
        room = partial(self._scratch.take, "bits", (n_rows, n_bits), dtype, device)
        unpacked_product(codes, self._weight, room=room, out=product)
        return self._offset + product[: len(codes), : len(self._offset)]


class _Threshold:
    """Bits from a product: which logits are at least their threshold.

    In bfloat16 the bias goes through the product, in three parts that add up to nearly all its
    float32 digits: only inputs and weights are rounded, and a sign needs no digits.

    Args:
        weight: (m, d) float32.
        bias: (m,) float32.
        dtype: of the product.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> None:
        self._n_bits = len(bias)
        biases = pad_columns(bias, value=-1)
        self._weight = _whole(weight.T, dtype)
        self._threshold = -biases
        if dtype != torch.float32:
            self._weight = torch.cat([self._weight, _bias_rows(biases, dtype)])
            self._threshold = torch.zeros_like(biases)

    def bits(self, inputs: torch.Tensor, scratch: Scratch) -> torch.Tensor:
        """Return bits, (n, m) bool."""
        return (self._logits(inputs, scratch) >= self._threshold)[:, : self._n_bits]

    def pack(self, inputs: torch.Tensor, scratch: Scratch) -> torch.Tensor:
        """Return packed bits, (n, ceil(m / 8)) uint8."""
        packed = pack_logits(self._logits(inputs, scratch), self._threshold)
        return packed[:, : -(-self._n_bits // 8)]

    def _logits(self, inputs: torch.Tensor, scratch: Scratch) -> torch.Tensor:
        shape = len(inputs), self._weight.shape[1]
        logits = scratch.take("logits", shape, inputs.dtype, inputs.device)
        return torch.mm(inputs, self._weight, out=logits)


def chunk_rows(n_bits: int, device: torch.device) -> int:
    """Return how many rows at a time a device is to compute, a multiple of `ROW_MULTIPLE`."""
    values = CPU_CHUNK_VALUES if device.type == "cpu" else DEVICE_CHUNK_VALUES
    return _up(max(64, min(2**14, values // n_bits)), ROW_MULTIPLE)


def _dtype_of(precision: Precision) -> torch.dtype:
    if precision not in _DTYPES:
        raise ConfigError(f"compute must be one of {', '.join(_DTYPES)}, got {precision!r}")
    return _DTYPES[precision]


def _whole(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a matrix of whole multiples of columns, contiguous."""
    return pad_columns(weight).to(dtype).contiguous()


def _bias_rows(biases: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return (`BIAS_COLUMNS`, m): rows whose sum is the biases, to three times a dtype's digits."""
    rows = torch.zeros(BIAS_COLUMNS, len(biases), dtype=dtype, device=biases.device)
    rest = biases.clone()
    for row in rows[:3]:
        row.copy_(rest)
        rest -= row
    return rows


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
