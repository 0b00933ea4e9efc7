"""Codes searched at a context table's prices: the objective, blocks, and what they save."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcodec import BitCodec
from bitcodec.bits import unpack
from bitcodec.context_search import BLOCK_ROWS, ContextSearch
from bitcodec.context_table import UNIT, ContextTable
from bitcodec.errors import ConfigError, ShapeError
from bitcodec.range_coding import ProbabilityTable, compress, learn_context
from bitcodec.refine import Refiner


class Problem:
    """A small decoder, a table of strong contexts, rows and starts."""

    def __init__(self, *, n_rows: int, n_bits: int = 6, n_dims: int = 4, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.weight = rng.standard_normal((n_bits, n_dims)).astype(np.float32)
        self.bias = rng.standard_normal(n_dims).astype(np.float32)
        self.entropy_weight = 0.5
        self.table = ContextTable(
            bias=rng.integers(-40, 10, n_bits).astype(np.int16),
            within=np.triu(rng.integers(-40, 40, (n_bits, n_bits)), 1).astype(np.int8),
            across=rng.integers(-40, 40, (n_bits, n_bits)).astype(np.int8),
        )
        self.rows = rng.standard_normal((n_rows, n_dims)).astype(np.float32)
        self.starts = (rng.random((n_rows, n_bits)) < 0.3).astype(np.uint8)

    def search(self) -> ContextSearch:
        weight, bias = torch.from_numpy(self.weight), torch.from_numpy(self.bias)
        refiner = Refiner(weight, bias, price=np.zeros(len(weight)))
        return ContextSearch(refiner, self.table, entropy_weight=self.entropy_weight)

    def costs(self, bits: np.ndarray) -> np.ndarray:
        """Every row's squared error and price, bit by bit, in plain Python."""
        costs = []
        for t, row in enumerate(bits):
            residual = self.rows[t] - self.bias - row.astype(np.float64) @ self.weight
            before = bits[t - 1] if t else np.zeros_like(row)
            total = 0.0
            for j, bit in enumerate(row):
                logit = int(self.table.bias[j])
                logit += sum(int(w) for b, w in zip(row, self.table.within[:, j], strict=True) if b)
                logit += sum(
                    int(w) for b, w in zip(before, self.table.across[:, j], strict=True) if b
                )
                on = 1 / (1 + math.exp(-UNIT * logit))
                total -= math.log2(on if bit else 1 - on)
            costs.append(residual @ residual + self.entropy_weight * total)
        return np.array(costs)


@pytest.fixture(scope="module")
def real(hidden: np.ndarray) -> tuple[BitCodec, np.ndarray, ContextTable]:
    """A sparse codec of real states, 1,500 consecutive rows, and a table that tells much of them.

    With few rows, weights would not earn their place: they get it cheaper.
    """
    codec = BitCodec(n_bits=256, n_steps=80, batch_size=256, entropy_weight=0.5, device="cpu")
    codec.fit(hidden)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bitcodec.context_learning.WEIGHT_COST", 0.3)
        table = learn_context(codec.encode(hidden), n_bits=256, n_steps=150)
    return codec, hidden[:1500], table


def test_the_objective_is_error_plus_the_tables_price_of_every_bit() -> None:
    problem = Problem(n_rows=9)
    costs = problem.search().objective(problem.rows, problem.starts)
    np.testing.assert_allclose(costs, problem.costs(problem.starts), rtol=1e-5)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), n_rows=st.integers(1, 12), effort=st.sampled_from(["fast", 2]))
def test_a_block_never_costs_more_than_its_start(seed: int, n_rows: int, effort: Any) -> None:
    problem = Problem(n_rows=n_rows, seed=seed)
    found = problem.search().refine(problem.rows, problem.starts, effort=effort)
    before, after = problem.costs(problem.starts).sum(), problem.costs(found).sum()
    assert after <= before + 1e-5 * abs(before)


