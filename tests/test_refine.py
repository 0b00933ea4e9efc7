"""Searched codes against exhaustive search, a plain reference, and their own starts."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcodec import BitCodec
from bitcodec.errors import ConfigError, ShapeError, ValueRangeError
from bitcodec.refine import CHUNK_ROWS, Refiner, objective, rate_prices
from bitcodec.refine_kernels import DENSE_SHARE, REPAIR_MARGIN

EFFORTS: list[Any] = ["fast", 1, "best"]


class Problem:
    """A decoder, prices, rows and starts; the rows are noisy sums of the decoder's rows."""

    def __init__(
        self,
        *,
        n_rows: int,
        n_dims: int,
        n_bits: int,
        activity: float = 0.3,
        price: float = 0.1,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.weight = rng.standard_normal((n_bits, n_dims)).astype(np.float32)
        self.bias = rng.standard_normal(n_dims).astype(np.float32)
        self.price = price * rng.standard_normal(n_bits)
        true = (rng.random((n_rows, n_bits)) < activity).astype(np.float32)
        noise = 0.3 * rng.standard_normal((n_rows, n_dims))
        self.rows = (true @ self.weight + self.bias + noise).astype(np.float32)
        self.starts = (rng.random((n_rows, n_bits)) < activity).astype(np.uint8)

    def refiner(self) -> Refiner:
        weight, bias = torch.from_numpy(self.weight), torch.from_numpy(self.bias)
        return Refiner(weight, bias, price=self.price)

    def cost(self, bits: np.ndarray) -> np.ndarray:
        rows = self.rows[: len(bits)]
        return objective(rows, bits, weight=self.weight, bias=self.bias, price=self.price)

    def flip_costs(self, bits: np.ndarray) -> np.ndarray:
        """The change of cost that flipping each bit brings, (n, h), each computed from nothing."""
        flipped = [self.cost(bits ^ np.eye(bits.shape[1], dtype=np.uint8)[j]) for j in self.bits]
        changes: np.ndarray = np.stack(flipped, axis=1) - self.cost(bits)[:, None]
        return changes

    def part(self, n_rows: int) -> Problem:
        part = copy.copy(self)
        part.rows, part.starts = self.rows[:n_rows], self.starts[:n_rows]
        return part

    @property
    def bits(self) -> range:
        return range(len(self.weight))

    def lowest_costs(self) -> np.ndarray:
        codes = np.arange(2 ** len(self.weight))[:, None] >> np.arange(len(self.weight)) & 1
        decoded = codes @ self.weight.astype(np.float64) + self.bias
        errors = ((self.rows[:, None] - decoded) ** 2).sum(axis=2)
        lowest: np.ndarray = (errors + codes @ self.price).min(axis=1)
        return lowest

    def reference(self, *, n_passes: int) -> np.ndarray:
        found = [self._search(*pair, n_passes) for pair in zip(self.rows, self.starts, strict=True)]
        return np.array(found, dtype=np.uint8)

    def _gains(self, row: np.ndarray, bits: np.ndarray) -> np.ndarray:
        weight = self.weight.astype(np.float64)
        products = weight @ (row - self.bias - bits @ weight) - self.price / 2
        gains: np.ndarray = (1 - 2.0 * bits) * products - (weight**2).sum(axis=1) / 2
        return gains

    def _descend(self, row: np.ndarray, bits: np.ndarray, held: int | None) -> float:
        total = 0.0
        while True:
            gains = self._gains(row, bits)
            if held is not None:
                gains[held] = -np.inf
            best = int(gains.argmax())
            if gains[best] <= 0:
                return total
            total += float(gains[best])
            bits[best] ^= 1

    def _search(self, row: np.ndarray, start: np.ndarray, n_passes: int) -> np.ndarray:
        bits = start.copy()
        self._descend(row, bits, None)
        for _ in range(n_passes):
            before = bits.copy()
            for j in self.bits:
                if bits[j]:
                    trial, loss = bits.copy(), float(self._gains(row, bits)[j])
                    trial[j] = 0
                    if loss + self._descend(row, trial, j) > REPAIR_MARGIN * abs(loss):
                        bits = trial
                        self._descend(row, bits, None)
            if (bits == before).all():
                break
        return bits


@pytest.fixture(scope="module")
def real(hidden: np.ndarray) -> Problem:
    """Sparse codes of real states: 200 bits over 576 dimensions, in 1,100 rows."""
    codec = BitCodec(
        n_bits=200,
        n_steps=40,
        batch_size=256,
        initial_activity=0.05,
        device="cpu",
        refine="none",
    ).fit(hidden[:2048])
    problem = Problem(n_rows=0, n_dims=1, n_bits=1)
    model = codec._model
    problem.weight = model.decoder_weight.detach().numpy()
    problem.bias = model.decoder_bias.detach().numpy()
    counts = codec.statistics_.counts
    problem.price = rate_prices(counts, codec.statistics_.n_rows, entropy_weight=0.2)
    problem.rows = model.standardise(torch.from_numpy(hidden[2048:3148])).numpy()
    problem.starts = codec.encode_bits(hidden[2048:3148])
    return problem


def test_a_price_is_the_weighted_log_odds_of_a_bit_being_off() -> None:
    prices = rate_prices(np.array([0, 49, 99]), 99, entropy_weight=2.0)
    np.testing.assert_allclose(prices, [2 * np.log2(199), 2 * np.log2(50.5 / 49.5), -prices[0]])


def test_the_price_is_the_slope_of_trainings_entropy() -> None:
    n_rows, count = 10**6, 30_000
    p = np.array([count, count + 1]) / n_rows
    entropies = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    price = rate_prices(np.array([count]), n_rows, entropy_weight=0.4)[0]
    assert price == pytest.approx(0.4 * n_rows * (entropies[1] - entropies[0]), rel=1e-3)


def test_the_objective_of_a_row_done_by_hand() -> None:
    cost = objective(
        np.array([[3.0, 4]]),
        np.array([[1, 1]]),
        weight=np.array([[1.0, 0], [0, 2]]),
        bias=np.array([0, 1.0]),
        price=np.array([0.5, 0.25]),
    )
    assert cost.tolist() == [4 + 1 + 0.75]


@settings(deadline=None, max_examples=40)
@given(
    n_rows=st.sampled_from([0, 1, 7, 8, 9]),
    n_dims=st.integers(1, 9),
    n_bits=st.integers(1, 17),
    activity=st.floats(0, 1),
    price=st.sampled_from([0.0, 0.1, 10.0]),
    shift=st.sampled_from([0.0, 1e3, 1e6]),
    effort=st.sampled_from(EFFORTS),
    seed=st.integers(0, 2**16),
)
def test_a_searched_code_never_costs_more_than_its_start(
    n_rows: int,
    n_dims: int,
    n_bits: int,
    activity: float,
    price: float,
    shift: float,
    effort: Any,
    seed: int,
) -> None:
    problem = Problem(
        n_rows=n_rows, n_dims=n_dims, n_bits=n_bits, activity=activity, price=price, seed=seed
    )
    problem.rows += np.float32(shift)  # so far off, float32 gains are mostly rounding
    problem.price = problem.refiner()._price.numpy().astype(np.float64)
    starts = problem.starts.copy()
    before = problem.cost(starts)
    tolerance = 1e-14 * np.abs(before) + 1e-10
    on_cpu = problem.refiner().refine(problem.rows, starts, effort=effort)
    tensors = torch.from_numpy(problem.rows), torch.from_numpy(starts)
    on_device = problem.refiner().refine_on_device(*tensors, effort=effort).numpy()
    for refined in (on_cpu, on_device):
        assert refined.shape == starts.shape
        assert refined.dtype == np.uint8
        assert (problem.cost(refined) <= before + tolerance).all()
    assert (starts == problem.starts).all()


def test_gains_that_are_only_rounding_never_win() -> None:
    # From a searched start, rows move far away at right angles to every row of D: nothing is left
    # to gain, but float32 errs by more than a flip costs. Unguarded, some rows get worse.
    problem = Problem(n_rows=1000, n_dims=64, n_bits=40, price=0.0)
    problem.weight -= problem.weight.mean(axis=1, keepdims=True)
    problem.weight *= np.float32(0.05)
    noise = 0.1 * np.random.default_rng(1).standard_normal(problem.rows.shape)
    decoded = problem.starts @ problem.weight + problem.bias
    problem.rows = (decoded + noise).astype(np.float32)
    problem.starts = problem.refiner().refine(problem.rows, problem.starts, effort="best")
    problem.rows += np.float32(1e5)
    tensors = torch.from_numpy(problem.rows), torch.from_numpy(problem.starts)
    limit = problem.cost(problem.starts) * (1 + 1e-14)
    refiner = problem.refiner()
    assert (problem.cost(refiner.refine(problem.rows, problem.starts)) <= limit).all()
    assert (problem.cost(refiner.refine_on_device(*tensors).numpy()) <= limit).all()


@pytest.mark.parametrize("effort", EFFORTS)
def test_no_single_flip_improves_a_searched_code(effort: Any) -> None:
    problem = Problem(n_rows=50, n_dims=6, n_bits=14)
    refined = problem.refiner().refine(problem.rows, problem.starts, effort=effort)
    assert problem.flip_costs(refined).min() > -1e-4
    assert problem.flip_costs(problem.starts).min() < -1


@pytest.mark.parametrize(("n_bits", "n_dims"), [(4, 6), (8, 8), (12, 8), (12, 16)])
def test_best_finds_in_most_rows_what_exhaustive_search_finds(n_bits: int, n_dims: int) -> None:
    problem = Problem(n_rows=200, n_dims=n_dims, n_bits=n_bits)
    lowest = problem.lowest_costs()
    costs = problem.cost(problem.refiner().refine(problem.rows, problem.starts, effort="best"))
    assert (costs > lowest - 1e-9).all()
    assert (costs < lowest + 1e-3).mean() >= 0.8


def test_more_effort_costs_less_on_average() -> None:
    problem = Problem(n_rows=300, n_dims=8, n_bits=30, activity=0.2)
    refiner = problem.refiner()
    codes = [refiner.refine(problem.rows, problem.starts, effort=effort) for effort in EFFORTS]
    fast, one, best = (problem.cost(code).mean() for code in codes)
    assert problem.cost(problem.starts).mean() > 2 * fast
    assert fast > 1.1 * one
    assert one > best


@pytest.mark.parametrize(("effort", "n_passes"), [("fast", 0), (1, 1), (2, 2), ("best", 1000)])
@pytest.mark.parametrize("activity", [0.02, 0.4])
def test_the_search_takes_the_flips_of_a_plain_float64_search(
    effort: Any, n_passes: int, activity: float
) -> None:
    problem = Problem(n_rows=20, n_dims=24, n_bits=150, activity=activity)
    refined = problem.refiner().refine(problem.rows, problem.starts, effort=effort)
    assert (refined == problem.reference(n_passes=n_passes)).all()
    assert (refined != problem.starts).any(axis=1).all()


def test_on_real_states_the_search_takes_the_flips_of_a_plain_search(real: Problem) -> None:
    refined = real.refiner().refine(real.rows, real.starts)
    same = (refined[:200] == real.part(200).reference(n_passes=0)).all(axis=1)
    assert same.sum() >= 199  # gains that tie in float32 may fall either way


@pytest.mark.parametrize("effort", ["fast", 1])
def test_on_real_states_search_saves_over_a_tenth_of_the_objective(
    real: Problem, effort: Any
) -> None:
    refined = real.refiner().refine(real.rows, real.starts, effort=effort)
    before, after = real.cost(real.starts), real.cost(refined)
    assert (after <= before).all()
    assert after.mean() < 0.9 * before.mean()


@pytest.mark.parametrize("effort", EFFORTS)
def test_batched_search_gives_the_codes_of_the_compiled_one(real: Problem, effort: Any) -> None:
    n_rows = 1100 if effort == "fast" else 12
    rows, starts = real.rows[:n_rows], real.starts[:n_rows]
    compiled = real.refiner().refine(rows, starts, effort=effort)
    tensors = torch.from_numpy(rows), torch.from_numpy(starts)
    batched = real.refiner().refine_on_device(*tensors, effort=effort)
    same = (batched.numpy() == compiled).all(axis=1)
    assert same.mean() >= 1 - 1 / n_rows


def test_a_code_does_not_depend_on_the_rows_beside_it(real: Problem) -> None:
    refiner = real.refiner()
    whole = refiner.refine(real.rows, real.starts, effort=1)
    order = np.random.default_rng(0).permutation(len(whole))
    assert (refiner.refine(real.rows[order], real.starts[order], effort=1) == whole[order]).all()
    for size in (1, 7, 100, CHUNK_ROWS + 1):
        for start in range(0, 2 * size, size):
            part = slice(start, start + size)
            refined = refiner.refine(real.rows[part], real.starts[part], effort=1)
            assert (refined == whole[part]).all()


@pytest.mark.parametrize("size", [1, 7])
def test_near_ties_fall_the_same_way_in_every_batch(size: int) -> None:
    # Every bit has a twin one float away: the last bit of each product decides between the two.
    problem = Problem(n_rows=84, n_dims=576, n_bits=120, price=0.0, activity=0.1)
    ends = np.random.default_rng(2).choice([-1, 1], size=(60, 576)) * np.float32(np.inf)
    problem.weight[60:] = np.nextafter(problem.weight[:60], ends.astype(np.float32))
    problem.starts[:] = 0
    refiner = problem.refiner()
    whole = refiner.refine(problem.rows, problem.starts)
    parts = [slice(start, start + size) for start in range(0, 84, size)]
    refined = [refiner.refine(problem.rows[part], problem.starts[part]) for part in parts]
    assert (np.concatenate(refined) == whole).all()


def test_a_sparse_row_may_stand_among_dense_ones(real: Problem) -> None:
    starts = real.starts[:64].copy()
    starts[::2, : 2 * starts.shape[1] // DENSE_SHARE] = 1
    whole = real.refiner().refine(real.rows[:64], starts)
    single = [real.refiner().refine(real.rows[i : i + 1], starts[i : i + 1])[0] for i in range(64)]
    assert (whole == single).all()
    assert (real.cost(real.starts[:64]) < real.cost(starts)).any()


def test_the_number_of_threads_changes_neither_codes_nor_global_state(real: Problem) -> None:
    refiner, before = real.refiner(), torch.get_num_threads()
    codes = [refiner.refine(real.rows, real.starts, n_threads=n) for n in (1, 2, 5)]
    assert torch.get_num_threads() == before
    try:
        torch.set_num_threads(1)
        codes.append(refiner.refine(real.rows, real.starts))
    finally:
        torch.set_num_threads(before)
    assert all((code == codes[0]).all() for code in codes)


def test_threads_may_share_a_refiner(real: Problem) -> None:
    refiner = real.refiner()
    alone = refiner.refine(real.rows, real.starts)
    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(refiner.refine, real.rows, real.starts) for _ in range(4)]
        assert all((task.result() == alone).all() for task in tasks)


def test_later_changes_of_the_decoder_do_not_reach_a_refiner() -> None:
    problem = Problem(n_rows=5, n_dims=4, n_bits=9)
    refiner = problem.refiner()
    before = refiner.refine(problem.rows, problem.starts)
    problem.weight *= -1
    assert (refiner.refine(problem.rows, problem.starts) == before).all()


def test_a_price_beyond_any_error_decides_alone() -> None:
    problem = Problem(n_rows=6, n_dims=5, n_bits=11)
    problem.price = np.where(np.arange(11) % 2, 1e6, -1e6)
    refined = problem.refiner().refine(problem.rows, problem.starts)
    assert (refined == [1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]).all()


def test_a_bit_without_weight_follows_its_price() -> None:
    problem = Problem(n_rows=4, n_dims=3, n_bits=3)
    problem.weight[:] = 0
    problem.price = np.array([1.0, 0.0, -1.0])
    starts = np.array([[1, 1, 1], [0, 0, 0], [1, 0, 1], [0, 1, 0]], dtype=np.uint8)
    refined = problem.refiner().refine(problem.rows, starts, effort="best")
    assert refined.tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 1], [0, 1, 1]]


