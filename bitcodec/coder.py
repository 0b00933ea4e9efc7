"""Encoding to packed bytes and back: one product, one comparison, one packing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch

from bitcodec.bits import check_packed, pack, row_bytes, unpack
from bitcodec.config import Precision
from bitcodec.errors import ShapeError
from bitcodec.model import BinaryAutoencoder
from bitcodec.products import DecodingProduct, EncodingProduct, chunk_rows
from bitcodec.row_products import RowProduct
from bitcodec.scoring import QueryWeights, Side
from bitcodec.side_rows import SideRows

Search = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From rows (n, d) float32, standardised and weighed as errors count, and their bits (n, h) uint8
to better bits (n, h) uint8."""


class PackedCoder:
    """A trained autoencoder as maps between hidden states and packed rows.

    Args:
        model: the autoencoder; later changes of it have no effect here.
        side_bytes: bytes beside the bits of a row, as in `CodecConfig`.
        precision: of the two products.

    Objects are read-only after construction, so threads may share one.
    """

    def __init__(
        self, model: BinaryAutoencoder, *, side_bytes: int = 0, precision: Precision = "float32"
    ) -> None:
        self.n_bits, self.precision = model.n_bits, precision
        self.code_bytes = row_bytes(model.n_bits)
        self.row_bytes = self.code_bytes + side_bytes
        with torch.no_grad():
            self._model = copy.deepcopy(model)
            self._mean = self._model.mean
            self._encoding = EncodingProduct(self._model, precision=precision)
            self._decoding = DecodingProduct(self._model, precision=precision)
            self._decoder = (model.decoder_weight * model.scale).contiguous()
            self._offset = model.decoder_bias * model.scale
            self._rows = SideRows(model, side_bytes=side_bytes)
            root = model.error_root
            self._weigh = None if root is None else RowProduct(root)
        self._chunk_rows = chunk_rows(model.n_bits, self._mean.device)

    @property
    def mean(self) -> np.ndarray:
        """The mean that is taken off hidden states, (d,) float32."""
        mean: np.ndarray = self._mean.cpu().numpy()
        return mean

    def encode(
        self,
        hidden: torch.Tensor,
        *,
        search: Search | None = None,
        first_row: int = 0,
    ) -> np.ndarray:
        """Encode checked hidden states.

        Args:
            hidden: (n, d) float32, finite, on any device.
            search: finds better codes than the linear pass's.
            first_row: number of the first row, for messages.

        Returns:
            (n, row_bytes) uint8.

        Raises:
            ValueRangeError: a row is too long for its side bytes.
        """
        packed = np.empty((len(hidden), self.row_bytes), dtype=np.uint8)
        codes = packed[:, : self.code_bytes]
        for part, rows in self._chunks_of(hidden):
            codes[part] = self._encoding.encode_to_host(rows)
        if search is not None:
            standardised = self._model.standardise(hidden.to(self._mean.device).contiguous())
            starts = unpack(codes, n_bits=self.n_bits)
            rows = standardised if self._weigh is None else self._weigh(standardised)
            codes[:] = pack(search(rows.cpu().numpy(), starts))
        if self._rows.side_bytes:
            for part in self._chunks(len(hidden)):
                packed[part, self.code_bytes :] = self._rows.write(
                    hidden[part].to(self._mean.device) - self._mean,
                    self._decoding.decode_from_host(codes[part]),
                    first_row=first_row + part.start,
                )
        return packed

    @torch.inference_mode()
    def encode_on_device(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the bits of the linear pass, (n, ceil(h / 8)) uint8 on the codec's device.

        Args:
            hidden: (n, d) float32, finite, on any device.
        """
        codes = self._room(len(hidden), self.code_bytes, torch.uint8)
        for part, rows in self._chunks_of(hidden):
            codes[part] = self._encoding.encode(rows)
        return codes

    @torch.inference_mode()
    def decode_on_device(self, codes: torch.Tensor) -> torch.Tensor:
        """Return hidden states, (n, d) float32 on the codec's device, of rows without side bytes.

        Args:
            codes: (n, ceil(h / 8)) uint8 on any device, pad bits 0.
        """
        hidden = self._room(len(codes), len(self._offset), torch.float32)
        for part, rows in self._chunks_of(codes):
            deviation = self._decoding.decode(rows)
            torch.add(deviation, self._mean, out=hidden[part])
        return hidden

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
        hidden = np.empty((len(packed), len(self._offset)), dtype=np.float32)
        factors = self._model.shrinkage * self._rows.factors(side) if side.size else None
        for rows in self._chunks(len(packed)):
            deviation = self._decoding.decode_from_host(codes[rows])
            if factors is not None:
                deviation *= factors[rows, None]
            deviation += self._mean
            hidden[rows] = deviation.cpu().numpy()
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
        for rows in self._chunks(len(packed)):
            estimate = self._decoding.decode_from_host(codes[rows]) * factors[rows, None]
            own = self._model.shrinkage * estimate.square().sum(dim=1)
            squared = self._mean.square().sum() + 2 * estimate @ self._mean
            squared = squared + (own if lengths is None else lengths[rows])
            norms[rows] = squared.clamp(min=0).cpu().numpy()
        return Side(factor=factors.cpu().numpy(), squared_norm=norms)

    def _room(self, n_rows: int, n_columns: int, dtype: torch.dtype) -> torch.Tensor:
        """Make room for a result that its caller may compute gradients with."""
        with torch.inference_mode(mode=False):
            return torch.empty(n_rows, n_columns, dtype=dtype, device=self._mean.device)

    def _chunks(self, n_rows: int) -> list[slice]:
        size = self._chunk_rows
        return [slice(start, min(n_rows, start + size)) for start in range(0, n_rows, size)]

    def _chunks_of(self, rows: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield parts of rows, and these rows on the codec's device."""
        device = self._mean.device
        for part in self._chunks(len(rows)):
            yield part, (rows if part.stop - part.start == len(rows) else rows[part]).to(device)

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
