"""Search with prices of every row's own, against the search with prices for all rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitcodec.errors import ShapeError, ValueRangeError
from bitcodec.refine import CHUNK_ROWS, Refiner
from tests.test_refine import Problem

N_ROWS = CHUNK_ROWS + 40
KINDS = 3


def problem_and_prices() -> tuple[Problem, np.ndarray]:
    """Rows in two chunks; three lists of prices take turns, unlike in the second chunk's place."""
    problem = Problem(n_rows=N_ROWS, n_dims=6, n_bits=12)
    kinds = np.random.default_rng(5).uniform(-1, 3, (KINDS, 12)).astype(np.float32)
    return problem, kinds[np.arange(N_ROWS) % KINDS]


def searched_alike(problem: Problem, prices: np.ndarray) -> np.ndarray:
    """Search the rows of each list with a refiner of that list."""
    weight, bias = torch.from_numpy(problem.weight), torch.from_numpy(problem.bias)
    found = np.empty_like(problem.starts, dtype=np.uint8)
    for kind in range(KINDS):
        rows = slice(kind, None, KINDS)
        refiner = Refiner(weight, bias, price=prices[kind])
        found[rows] = refiner.refine(problem.rows[rows], problem.starts[rows])
    return found


@pytest.mark.parametrize("n_threads", [1, 3])
def test_each_row_is_searched_at_its_own_prices(n_threads: int) -> None:
    problem, prices = problem_and_prices()
    found = problem.refiner().refine(
        problem.rows, problem.starts, prices=prices, n_threads=n_threads
    )
    np.testing.assert_array_equal(found, searched_alike(problem, prices))


def test_so_it_is_in_batches_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitcodec.refine.DEVICE_CHUNK_ROWS", 100)
    problem, prices = problem_and_prices()
    rows, starts = torch.from_numpy(problem.rows), torch.from_numpy(problem.starts)
    found = problem.refiner().refine_on_device(rows, starts, prices=torch.from_numpy(prices))
    assert (found.numpy() == searched_alike(problem, prices)).all(axis=1).mean() > 0.99  # ties


def test_prices_of_other_rows_are_refused() -> None:
    problem, prices = problem_and_prices()
    with pytest.raises(ShapeError, match=r"prices must be \(552, 12\) .*, got \(551, 12\)"):
        problem.refiner().refine(problem.rows, problem.starts, prices=prices[1:])
    prices[7, 3] = np.nan
    with pytest.raises(ValueRangeError, match="prices must be finite"):
        problem.refiner().refine(problem.rows, problem.starts, prices=prices)
