"""Products of sparse bits by loops, against products of matrices and numpy in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcodec import BitCodec, covariance, sparse_kernels, sparse_products
from bitcodec.covariance import AbsoluteCovariance
from bitcodec.errors import ShapeError
from bitcodec.sparse_products import DENSE_SHARE, reconstruct

Gradients = tuple[torch.Tensor, ...]


def draw_bits(n_rows: int, n_bits: int, *, share: float, seed: int = 0) -> torch.Tensor:
    """Draw bits, the first never on, the second always, the third a copy of the last."""
    generator = torch.Generator().manual_seed(seed)
    bits = (torch.rand(n_rows, n_bits, generator=generator) < share).float()
    bits[:, 0] = 0
    if n_bits > 3:
        bits[:, 1] = 1
        bits[:, 2] = bits[:, -1]
    return bits


def gradients_of(
    function: Callable[..., torch.Tensor], *inputs: torch.Tensor
) -> tuple[torch.Tensor, Gradients]:
    """Return what a function of tensors is, and the gradients of a fixed sum of its elements."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    result = function(*leaves)
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(9)).to(result)
    gradients = torch.autograd.grad((weights * result).sum(), leaves)
    return result.detach(), gradients


@pytest.fixture
def n_sums(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by an entry whenever rows are summed."""
    calls: list[int] = []
    inner = sparse_kernels.sum_rows

    def counted(*arguments: np.ndarray) -> None:
        calls.append(len(arguments[0]))
        inner(*arguments)

    monkeypatch.setattr(sparse_kernels, "sum_rows", counted)
    return calls


@settings(max_examples=30, deadline=None)
@given(
    n_rows=st.sampled_from([1, 3, 63, 64, 65, 200]),
    n_bits=st.sampled_from([1, 7, 64, 130]),
    n_dims=st.sampled_from([1, 5, 40]),
    seed=st.integers(0, 9),
)
def test_sums_of_rows_are_the_product_and_its_gradients(
    n_rows: int, n_bits: int, n_dims: int, seed: int
) -> None:
    bits = draw_bits(n_rows, n_bits, share=0.06, seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n_bits, n_dims, generator=generator, dtype=torch.float64)
    bias = torch.randn(n_dims, generator=generator, dtype=torch.float64)
    expected, slopes = gradients_of(lambda b, d, c: torch.addmm(c, b, d), bits, weight, bias)
    for share in (1, DENSE_SHARE):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sparse_products, "DENSE_SHARE", share)
            found, gradients = gradients_of(reconstruct, bits, weight, bias)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        for gradient, slope in zip(gradients, slopes, strict=True):
            torch.testing.assert_close(gradient, slope, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("share", "summed"), [(0.05, True), (0.3, False)])
def test_rows_are_summed_where_few_bits_are_on(
    share: float, summed: bool, n_sums: list[int]
) -> None:
    reconstruct(draw_bits(100, 80, share=share), torch.randn(80, 6), torch.randn(6))
    assert bool(n_sums) == summed


def test_sums_of_real_codes_do_not_depend_on_the_number_of_threads(
    codec: BitCodec, hidden: np.ndarray, n_sums: list[int]
) -> None:
    bits = torch.from_numpy(codec.encode_bits(hidden[:300])).float()
    weight = torch.randn(bits.shape[1], 576, generator=torch.Generator().manual_seed(0))
    before, found = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            found.append(gradients_of(reconstruct, bits, weight, weight[0]))
            found[-1][1][0].zero_()  # a product of floats, whose last bit is the library's business
    finally:
        torch.set_num_threads(before)
    assert len(n_sums) == 1 + 2 + 3
    for other in found[1:]:
        assert torch.equal(other[0], found[0][0])
        assert all(map(torch.equal, other[1], found[0][1]))
    assert float((found[0][0] - bits @ weight - weight[0]).abs().max()) < 1e-3


def test_bits_of_bfloat16_get_gradients_of_bfloat16_and_exact_sums() -> None:
    bits, weight, bias = draw_bits(64, 90, share=0.05), torch.randn(90, 20), torch.randn(20)
    found, (of_bits, of_weight, _) = gradients_of(reconstruct, bits.bfloat16(), weight, bias)
    expected, slopes = gradients_of(reconstruct, bits, weight, bias)
    assert torch.equal(found, expected)
    assert of_bits.dtype == torch.bfloat16
    assert torch.equal(of_weight, slopes[1])
    torch.testing.assert_close(of_bits.float(), slopes[0], rtol=0.03, atol=0.1)


def test_a_gradient_is_given_for_what_asks_for_one_alone() -> None:
    inputs = draw_bits(70, 50, share=0.05), torch.randn(50, 8), torch.randn(8)
    _, expected = gradients_of(reconstruct, *inputs)
    for place in range(3):
        own = [tensor.clone() for tensor in inputs]
        own[place].requires_grad_()
        total = reconstruct(*own)
        weights = torch.randn(total.shape, generator=torch.Generator().manual_seed(9))
        (weights * total).sum().backward()
        assert torch.equal(own[place].grad, expected[place])  # type: ignore[arg-type]


def test_a_second_derivative_is_refused() -> None:
    bits, weight = draw_bits(70, 50, share=0.05), torch.randn(50, 8, requires_grad=True)
    total = reconstruct(bits, weight, torch.zeros(8)).square().sum()
    (slope,) = torch.autograd.grad(total, weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_weights_in_another_order_in_memory_are_summed_alike() -> None:
    bits, weight, bias = draw_bits(70, 50, share=0.05), torch.randn(8, 50).T, torch.randn(8)
    found, slopes = gradients_of(reconstruct, bits, weight, bias)
    expected, others = gradients_of(reconstruct, bits, weight.contiguous(), bias)
    assert torch.equal(found, expected)
    assert all(map(torch.equal, slopes[1:], others[1:]))


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_shapes_that_do_not_fit_are_refused(share: float) -> None:
    bits = draw_bits(64, 64, share=share)
    with pytest.raises(ShapeError, match=r"\(64, 64\), \(32, 4\) and \(4,\)"):
        reconstruct(bits, torch.randn(32, 4), torch.randn(4))
    with pytest.raises(ShapeError, match=r"\(64, 4\) and \(2,\)"):
        reconstruct(bits, torch.randn(64, 4), torch.randn(2))


@settings(max_examples=40, deadline=None)
@given(
    n_rows=st.sampled_from([1, 2, 63, 64, 65, 300]),
    n_bits=st.sampled_from([2, 9, 70]),
    share=st.sampled_from([0.02, 0.3, 0.7]),
    n_columns=st.sampled_from([1, 2, 8, None]),
    seed=st.integers(0, 9),
)
def test_covariances_by_loops_are_those_by_products(
    n_rows: int, n_bits: int, share: float, n_columns: int | None, seed: int
) -> None:
    bits = draw_bits(n_rows, n_bits, share=share, seed=seed)
    order = torch.randperm(n_bits, generator=torch.Generator().manual_seed(seed))
    columns = None if n_columns is None else order[:n_columns]
    found = by_either(bits, columns, loops=True)
    expected = by_either(bits, columns, loops=False)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1][0], expected[1][0], rtol=1e-5, atol=1e-6)


def by_either(
    bits: torch.Tensor, columns: torch.Tensor | None, *, loops: bool
) -> tuple[torch.Tensor, Gradients]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(covariance, "runs_loops", lambda _: loops)
        return gradients_of(lambda b: AbsoluteCovariance.apply(b, columns), bits)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("n_rows", [6001, 20_001])
@pytest.mark.parametrize("columns", [None, torch.tensor([3, 1, 17])])
def test_covariances_of_many_rows_have_the_signs_of_whole_numbers(
    n_rows: int, columns: torch.Tensor | None
) -> None:
    bits = draw_bits(n_rows, 40, share=0.6)
    found, expected = (by_either(bits, columns, loops=loops) for loops in (True, False))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(found[1][0], expected[1][0], rtol=1e-5, atol=1e-9)
    assert not found[1][0][:, 1].any()  # it is always on, and covaries with nothing


def test_covariances_of_real_codes_do_not_depend_on_the_number_of_threads(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    bits, before = (
        torch.from_numpy(codec.encode_bits(hidden[:300])).float(),
        torch.get_num_threads(),
    )
    found = []
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            found.append([by_either(bits, c, loops=True) for c in (None, torch.arange(0, 30, 3))])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for (total, slopes), (first_total, first_slopes) in zip(other, found[0], strict=True):
            assert torch.equal(total, first_total)
            assert torch.equal(slopes[0], first_slopes[0])


@pytest.mark.parametrize("loops", [True, False])
def test_bits_that_do_not_covary_pull_at_none(loops: bool) -> None:
    # Each in half of the rows, both in a quarter: independent exactly.
    bits = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    total, (slope,) = by_either(bits, None, loops=loops)
    assert float(total) == 0
    assert not slope.any()


def test_more_signs_than_a_byte_can_sum_are_summed() -> None:
    # Half of the rows have all bits on: every pair covaries, and each of them sums all signs.
    bits = torch.zeros(4, 5 * sparse_kernels.MAX_SMALL_SUM)
    bits[:2] = 1
    for columns in (None, torch.arange(200)):
        found, expected = (by_either(bits, columns, loops=loops) for loops in (True, False))
        torch.testing.assert_close(found, expected)
        assert float(found[1][0].abs().max()) > 1
