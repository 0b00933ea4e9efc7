"""Encoding to packed bytes and back: one product, one comparison, one packing."""

from __future__ import annotations

import copy

import numpy as np
import torch

from bitcodec.bits import check_packed, pack, row_bytes, unpack
from bitcodec.errors import ShapeError
from bitcodec.model import BinaryAutoencoder, stage_groups
from bitcodec.refine import Effort, Refiner
from bitcodec.scoring import QueryWeights, Side
from bitcodec.side_rows import SideRows

CPU_CHUNK_ROWS = 512
"""Rows at a time on the CPU, so that logits and bits stay in cache."""
GPU_CHUNK_ROWS = 2**14
"""Rows at a time on other devices."""
LEAST_ROWS = 16
"""Rows that are multiplied at least: for fewer, BLAS takes other kernels, which round otherwise,
and a row would have another code than among many."""


class PackedCoder:
    """A trained autoencoder as maps between hidden states and packed rows.

    The scale is folded into the weights and the encoder bias into the threshold. The mean is
    subtracted from the input instead of folded: folded, a large mean would cancel against the
    bias and cost float32 digits.

    Args:
        model: the autoencoder; later changes of it have no effect here.
        side_bytes: bytes beside the bits of a row, as in `CodecConfig`.

    Objects are read-only after construction, so threads may share one.
    """

    def __init__(self, model: BinaryAutoencoder, *, side_bytes: int = 0) -> None:
        self.n_bits = model.n_bits
        self.code_bytes = row_bytes(model.n_bits)
        self.row_bytes = self.code_bytes + side_bytes
        with torch.no_grad():
            self._model = copy.deepcopy(model)
            self._mean = self._model.mean
            self._encoder = (model.encoder_weight * model.inverse_scale()).T.contiguous()
            self._threshold = -model.encoder_bias.detach()
            self._decoder = (model.decoder_weight * model.scale).contiguous()
            self._offset = model.decoder_bias * model.scale
            self._staged = len(stage_groups(model.stages)) > 1
            self._rows = SideRows(model, side_bytes=side_bytes)
        on_cpu = self._mean.device.type == "cpu"
        self._chunk_rows = CPU_CHUNK_ROWS if on_cpu else GPU_CHUNK_ROWS

    @property
    def mean(self) -> np.ndarray:
        """The mean that is taken off hidden states, (d,) float32."""
        mean: np.ndarray = self._mean.cpu().numpy()
        return mean

    @torch.inference_mode()
    def encode(
        self,
        hidden: torch.Tensor,
        *,
        refiner: Refiner | None = None,
        effort: Effort = "fast",
        first_row: int = 0,
    ) -> np.ndarray:
        """Encode checked hidden states.

        Args:
            hidden: (n, d) float32, finite, on any device.
            refiner: of the same autoencoder, to search for better codes than the linear pass's.
            effort: how long to search.
            first_row: number of the first row, for messages.

        Returns:
            (n, row_bytes) uint8.

        Raises:
            ValueRangeError: a row is too long for its side bytes.
        """
        chunks = [self._encode_chunk(rows) for rows in hidden.split(self._chunk_rows)]
        packed = np.concatenate(chunks) if len(chunks) != 1 else chunks[0]
        if refiner is not None:
            packed = self._search(hidden, packed, refiner=refiner, effort=effort)
        if self._rows.side_bytes == 0:
            return packed
        rows = np.empty((len(packed), self.row_bytes), dtype=np.uint8)
        rows[:, : self.code_bytes] = packed
        for part in _slices(len(packed), self._chunk_rows):
            centred = hidden[part].to(self._mean.device) - self._mean
            rows[part, self.code_bytes :] = self._rows.write(
                centred, self._deviation(packed[part]), first_row=first_row + part.start
            )
        return rows

    @torch.inference_mode()
    def decode(self, packed: np.ndarray) -> np.ndarray:
        """Decode packed rows.

        Args:
            packed: (n, row_bytes) uint8 with pad bits 0.

        Returns:
            (n, d) float32.

        Raises:
            ShapeError: the width is not that of h bits and the side bytes.
            ValueRangeError: the dtype is not uint8, a pad bit is set, or side bytes are not finite.
        """
        codes, side = self._checked(packed)
        factors = self._model.shrinkage * self._rows.factors(side)
        hidden = np.empty((len(packed), len(self._offset)), dtype=np.float32)
        for rows in _slices(len(packed), self._chunk_rows):
            deviation = self._deviation(codes[rows]) * factors[rows, None]
            hidden[rows] = (deviation + self._mean).cpu().numpy()
        return hidden

    @torch.inference_mode()
    def query_weights(self, queries: torch.Tensor) -> QueryWeights:
        """Turn float queries into weights of the bits.

        Args:
            queries: (q, d) float32.

        Returns:
            What makes <query, x> of any row from its bits and factor; see `QueryWeights`.
        """
        rows = queries.to(self._mean.device)
        return QueryWeights(
            weights=(rows @ self._decoder.T).cpu().numpy(),
            bias=(rows @ self._offset).cpu().numpy(),
            base=(rows @ self._mean).cpu().numpy(),
        )

    @torch.inference_mode()
    def side(self, packed: np.ndarray) -> Side:
        """Read what packed rows say beside their bits.

        Args:
            packed: (n, row_bytes) uint8.

        Returns:
            The factors, 1 without side bytes, and the squared norms of the rows: from their own
            bytes where there are 4, else the estimate that the factor and the code allow.

        Raises:
            As `decode`.
        """
        codes, side = self._checked(packed)
        factors, lengths = self._rows.factors(side), self._rows.squared_lengths(side)
        norms = np.empty(len(packed), dtype=np.float32)
        for rows in _slices(len(packed), self._chunk_rows):
            estimate = self._deviation(codes[rows]) * factors[rows, None]
            own = self._model.shrinkage * estimate.square().sum(dim=1)
            squared = self._mean.square().sum() + 2 * estimate @ self._mean
            squared = squared + (own if lengths is None else lengths[rows])
            norms[rows] = squared.clamp(min=0).cpu().numpy()
        return Side(factor=factors.cpu().numpy(), squared_norm=norms)

    def _encode_chunk(self, rows: torch.Tensor) -> np.ndarray:
        if 0 < len(rows) < LEAST_ROWS:
            filled = torch.cat([rows, rows[-1:].expand(LEAST_ROWS - len(rows), -1)])
            return self._encode_chunk(filled)[: len(rows)]
        rows = rows.to(self._mean.device)
        if self._staged or self._model.unit_rows:
            bits = self._model.encode(self._model.standardise(rows)) > 0
        else:
            bits = (rows - self._mean) @ self._encoder >= self._threshold
        return (
            pack(bits.numpy()) if bits.device.type == "cpu" else pack_on_device(bits).cpu().numpy()
        )

    def _search(
        self, hidden: torch.Tensor, packed: np.ndarray, *, refiner: Refiner, effort: Effort
    ) -> np.ndarray:
        """Search for better codes from those of the linear pass; no row gets worse."""
        standardised = self._model.standardise(hidden.to(self._mean.device))
        starts = unpack(packed, n_bits=self.n_bits)
        return pack(refiner.refine(standardised.cpu().numpy(), starts, effort=effort))

    def _deviation(self, codes: np.ndarray) -> torch.Tensor:
        """Decode (n, code_bytes) to how rows differ from the mean, before factor and shrinkage."""
        if 0 < len(codes) < LEAST_ROWS:
            filled = np.concatenate([codes, codes[-1:].repeat(LEAST_ROWS - len(codes), axis=0)])
            return self._deviation(filled)[: len(codes)]
        bits = torch.from_numpy(unpack(codes, n_bits=self.n_bits))
        return torch.addmm(self._offset, bits.to(self._offset), self._decoder)

    def _checked(self, packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the code bytes and the side bytes of checked rows."""
        if packed.ndim != 2 or packed.shape[1] != self.row_bytes:
            raise ShapeError(
                f"packed must be (n, {self.row_bytes}), got {packed.shape}: this codec has "
                f"{self.n_bits} bits and {self._rows.side_bytes} side bytes"
            )
        codes = packed[:, : self.code_bytes]
        check_packed(codes, n_bits=self.n_bits)
        return codes, packed[:, self.code_bytes :]


def _slices(n_rows: int, size: int) -> list[slice]:
    return [slice(start, min(n_rows, start + size)) for start in range(0, n_rows, size)]


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
