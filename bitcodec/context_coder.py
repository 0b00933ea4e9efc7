"""The bits of rows, coded in the context of earlier bits and of the row before."""

from __future__ import annotations

import struct
from typing import Any

import constriction
import numpy as np

from bitcodec.bits import pack, row_bytes, unpack
from bitcodec.context_kernels import WHOLE, Weights, decode_rows, encode_rows
from bitcodec.context_table import ContextTable, logit_probabilities

_SIZE = struct.Struct("<I")
_ROWS_AT_ONCE = 256  # so that the worst case needs little memory
_READ_AHEAD, _LAST = 8, 1  # bytes the decoder is ahead, and bytes that end a stream


class ContextCoder:
    """Code the bits of blocks with a table of contexts; the first row has none before it.

    Threads may share one.

    Args:
        table: the weights.
    """

    def __init__(self, table: ContextTable) -> None:
        self._n_bits = table.n_bits
        self._weights = Weights(
            bias=table.bias.astype(np.int32),
            within=table.within,
            across=table.across,
            on=logit_probabilities().astype(np.uint64),
        )

    def encode(self, codes: np.ndarray) -> tuple[bytes, Any]:
        """Encode checked rows.

        Args:
            codes: (n, ceil(h / 8)) uint8.

        Returns:
            Their bytes after their number, and a new range coder for what follows.
        """
        interval = np.array([0, WHOLE], dtype=np.uint64)
        before = np.zeros(self._n_bits, dtype=np.uint8)
        out = np.empty(2 * min(len(codes), _ROWS_AT_ONCE) * self._n_bits + 8, dtype=np.uint8)
        parts = []
        for start in range(0, len(codes), _ROWS_AT_ONCE):
            bits = unpack(codes[start : start + _ROWS_AT_ONCE], n_bits=self._n_bits)
            size = encode_rows(bits, before, self._weights, interval, out)
            parts.append(out[:size].tobytes())
            before = bits[-1]
        parts.append(bytes([(int(interval[0]) >> 56) + 1]))  # then zeros: within the interval
        data = b"".join(parts)
        return _SIZE.pack(len(data)) + data, constriction.stream.queue.RangeEncoder()

    def decode(self, view: memoryview, n_rows: int) -> tuple[np.ndarray, Any]:
        """Decode rows.

        Args:
            view: what `encode` returned, and the words of the range coder.
            n_rows: number of rows.

        Returns:
            (n_rows, ceil(h / 8)) uint8, and the range coder of what follows.

        Raises:
            ValueError: the bytes are too few, or some are left over.
        """
        if len(view) < _SIZE.size:
            raise ValueError("the block ends within its bits")
        (size,) = _SIZE.unpack_from(view)
        own, rest = view[_SIZE.size : _SIZE.size + size], view[_SIZE.size + size :]
        if len(own) != size:
            raise ValueError("the block ends within its bits")
        codes, read = self._decode_all(np.frombuffer(own, np.uint8), n_rows)
        if read != size - _LAST + _READ_AHEAD:
            raise ValueError("bytes are missing or left over")
        words = np.frombuffer(rest, "<u4").astype(np.uint32)
        return codes, constriction.stream.queue.RangeDecoder(words)

    def _decode_all(self, data: np.ndarray, n_rows: int) -> tuple[np.ndarray, int]:
        first = np.pad(data[:_READ_AHEAD], (0, max(0, _READ_AHEAD - len(data))))
        interval = np.array([0, WHOLE, first.view(">u8")[0]], dtype=np.uint64)
        before, place = np.zeros(self._n_bits, dtype=np.uint8), _READ_AHEAD
        codes = np.empty((n_rows, row_bytes(self._n_bits)), dtype=np.uint8)
        for start in range(0, n_rows, _ROWS_AT_ONCE):
            bits = np.empty((min(_ROWS_AT_ONCE, n_rows - start), self._n_bits), dtype=np.uint8)
            place = decode_rows(data, before, self._weights, interval, place, bits)
            codes[start : start + len(bits)] = pack(bits)
            before = bits[-1]
        return codes, place
