"""Blocks of packed rows as words of a range coder, and back.

A range coder (constriction) codes every byte of a row with a 256-way model: the product of the
probabilities of its bits. With a table of several profiles, each row's profile is coded before the
rows. Models are made from the table's levels by integer arithmetic, and are the same everywhere.

Side bytes follow, column by column. The upper byte of a factor or a length takes few values, on
which a block's own histogram saves six of its eight bits; the lower byte is noise and takes eight.

Format of a block:

    8s   digest of the block's place, its rows and their number of side bytes
    u8   for each side byte: the number of values in its histogram, 0 for eight bits a value
         after each number, (u8, u8) for each value: the value, and its weight from 1
    u32  words of the range coder, little-endian
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import Any

import constriction
import numpy as np

from bitcodec.bits import check_packed, row_bytes, unpack
from bitcodec.config import SIDE_BYTES
from bitcodec.errors import ConfigError, FormatError, ShapeError
from bitcodec.probability import EVEN, MODEL_TOTAL, Buffer, ProbabilityTable, probability_levels

MAX_BLOCK_ROWS = 2**16
"""Rows of the largest block."""
MAX_BLOCK_BYTES = 2**28
"""Packed bytes of the largest block."""
_DIGEST_BYTES = 8
_SLACK_BITS = 128  # by which a range coder's words may fall short of the information
_CACHED_MODELS = 2**15
_MODELS_AT_ONCE = 2048
_ROWS_AT_ONCE = 4096  # so that choosing profiles needs little memory
# A histogram of v values takes 16 v bits, and its rows about log2(v) bits or less: it saves a bit
# of a row's eight or more where there are no more values than this, and eight rows to each.
_MOST_VALUES, _ROWS_PER_VALUE = 32, 8


class BlockCoder:
    """Code blocks of rows with one table; its models are built once and kept.

    Threads may share one.

    Args:
        table: the probabilities of the bits.
        side_bytes: bytes of a row after those of its bits, 0, 2 or 4.

    Raises:
        ConfigError: `side_bytes` is another number.
    """

    def __init__(self, table: ProbabilityTable, side_bytes: int = 0) -> None:
        if side_bytes not in SIDE_BYTES:
            raise ConfigError(f"side_bytes must be 0, 2 or 4, got {side_bytes}")
        self.table, self.side_bytes = table, side_bytes
        self.code_bytes = row_bytes(table.n_bits)
        self.row_bytes = self.code_bytes + side_bytes
        self._models: dict[int, list[Any]] = {}
        if table.n_profiles > 1:
            self._profile_model = _categoricals(table.weights.astype(np.uint64)[None])[0]

    def __reduce__(self) -> tuple[type[BlockCoder], tuple[ProbabilityTable, int]]:
        """Pickle the table; the models are built again."""
        return BlockCoder, (self.table, self.side_bytes)

    def check_rows(self, packed: np.ndarray) -> None:
        """Raise unless an array holds (n, ceil(h / 8) + side_bytes) uint8 rows.

        Raises:
            ShapeError: the width is not that of h bits and the side bytes.
            ValueRangeError: the dtype is not uint8, or a pad bit is set.
        """
        if packed.ndim != 2 or packed.shape[1] != self.row_bytes:
            raise ShapeError(
                f"packed must be (n, {self.row_bytes}) for {self.table.n_bits} bits and "
                f"{self.side_bytes} side bytes, got {packed.shape}"
            )
        check_packed(packed[:, : self.code_bytes], n_bits=self.table.n_bits)

    def encode(self, packed: np.ndarray, *, place: int = 0) -> bytes:
        """Encode a block.

        Args:
            packed: (n, ceil(h / 8) + side_bytes) uint8, n up to 65,536.
            place: number of the block's first row, bound into its digest.

        Returns:
            The block, as the module says.

        Raises:
            ShapeError, ValueRangeError: as `check_rows`; or there are too many rows.
        """
        self.check_rows(packed)
        if len(packed) > MAX_BLOCK_ROWS or packed.size > MAX_BLOCK_BYTES:
            raise ShapeError(
                f"a block has at most {MAX_BLOCK_ROWS} rows and {MAX_BLOCK_BYTES} bytes, got "
                f"{packed.shape}: choose a smaller block_rows"
            )
        encoder = constriction.stream.queue.RangeEncoder()
        self._encode_codes(encoder, packed[:, : self.code_bytes])
        head = self._digest(packed, place)
        for column in packed[:, self.code_bytes :].T:
            histogram = _histogram(column)
            head += bytes([len(histogram)]) + histogram.tobytes()
            encoder.encode(column.astype(np.int32), _histogram_model(histogram))
        words: bytes = encoder.get_compressed().astype("<u4").tobytes()
        return head + words

    def check_size(self, size: int, *, n_rows: int) -> None:
        """Raise unless a block of `size` bytes can hold `n_rows` rows.

        Raises:
            FormatError: it cannot.
        """
        free = size - _DIGEST_BYTES - self.side_bytes
        small = n_rows <= MAX_BLOCK_ROWS and n_rows * self.row_bytes <= MAX_BLOCK_BYTES
        if not (free >= 0 and small and n_rows * self.table.least_bits <= 8 * free + _SLACK_BITS):
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
            (n_rows, ceil(h / 8) + side_bytes) uint8.

        Raises:
            FormatError: the block is damaged, from another place or coded with another table.
        """
        view = memoryview(data).cast("B")
        self.check_size(len(view), n_rows=n_rows)
        try:
            packed = self._decode_rows(view[_DIGEST_BYTES:], n_rows)
        except (AssertionError, IndexError, KeyError, ValueError) as error:
            raise FormatError(f"the block at row {place} is damaged: {error}") from error
        if self._digest(packed, place) != view[:_DIGEST_BYTES]:
            raise FormatError(f"the block at row {place} is damaged: its checksum does not match")
        return packed

    def _encode_codes(self, encoder: Any, codes: np.ndarray) -> None:
        profiles = self._choose(codes)
        if self.table.n_profiles > 1 and len(codes):
            encoder.encode(profiles.astype(np.int32), self._profile_model)
        order, runs = _runs(profiles)
        columns = np.ascontiguousarray(codes[order].T).astype(np.int32)
        for column, symbols in enumerate(columns):
            models = self._column_models(column)
            for profile, start, stop in runs:
                encoder.encode(symbols[start:stop], models[profile])

    def _decode_rows(self, view: memoryview, n_rows: int) -> np.ndarray:
        histograms, view = _read_histograms(view, self.side_bytes)
        words = np.frombuffer(view, "<u4").astype(np.uint32)
        decoder = constriction.stream.queue.RangeDecoder(words)
        packed = np.empty((n_rows, self.row_bytes), dtype=np.uint8)
        packed[:, : self.code_bytes] = self._decode_codes(decoder, n_rows)
        for column, histogram in enumerate(histograms, start=self.code_bytes):
            packed[:, column] = decoder.decode(_histogram_model(histogram), n_rows)
        if not decoder.maybe_exhausted():
            raise ValueError("bytes are left over")
        return packed

    def _decode_codes(self, decoder: Any, n_rows: int) -> np.ndarray:
        profiles = np.zeros(n_rows, dtype=np.uint8)
        if self.table.n_profiles > 1 and n_rows:
            profiles[:] = decoder.decode(self._profile_model, n_rows)
        order, runs = _runs(profiles)
        columns = np.empty((self.code_bytes, n_rows), dtype=np.uint8)
        for column, symbols in enumerate(columns):
            models = self._column_models(column)
            for profile, start, stop in runs:
                symbols[start:stop] = decoder.decode(models[profile], stop - start)
        codes = np.empty((n_rows, self.code_bytes), dtype=np.uint8)
        codes[order] = columns.T
        return codes

    def _choose(self, codes: np.ndarray) -> np.ndarray:
        # The cheapest profile of each row, in exact integers so that every machine chooses alike.
        if self.table.n_profiles == 1:
            return np.zeros(len(codes), dtype=np.uint8)
        exact = np.dtype("float32" if self.table.n_bits * EVEN < 2**24 else "float64")
        slopes: np.ndarray = self.table.levels.astype(exact).T - EVEN
        off_costs = probability_levels()[1][self.table.levels].sum(axis=1)
        chosen = np.empty(len(codes), dtype=np.uint8)
        for start in range(0, len(codes), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            bits = unpack(codes[rows], n_bits=self.table.n_bits).astype(exact)
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
        built = dict(self._build(first, min(first + step, self.code_bytes)))
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
        return hashlib.blake2b(
            np.ascontiguousarray(packed).data,
            digest_size=_DIGEST_BYTES,
            key=self.table.digest,
            salt=struct.pack("<Q", place),
            person=bytes([self.side_bytes]),  # BLAKE2b takes a 0 for nothing at all
        ).digest()


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


def _histogram(column: np.ndarray) -> np.ndarray:
    # (v, 2) uint8, a column's values and their weights; (0, 2) where it would not pay.
    counts = np.bincount(column, minlength=256)
    values = np.flatnonzero(counts)
    if len(values) > min(_MOST_VALUES, len(column) // _ROWS_PER_VALUE):
        values = values[:0]
    weights = -(-255 * counts[values] // max(counts.max(), 1))  # rounded up: no weight is 0
    return np.stack([values, weights], axis=1).astype(np.uint8)


def _read_histograms(view: memoryview, n_columns: int) -> tuple[list[np.ndarray], memoryview]:
    # The histograms that a block starts with, and the rest of it.
    histograms = []
    for _ in range(n_columns):
        n_values = view[0]
        histogram = np.frombuffer(view[1:], np.uint8, 2 * n_values).reshape(n_values, 2)
        if not histogram[:, 1].all():
            raise ValueError("a side byte's value has no weight")
        histograms.append(histogram)
        view = view[1 + 2 * n_values :]
    return histograms, view


def _histogram_model(histogram: np.ndarray) -> Any:
    likelihoods = np.zeros((1, 256), dtype=np.uint64)
    likelihoods[0, histogram[:, 0]] = histogram[:, 1]
    return _categoricals(likelihoods if len(histogram) else likelihoods + 1)[0]