def test_repair_leaves_a_code_that_no_flip_improves() -> None:
    # One long row of D near the target hides that two orthogonal ones meet it exactly.
    weight, bias = torch.tensor([[1.0, 0], [0, 1], [0.9, 0.8]]), torch.zeros(2)
    refiner = Refiner(weight, bias, price=np.zeros(3))
    row, start = np.ones((1, 2), dtype=np.float32), np.zeros((1, 3), dtype=np.uint8)
    assert refiner.refine(row, start, effort="fast").tolist() == [[0, 0, 1]]
    assert refiner.refine(row, start, effort=1).tolist() == [[1, 1, 0]]


def test_bool_starts_and_strided_rows_are_taken() -> None:
    problem = Problem(n_rows=10, n_dims=4, n_bits=9)
    refiner = problem.refiner()
    every_other = refiner.refine(problem.rows[::2], problem.starts[::2].astype(bool))
    assert (every_other == refiner.refine(problem.rows, problem.starts)[::2]).all()


@pytest.mark.parametrize("effort", ["slow", -1, 1.5, True])
def test_an_unknown_effort_is_refused(effort: Any) -> None:
    problem = Problem(n_rows=2, n_dims=3, n_bits=4)
    with pytest.raises(ConfigError, match="number of repair passes, got"):
        problem.refiner().refine(problem.rows, problem.starts, effort=effort)