def test_bits_are_priced_at_the_derivative_of_the_code_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = Problem(n_rows=5)
    bits = torch.from_numpy(problem.starts).double().requires_grad_()
    bias, within, across = (
        UNIT * torch.from_numpy(weights).double()
        for weights in (problem.table.bias, problem.table.within, problem.table.across)
    )
    logits = bias + bits @ within + torch.cat([torch.zeros(1, 6), bits[:-1]]) @ across
    nats = torch.nn.functional.softplus(logits) - bits * logits
    (problem.entropy_weight * nats.sum() / math.log(2)).backward()
    assert bits.grad is not None
    priced: list[np.ndarray] = []

    def note(self: Refiner, rows: Any, starts: np.ndarray, *, prices: Any, effort: Any) -> Any:
        priced.append(prices)
        return starts

    monkeypatch.setattr(Refiner, "refine", note)
    problem.search().refine(problem.rows, problem.starts)
    np.testing.assert_allclose(priced[0], bits.grad[0::2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(priced[1], bits.grad[1::2], rtol=1e-4, atol=1e-5)


def test_a_row_is_left_as_it_is_where_the_next_would_lose_more() -> None:
    problem = Problem(n_rows=2, n_bits=1, n_dims=1)
    problem.weight, problem.bias = np.ones((1, 1), np.float32), np.zeros(1, np.float32)
    surprising = round(6 / UNIT), np.array([[round(7 / UNIT)]], np.int8)
    problem.table = ContextTable(
        bias=np.array([-surprising[0]], np.int16),
        within=np.zeros((1, 1), np.int8),
        across=surprising[1],
    )
    problem.rows, problem.starts = np.array([[2.9], [0.0]], np.float32), np.zeros((2, 1), np.uint8)
    on = np.array([[1], [0]], np.uint8)
    costs = problem.costs(on) - problem.costs(problem.starts)
    assert costs[0] < 0 < costs.sum()  # turning it on pays for its row, not for both
    assert not problem.search().refine(problem.rows, problem.starts).any()


def test_one_row_is_searched_nearly_as_well_as_by_trying_all_codes() -> None:
    all_codes = (np.arange(64)[:, None] >> np.arange(6) & 1).astype(np.uint8)
    excess = []
    for seed in range(60):
        problem = Problem(n_rows=1, seed=seed)
        found = problem.search().refine(problem.rows, problem.starts, effort="best")
        best = min(problem.costs(code[None])[0] for code in all_codes)
        start, cost = problem.costs(problem.starts)[0], problem.costs(found)[0]
        assert cost > best - 1e-4
        excess.append((cost - best) / max(start - best, 1e-9))
    assert np.mean(excess) < 0.2, "most of what exhaustive search saves is saved"


def test_searched_in_context_real_states_take_fewer_bytes_and_have_less_error(
    real: tuple[BitCodec, np.ndarray, ContextTable],
) -> None:
    codec, rows, table = real
    alone, together = codec.encode(rows), codec.encode(rows, context=table)
    sizes = [len(compress(codes, table)) for codes in (alone, together)]
    errors = [float(((rows - codec.decode(codes)) ** 2).sum()) for codes in (alone, together)]
    assert sizes[1] < 0.999 * sizes[0]
    assert errors[1] < errors[0]


def test_the_objective_falls_on_real_states(
    real: tuple[BitCodec, np.ndarray, ContextTable],
) -> None:
    codec, rows, table = real
    block = rows[:BLOCK_ROWS]
    standardised = codec._model.standardise(torch.from_numpy(block)).numpy()
    search = ContextSearch(codec._refiner(), table, entropy_weight=0.5)
    totals = [
        search.objective(standardised, unpack(codes[:BLOCK_ROWS], n_bits=256)).sum()
        for codes in (codec.encode(block), codec.encode(block, context=table))
    ]
    assert totals[1] < 0.999 * totals[0]


def test_codes_do_not_depend_on_the_batches_of_a_stream(
    real: tuple[BitCodec, np.ndarray, ContextTable], tmp_path: Path
) -> None:
    codec, rows, table = real
    expected = codec.encode(rows, context=table)
    for place, part in enumerate(np.split(rows, [300, 1400])):
        np.save(tmp_path / f"{place}.npy", part)
    for batch_size in (64, 4096):
        batches = list(codec.encode_batches(tmp_path, context=table, batch_size=batch_size))
        np.testing.assert_array_equal(np.concatenate(batches), expected)


def test_codes_do_not_depend_on_the_number_of_threads(
    real: tuple[BitCodec, np.ndarray, ContextTable],
) -> None:
    codec, rows, table = real
    expected = codec.encode(rows, context=table)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 if threads != 3 else 2)
        np.testing.assert_array_equal(codec.encode(rows, context=table), expected)
    finally:
        torch.set_num_threads(threads)


def test_each_block_is_searched_alone(real: tuple[BitCodec, np.ndarray, ContextTable]) -> None:
    codec, rows, table = real
    whole = codec.encode(rows, context=table)
    np.testing.assert_array_equal(
        whole[BLOCK_ROWS:], codec.encode(rows[BLOCK_ROWS:], context=table)
    )


def test_a_table_without_search_and_one_of_other_bits_are_refused(
    real: tuple[BitCodec, np.ndarray, ContextTable],
) -> None:
    codec, rows, table = real
    with pytest.raises(ConfigError, match="got refine='none'"):
        codec.encode(rows, refine="none", context=table)
    with pytest.raises(ConfigError, match=r"context must be a ContextTable, .* got Probability"):
        codec.encode(rows, context=ProbabilityTable.from_statistics(codec.statistics_))  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="must be of 256 bits as the codes are, got one of 6"):
        codec.encode(rows, context=Problem(n_rows=1).table)
