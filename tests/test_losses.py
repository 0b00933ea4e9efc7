"""The terms of the loss against numpy in float64, and at values known in closed form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcodec.losses import covariance, entropy, fraction_of_variance_unexplained


def random_bits(n_rows: int, n_bits: int, *, seed: int = 0) -> torch.Tensor:
    """Draw bits of different activities, some of them correlated, some constant."""
    generator = np.random.default_rng(seed)
    activity = generator.choice([0.0, 0.05, 0.3, 0.5, 1.0], n_bits)
    bits = generator.random((n_rows, n_bits)) < activity
    bits[:, 1::3] = bits[:, : len(bits[0, 1::3])]
    return torch.from_numpy(bits.astype(np.float32))


def correlated_bits(n_bits: int) -> torch.Tensor:
    """Draw 200 rows of bits of which some vary together more than others."""
    generator = np.random.default_rng(0)
    common = generator.normal(size=(200, 1)) * np.linspace(0, 2, n_bits)
    return torch.from_numpy((common + generator.normal(size=(200, n_bits)) > 1).astype(np.float32))


def entropy_by_numpy(bits: np.ndarray) -> float:
    p = np.stack([1 - bits.mean(axis=0), bits.mean(axis=0)])
    return float(-np.sum(p[p > 0] * np.log2(p[p > 0])))


def covariance_by_numpy(bits: np.ndarray) -> float:
    matrix = np.abs(np.cov(bits, rowvar=False, bias=True))
    return float(matrix.sum() - np.trace(matrix))


def test_fvu_is_the_mean_squared_error_over_rows_and_dimensions() -> None:
    generator = np.random.default_rng(0)
    z, approximation = generator.normal(size=(2, 20, 5))
    found = fraction_of_variance_unexplained(torch.from_numpy(z), torch.from_numpy(approximation))
    assert float(found) == pytest.approx(np.mean((z - approximation) ** 2), rel=1e-12)


def test_predicting_zero_of_standardised_data_has_an_fvu_of_one() -> None:
    x = np.random.default_rng(0).normal(size=(50, 4))
    z = torch.from_numpy((x - x.mean(axis=0)) / x.std(axis=0))
    found = fraction_of_variance_unexplained(z, torch.zeros_like(z))
    assert float(found) == pytest.approx(1.0, rel=1e-12)


def test_bits_that_are_always_off_or_on_have_no_entropy_at_all() -> None:
    bits = torch.tensor([[0.0, 1.0]]).repeat(7, 1)
    assert float(entropy(bits)) == 0.0


def test_bits_that_are_on_in_half_of_the_rows_have_exactly_one_bit_each() -> None:
    bits = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    assert float(entropy(bits)) == 3.0


@settings(max_examples=30)
@given(n_rows=st.sampled_from([1, 7, 8, 9, 300]), n_bits=st.integers(1, 17), seed=st.integers(0, 9))
def test_entropy_equals_the_formula_in_float64(n_rows: int, n_bits: int, seed: int) -> None:
    bits = random_bits(n_rows, n_bits, seed=seed)
    assert float(entropy(bits)) == pytest.approx(entropy_by_numpy(bits.numpy()), rel=1e-5, abs=1e-6)


def test_the_gradient_of_entropy_is_the_log_odds_over_the_rows() -> None:
    bits = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]).requires_grad_()
    entropy(bits).backward()
    assert bits.grad is not None
    slope = np.log2(np.array([0.75 / 0.25, 0.25 / 0.75])) / 4
    np.testing.assert_allclose(bits.grad.numpy(), np.tile(slope, (4, 1)), rtol=1e-6)


def test_the_gradient_of_entropy_is_that_of_half_a_count_where_a_bit_is_constant() -> None:
    bits = torch.tensor([[0.0, 1.0]]).repeat(8, 1).requires_grad_()
    entropy(bits).backward()
    assert bits.grad is not None
    slope = np.log2((1 - 1 / 16) / (1 / 16)) / 8
    np.testing.assert_allclose(bits.grad.numpy(), np.tile([slope, -slope], (8, 1)), rtol=1e-6)


@settings(max_examples=30)
@given(n_rows=st.sampled_from([2, 7, 8, 9, 300]), n_bits=st.integers(2, 17), seed=st.integers(0, 9))
def test_covariance_equals_the_formula_in_float64(n_rows: int, n_bits: int, seed: int) -> None:
    bits = random_bits(n_rows, n_bits, seed=seed)
    expected = covariance_by_numpy(bits.double().numpy())
    assert float(covariance(bits)) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_the_gradient_of_covariance_is_the_signed_deviation_of_the_other_bits() -> None:
    bits = correlated_bits(5).double().requires_grad_()
    covariance(bits).backward()
    values = bits.detach().numpy()
    signs = np.sign(np.cov(values, rowvar=False, bias=True))
    np.fill_diagonal(signs, 0)
    assert np.count_nonzero(signs) == 20
    expected = 2 * (values - values.mean(axis=0)) @ signs / len(values)
    assert bits.grad is not None
    np.testing.assert_allclose(bits.grad.numpy(), expected, rtol=1e-9, atol=1e-15)


def test_two_equal_bits_count_twice_their_variance() -> None:
    bits = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert float(covariance(bits)) == 0.5


def test_opposite_bits_cost_as_much_as_equal_ones() -> None:
    bits = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert float(covariance(bits)) == 0.5


def test_a_single_bit_has_no_covariance_with_itself() -> None:
    assert float(covariance(torch.tensor([[0.0], [1.0]]))) == 0.0


@pytest.mark.parametrize("n_columns", [8, 9, 1000])
def test_sampling_all_columns_is_the_exact_covariance(n_columns: int) -> None:
    bits = random_bits(100, 8)
    assert float(covariance(bits, n_columns=n_columns)) == float(covariance(bits))


def test_the_sampled_covariance_averages_to_the_exact_one_over_all_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bits = correlated_bits(6)
    exact = float(covariance(bits))
    samples = []
    for order in itertools.permutations(range(6)):
        monkeypatch.setattr(torch, "randperm", lambda *_, order=order, **__: torch.tensor(order))
        samples.append(float(covariance(bits, n_columns=2)))
    assert np.std(samples) > 0.1 * exact
    assert np.mean(samples) == pytest.approx(exact, rel=1e-5)


def test_the_sampled_covariance_of_real_draws_averages_to_the_exact_one() -> None:
    bits = correlated_bits(12)
    generator = torch.Generator().manual_seed(0)
    samples = [float(covariance(bits, n_columns=3, generator=generator)) for _ in range(400)]
    error = np.std(samples) / np.sqrt(len(samples))
    assert abs(np.mean(samples) - float(covariance(bits))) < 4 * error


def test_the_sample_of_columns_follows_its_generator() -> None:
    bits = correlated_bits(12)
    draws = [
        [float(covariance(bits, n_columns=2, generator=generator)) for _ in range(5)]
        for generator in (torch.Generator().manual_seed(seed) for seed in (1, 1, 2))
    ]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
