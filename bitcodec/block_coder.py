"""Blocks of packed rows as words of a range coder, and back.

A range coder (constriction) codes every byte of a row with a 256-way model: the product of the
probabilities of its bits. With a table of several profiles, each row's profile is coded before the
rows. Models are made from the table's levels by integer arithmetic, and are the same everywhere.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import Any

import constriction
import numpy as np

from bitcodec.bits import check_packed, row_bytes, unpack
from bitcodec.errors import FormatError, ShapeError
from bitcodec.probability import (
    EVEN,
    MODEL_TOTAL,
    Buffer,
    ProbabilityTable,
    probability_levels,
)

MAX_BLOCK_ROWS = 2**16
"""Rows of the largest block."""
MAX_BLOCK_BYTES = 2**28
"""Packed bytes of the largest block."""
_DIGEST_BYTES = 8
_SLACK_BITS = 128  # by which a range coder's words may fall short of the information
_CACHED_MODELS = 2**15
_MODELS_AT_ONCE = 2048
_ROWS_AT_ONCE = 4096  # so that choosing profiles needs little memory


class BlockCoder:
    """Code blocks of rows with one table; its models are built once and kept.

    Threads may share one.

    Args:
        table: the probabilities.
    """

    def __init__(self, table: ProbabilityTable) -> None:
        self.table = table
        self.width = row_bytes(table.n_bits)
        self._models: dict[int, list[Any]] = {}
        if table.n_profiles > 1:
            self._profile_model = _categoricals(table.weights.astype(np.uint64)[None])[0]

    def __reduce__(self) -> tuple[type[BlockCoder], tuple[ProbabilityTable]]:
        """Pickle the table; the models are built again."""
        return BlockCoder, (self.table,)

    def encode(self, packed: np.ndarray, *, place: int = 0) -> bytes:
        """Encode a block.

        Args:
            packed: (n, ceil(h / 8)) uint8, n up to 65,536.
            place: number of the block's first row, bound into its digest.

        Returns:
            8 bytes of digest, then the range coder's words.

        Raises:
            ShapeError: the width is not that of h bits, or there are too many rows.
            ValueRangeError: the dtype is not uint8, or a pad bit is set.
        """
        check_packed(packed, n_bits=self.table.n_bits)
        if len(packed) > MAX_BLOCK_ROWS or packed.size > MAX_BLOCK_BYTES:
            raise ShapeError(
                f"a block has at most {MAX_BLOCK_ROWS} rows and {MAX_BLOCK_BYTES} bytes, got "
                f"{packed.shape}: choose a smaller block_rows"
            )
        encoder = constriction.stream.queue.RangeEncoder()
        profiles = self._choose(packed)
        if self.table.n_profiles > 1 and len(packed):
            encoder.encode(profiles.astype(np.int32), self._profile_model)
        order, runs = _runs(profiles)
        columns = np.ascontiguousarray(packed[order].T).astype(np.int32)
        for column, symbols in enumerate(columns):
            models = self._column_models(column)
            for profile, start, stop in runs:
                encoder.encode(symbols[start:stop], models[profile])
        words: bytes = encoder.get_compressed().astype("<u4").tobytes()
        return self._digest(packed, place) + words

    def check_size(self, size: int, *, n_rows: int) -> None:
        """Raise unless a block of `size` bytes can hold `n_rows` rows.

        Raises:
            FormatError: it cannot.
        """
        room = 8 * (size - _DIGEST_BYTES) + _SLACK_BITS
        whole = size >= _DIGEST_BYTES and size % 4 == 0
        small = n_rows <= MAX_BLOCK_ROWS and n_rows * self.width <= MAX_BLOCK_BYTES
        if not (whole and small and n_rows * self.table.least_bits <= room):
            raise FormatError(
                f"a block of {size} bytes cannot hold {n_rows} rows: the file is damaged"
            )

    def decode(self, data: Buffer, *, n_rows: int, place: int = 0) -> np.ndarray:
        """Decode a block.

        Args:
            data: what `encode` returned.
            n_rows: its number of rows.
            place: as it was given to `encode`.

        Returns:
            (n_rows, ceil(h / 8)) uint8.

        Raises:
            FormatError: the block is damaged, from another place or coded with another table.
        """
        view = memoryview(data).cast("B")
        self.check_size(len(view), n_rows=n_rows)
        words = np.frombuffer(view, "<u4", offset=_DIGEST_BYTES).astype(np.uint32)
        try:
            packed = self._decode_words(words, n_rows)
        except (AssertionError, KeyError, ValueError) as error:
            raise FormatError(f"the block at row {place} is damaged: {error}") from error
        if self._digest(packed, place) != view[:_DIGEST_BYTES]:
            raise FormatError(f"the block at row {place} is damaged: its checksum does not match")
        return packed

    def _decode_words(self, words: np.ndarray, n_rows: int) -> np.ndarray:
        decoder = constriction.stream.queue.RangeDecoder(words)
        profiles = np.zeros(n_rows, dtype=np.uint8)
        if self.table.n_profiles > 1 and n_rows:
            profiles[:] = decoder.decode(self._profile_model, n_rows)
        order, runs = _runs(profiles)
        columns = np.empty((self.width, n_rows), dtype=np.uint8)
        for column, symbols in enumerate(columns):
            models = self._column_models(column)
            for profile, start, stop in runs:
                symbols[start:stop] = decoder.decode(models[profile], stop - start)
        if not decoder.maybe_exhausted():
            raise ValueError("bytes are left over")
        packed = np.empty((n_rows, self.width), dtype=np.uint8)
        packed[order] = columns.T
        return packed

    def _choose(self, packed: np.ndarray) -> np.ndarray:
        # The cheapest profile of each row, in exact integers so that every machine chooses alike.
        if self.table.n_profiles == 1:
            return np.zeros(len(packed), dtype=np.uint8)
        exact = np.dtype("float32" if self.table.n_bits * EVEN < 2**24 else "float64")
        slopes: np.ndarray = self.table.levels.astype(exact).T - EVEN
        off_costs = probability_levels()[1][self.table.levels].sum(axis=1)
        chosen = np.empty(len(packed), dtype=np.uint8)
        for start in range(0, len(packed), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            bits = unpack(packed[rows], n_bits=self.table.n_bits).astype(exact)
            scores = (bits @ slopes).astype(np.int64) * 2**16 - off_costs
            chosen[rows] = scores.argmax(axis=1)
        return chosen

    def _column_models(self, column: int) -> list[Any]:
        found = self._models.get(column)
        if found is not None:
            return found
        n_profiles = self.table.n_profiles
        step = max(1, _MODELS_AT_ONCE // n_profiles)
        first = column - column % step
        built = dict(self._build(first, min(first + step, self.width)))
        if (len(self._models) + len(built)) * n_profiles > _CACHED_MODELS:
            self._models = {}  # a huge table: keep only what is at work, so that memory is bounded
        self._models |= built
        return built[column]

    def _build(self, start: int, stop: int) -> Iterator[tuple[int, list[Any]]]:
        on = probability_levels()[0][self.table.levels[:, 8 * start : 8 * stop]]
        padded = np.zeros((self.table.n_profiles, 8 * (stop - start)), dtype=np.uint64)
        padded[:, : on.shape[1]] = on  # pad bits are never on
        likelihoods = _symbol_likelihoods(padded.reshape(-1, 8))
        likelihoods = likelihoods.reshape(self.table.n_profiles, stop - start, 256)
        for column in range(start, stop):
            n_symbols = 2 ** min(8, self.table.n_bits - 8 * column)
            yield column, _categoricals(likelihoods[:, column - start, :n_symbols])

    def _digest(self, packed: np.ndarray, place: int) -> bytes:
        salt = struct.pack("<Q", place)
        key = self.table.digest
        data = np.ascontiguousarray(packed).data
        return hashlib.blake2b(data, digest_size=_DIGEST_BYTES, key=key, salt=salt).digest()


def _runs(profiles: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    # Rows sorted by profile, and where each profile's rows start and stop.
    order = np.argsort(profiles, kind="stable")
    present, starts = np.unique(profiles[order], return_index=True)
    bounds = [*starts.tolist(), len(profiles)]
    return order, list(zip(present.tolist(), bounds[:-1], bounds[1:], strict=True))


def _symbol_likelihoods(on: np.ndarray) -> np.ndarray:
    # (m, 8) uint64 probabilities of bits times 2^16 -> (m, 256) of bytes, times about 2^38.
    likelihoods = np.full((len(on), 1), 2**38, dtype=np.uint64)
    for bit in range(8):
        p = on[:, bit : bit + 1]
        halves = [likelihoods * (2**16 - p) >> 16, likelihoods * p >> 16]
        likelihoods = np.concatenate(halves, axis=1)
    return likelihoods


def _integer_model(likelihoods: np.ndarray) -> np.ndarray:
    # (m, s) uint64 -> (m, s) counts that sum to 2^24 - s. constriction adds one to each and, as
    # the sum is already right, scales by exactly 1: no rounding of its own enters a model.
    free = np.uint64(MODEL_TOTAL - likelihoods.shape[1])
    counts: np.ndarray = likelihoods * free // likelihoods.sum(axis=1, keepdims=True)
    rows = np.arange(len(counts))
    counts[rows, counts.argmax(axis=1)] += free - counts.sum(axis=1)
    return counts


def _categoricals(likelihoods: np.ndarray) -> list[Any]:
    model = constriction.stream.model.Categorical
    counts = _integer_model(likelihoods).astype(np.float64)  # exact: all are below 2^24
    return [model(row, perfect=False) for row in counts]