def test_rows_and_bits_of_other_shapes_are_refused() -> None:
    problem = Problem(n_rows=2, n_dims=3, n_bits=4)
    with pytest.raises(ShapeError, match=r"\(n, 3\) and \(n, 4\), got \(2, 3\) and \(1, 4\)"):
        problem.refiner().refine(problem.rows, problem.starts[:1])
    with pytest.raises(ShapeError, match=r"got \(3,\) and \(4,\)"):
        problem.refiner().refine(problem.rows[0], problem.starts[0])


def test_prices_that_do_not_fit_are_refused() -> None:
    weight, bias = torch.ones(4, 3), torch.zeros(3)
    with pytest.raises(ShapeError, match=r"got \(4, 3\), \(3,\) and \(3,\)"):
        Refiner(weight, bias, price=np.zeros(3))
    with pytest.raises(ValueRangeError, match="prices must be finite"):
        Refiner(weight, bias, price=np.array([0, np.inf, 0, 0]))


@pytest.mark.gpu
def test_a_gpu_gives_the_codes_of_the_cpu(real: Problem) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    weight, bias = torch.from_numpy(real.weight).cuda(), torch.from_numpy(real.bias).cuda()
    refiner = Refiner(weight, bias, price=real.price)
    for effort in ("fast", 1):
        refined = refiner.refine(real.rows[:256], real.starts[:256], effort=effort)
        expected = real.refiner().refine(real.rows[:256], real.starts[:256], effort=effort)
        assert (refined == expected).all(axis=1).mean() >= 0.99
