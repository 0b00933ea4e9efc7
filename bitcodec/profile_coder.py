"""The bits of rows as symbols of a range coder, a byte at a time.

A range coder (constriction) codes every byte of a row with a 256-way model: the product of the
probabilities of its bits. With a table of several profiles, each row's profile is coded before the
rows. Models are made from the table's levels by integer arithmetic, and are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import constriction
import numpy as np

from bitcodec.bits import row_bytes, unpack
from bitcodec.probability import EVEN, MODEL_TOTAL, ProbabilityTable, probability_levels

_CACHED_MODELS = 2**15
_MODELS_AT_ONCE = 2048
_ROWS_AT_ONCE = 4096  # so that choosing profiles needs little memory


class ProfileCoder:
    """Code the bits of blocks with a table of profiles; its models are built once and kept.

    Threads may share one.

    Args:
        table: the probabilities.
    """

    def __init__(self, table: ProbabilityTable) -> None:
        self._table = table
        self._code_bytes = row_bytes(table.n_bits)
        self._models: dict[int, list[Any]] = {}
        if table.n_profiles > 1:
            self._profile_model = categoricals(table.weights.astype(np.uint64)[None])[0]

    def encode(self, codes: np.ndarray) -> tuple[bytes, Any]:
        """Encode checked rows.

        Args:
            codes: (n, ceil(h / 8)) uint8.

        Returns:
            Nothing, and the range coder that holds them, for what follows.
        """
        encoder = constriction.stream.queue.RangeEncoder()
        profiles = self._choose(codes)
        if self._table.n_profiles > 1 and len(codes):
            encoder.encode(profiles.astype(np.int32), self._profile_model)
        order, runs = _runs(profiles)
        columns = np.ascontiguousarray(codes[order].T).astype(np.int32)
        for column, symbols in enumerate(columns):
            models = self._column_models(column)
            for profile, start, stop in runs:
                encoder.encode(symbols[start:stop], models[profile])
        return b"", encoder

    def decode(self, view: memoryview, n_rows: int) -> tuple[np.ndarray, Any]:
        """Decode rows.

        Args:
            view: words of the range coder.
            n_rows: number of rows.

        Returns:
            (n_rows, ceil(h / 8)) uint8, and the range coder of what follows.

        Raises:
            AssertionError, KeyError, ValueError: of constriction, for words it cannot have made.
        """
        decoder = constriction.stream.queue.RangeDecoder(
            np.frombuffer(view, "<u4").astype(np.uint32)
        )
        profiles = np.zeros(n_rows, dtype=np.uint8)
        if self._table.n_profiles > 1 and n_rows:
            profiles[:] = decoder.decode(self._profile_model, n_rows)
        order, runs = _runs(profiles)
        columns = np.empty((self._code_bytes, n_rows), dtype=np.uint8)
        for column, symbols in enumerate(columns):
            models = self._column_models(column)
            for profile, start, stop in runs:
                symbols[start:stop] = decoder.decode(models[profile], stop - start)
        codes = np.empty((n_rows, self._code_bytes), dtype=np.uint8)
        codes[order] = columns.T
        return codes, decoder

    def _choose(self, codes: np.ndarray) -> np.ndarray:
        # The cheapest profile of each row, in exact integers so that every machine chooses alike.
        if self._table.n_profiles == 1:
            return np.zeros(len(codes), dtype=np.uint8)
        exact = np.dtype("float32" if self._table.n_bits * EVEN < 2**24 else "float64")
        slopes: np.ndarray = self._table.levels.astype(exact).T - EVEN
        off_costs = probability_levels()[1][self._table.levels].sum(axis=1)
        chosen = np.empty(len(codes), dtype=np.uint8)
        for start in range(0, len(codes), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            bits = unpack(codes[rows], n_bits=self._table.n_bits).astype(exact)
            scores = (bits @ slopes).astype(np.int64) * 2**16 - off_costs
            chosen[rows] = scores.argmax(axis=1)
        return chosen

    def _column_models(self, column: int) -> list[Any]:
        found = self._models.get(column)
        if found is not None:
            return found
        n_profiles = self._table.n_profiles
        step = max(1, _MODELS_AT_ONCE // n_profiles)
        first = column - column % step
        built = dict(self._build(first, min(first + step, self._code_bytes)))
        if (len(self._models) + len(built)) * n_profiles > _CACHED_MODELS:
            self._models = {}  # a huge table: keep only what is at work, so that memory is bounded
        self._models |= built
        return built[column]

    def _build(self, start: int, stop: int) -> Iterator[tuple[int, list[Any]]]:
        on = probability_levels()[0][self._table.levels[:, 8 * start : 8 * stop]]
        padded = np.zeros((self._table.n_profiles, 8 * (stop - start)), dtype=np.uint64)
        padded[:, : on.shape[1]] = on  # pad bits are never on
        likelihoods = _symbol_likelihoods(padded.reshape(-1, 8))
        likelihoods = likelihoods.reshape(self._table.n_profiles, stop - start, 256)
        for column in range(start, stop):
            n_symbols = 2 ** min(8, self._table.n_bits - 8 * column)
            yield column, categoricals(likelihoods[:, column - start, :n_symbols])


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


def categoricals(likelihoods: np.ndarray) -> list[Any]:
    """Make models of constriction that are the same on every machine.

    Args:
        likelihoods: (m, s) uint64, below 2^40 in sum, not all 0 in a row.

    Returns:
        m models of s symbols each.
    """
    model = constriction.stream.model.Categorical
    counts = _integer_model(likelihoods).astype(np.float64)  # exact: all are below 2^24
    return [model(row, perfect=False) for row in counts]
