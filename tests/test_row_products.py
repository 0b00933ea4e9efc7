"""A row's product does not depend on the rows beside it, nor on the number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitcodec.row_products import RowProduct, laid_out

WIDTHS = st.sampled_from([1, 2, 3, 7, 8, 31, 67, 256, 576])


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def matrices(n_dims: int, n_columns: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(100, n_dims, generator=generator)
    return rows, torch.randn(n_dims, n_columns, generator=generator)


@given(WIDTHS, WIDTHS, st.integers(1, 100), st.sampled_from([1, 2, 5, 16]))
def test_a_rows_product_is_the_same_to_the_bit_for_any_batch_and_number_of_threads(
    n_dims: int, n_columns: int, n_rows: int, n_threads: int
) -> None:
    rows, matrix = matrices(n_dims, n_columns, seed=n_dims * n_columns)
    product = RowProduct(matrix, torch.ones(n_columns))
    torch.set_num_threads(1)
    whole = product(rows)
    torch.set_num_threads(n_threads)
    assert torch.equal(product(rows[-n_rows:]), whole[-n_rows:])


def test_the_layout_of_the_rows_in_memory_makes_no_difference() -> None:
    rows, matrix = matrices(63, 67, seed=0)
    product = RowProduct(matrix)
    assert torch.equal(product(rows.T.contiguous().T), product(rows))


@given(WIDTHS, WIDTHS, st.integers(1, 25))
def test_the_layout_of_a_matrix_of_whole_tiles_makes_no_difference(
    n_dims: int, n_columns: int, n_tiles: int
) -> None:
    rows, matrix = matrices(n_dims, -(-n_columns // 16) * 16, seed=n_dims)
    assert torch.equal(rows[: 4 * n_tiles] @ laid_out(matrix), rows[: 4 * n_tiles] @ matrix)


@given(WIDTHS, WIDTHS)
def test_the_product_is_that_of_float64_to_float32s_rounding(n_dims: int, n_columns: int) -> None:
    rows, matrix = matrices(n_dims, n_columns, seed=1)
    offset = torch.arange(n_columns, dtype=torch.float32)
    found = RowProduct(matrix, offset)(rows)
    torch.testing.assert_close(
        found.double(), rows.double() @ matrix.double() + offset, rtol=1e-5, atol=1e-4
    )
    assert found.is_contiguous()


def test_a_product_keeps_its_own_matrix() -> None:
    rows, matrix = matrices(16, 16, seed=2)
    product = RowProduct(matrix)
    before = product(rows)
    matrix.zero_()
    assert torch.equal(product(rows), before)
    assert product.matrix.shape == (16, 16)


def test_no_rows_give_no_rows() -> None:
    assert RowProduct(torch.ones(5, 3))(torch.empty(0, 5)).shape == (0, 3)
