"""The step and the gradients that stand in for its derivative, against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcodec.config import Surrogate
from bitcodec.surrogate import slope, step

LOGITS = np.array([-300.0, -3.0, -1e-30, -0.0, 0.0, 1e-30, 0.7, 40.0])


def gradient_of(
    logits: np.ndarray, incoming: np.ndarray, surrogate: Surrogate, temperature: float = 1.0
) -> np.ndarray:
    """Return what a gradient becomes on its way back through the step."""
    saved = torch.from_numpy(logits).requires_grad_()
    bits = step(saved, surrogate=surrogate, temperature=temperature)
    bits.backward(torch.from_numpy(incoming))
    assert saved.grad is not None
    return saved.grad.numpy()


def sigmoid_slope(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Differentiate sigmoid(x / T) by central differences in float64."""
    width = 1e-5
    above, below = ((logits + sign * width) / temperature for sign in (1, -1))
    return (np.tanh(above / 2) - np.tanh(below / 2)) / (4 * width)


@pytest.mark.parametrize("surrogate", ["sigmoid", "identity", "published"])
def test_the_step_is_one_from_zero_upwards(surrogate: Surrogate) -> None:
    bits = step(torch.from_numpy(LOGITS), surrogate=surrogate)
    assert bits.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_bits_have_the_dtype_of_their_logits(dtype: torch.dtype) -> None:
    assert step(torch.zeros(1, dtype=dtype)).dtype == dtype


@settings(max_examples=50)
@given(
    logits=st.lists(st.floats(-8, 8), min_size=1, max_size=9),
    temperature=st.floats(0.1, 4.0),
    seed=st.integers(0, 99),
)
def test_the_sigmoid_surrogate_is_the_slope_of_the_sigmoid_at_the_saved_logit(
    logits: list[float], temperature: float, seed: int
) -> None:
    saved = np.array(logits)
    incoming = np.random.default_rng(seed).normal(size=len(saved))
    found = gradient_of(saved, incoming, "sigmoid", temperature)
    expected = incoming * sigmoid_slope(saved, temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_the_sigmoid_surrogate_is_a_quarter_over_the_temperature_at_zero() -> None:
    found = gradient_of(np.zeros(2), np.array([1.0, -2.0]), "sigmoid", temperature=0.5)
    assert found.tolist() == [0.5, -1.0]


def test_the_sigmoid_surrogate_vanishes_far_from_the_threshold() -> None:
    assert gradient_of(np.array([-1e4, 1e4]), np.ones(2), "sigmoid").tolist() == [0.0, 0.0]


def test_the_identity_surrogate_passes_gradients_as_they_are() -> None:
    incoming = np.linspace(-2, 2, len(LOGITS))
    np.testing.assert_array_equal(gradient_of(LOGITS, incoming, "identity", 0.3), incoming)


def test_the_published_surrogate_sees_only_the_incoming_gradient() -> None:
    incoming = np.linspace(-2, 2, len(LOGITS))
    found = gradient_of(LOGITS, incoming, "published", 0.3)
    np.testing.assert_allclose(found, incoming - incoming**2, rtol=1e-15)


def test_the_clipped_surrogate_is_flat_within_the_temperature_and_zero_beyond() -> None:
    found = gradient_of(np.array([-0.6, -0.5, 0.0, 0.5, 0.6]), np.full(5, 3.0), "clipped", 0.5)
    assert found.tolist() == [0.0, 3.0, 3.0, 3.0, 0.0]


@pytest.mark.parametrize("surrogate", ["sigmoid", "clipped", "gumbel"])
def test_a_surrogate_slope_has_the_height_of_one_step(surrogate: Surrogate) -> None:
    logits = torch.linspace(-40, 40, 80_001, dtype=torch.float64)
    heights = slope(logits, surrogate=surrogate, temperature=0.7)
    assert float(torch.trapezoid(heights, logits)) == pytest.approx(1.0, abs=2e-3)


def test_gumbel_bits_are_on_as_often_as_the_sigmoid_says() -> None:
    logits = torch.tensor([-1.0, 0.0, 0.6]).repeat(200_000, 1)
    generator = torch.Generator().manual_seed(0)
    bits = step(logits, surrogate="gumbel", temperature=0.5, generator=generator)
    expected = torch.sigmoid(logits[0] / 0.5)
    assert bits.mean(dim=0).tolist() == pytest.approx(expected.tolist(), abs=0.005)


def test_gumbel_noise_follows_its_generator_and_leaves_the_global_one() -> None:
    before = torch.get_rng_state()
    first, again, other = (
        step(torch.zeros(64), surrogate="gumbel", generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert first.tolist() == again.tolist() != other.tolist()
    assert torch.equal(torch.get_rng_state(), before)


def test_gumbel_gradients_are_the_slope_at_the_noisy_logit() -> None:
    logits = torch.zeros(5, dtype=torch.float64).requires_grad_()
    uniform = torch.empty(5, dtype=torch.float32).uniform_(
        generator=torch.Generator().manual_seed(3)
    )
    step(
        logits, surrogate="gumbel", temperature=2.0, generator=torch.Generator().manual_seed(3)
    ).sum().backward()
    noisy = 2.0 * torch.logit(uniform, eps=1e-6).double().numpy()
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), sigmoid_slope(noisy, 2.0), rtol=1e-6)
