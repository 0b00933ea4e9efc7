"""Synthetic data: entropies against enumeration, and what the features preset recovers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitcodec import BitCodec
from bitcodec.errors import ValueRangeError
from bitcodec.synthetic import draw_random_directions


def test_rows_are_sums_of_the_directions_of_their_bits() -> None:
    data = draw_random_directions(50, n_dims=7, n_features=4, seed=1)
    np.testing.assert_allclose(data.hidden, data.bits @ data.directions, rtol=1e-5)


def test_the_same_seed_draws_the_same_rows_and_another_other_ones() -> None:
    first, again, other = (
        draw_random_directions(9, n_dims=3, n_features=2, seed=seed).hidden for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(("activity", "bits"), [(0.5, 12.0), (0.25, 12 * 0.8112781)])
def test_independent_bits_have_the_entropy_of_their_coins(activity: float, bits: float) -> None:
    data = draw_random_directions(5, n_dims=3, n_features=12, activity=activity)
    assert data.marginal_entropy_bits == pytest.approx(bits, rel=1e-6)
    assert data.joint_entropy_bits == data.marginal_entropy_bits


@given(st.floats(0.05, 0.9), st.floats(0.05, 0.9), st.integers(2, 4))
def test_correlated_bits_have_less_joint_entropy_but_not_less_than_one_of_them(
    activity: float, correlation: float, n_features: int
) -> None:
    data = draw_random_directions(
        2, n_dims=2, n_features=n_features, activity=activity, correlation=correlation
    )
    one = data.marginal_entropy_bits / n_features
    assert one - 1e-9 <= data.joint_entropy_bits <= data.marginal_entropy_bits + 1e-9


def test_the_joint_entropy_is_that_of_the_patterns_that_are_drawn() -> None:
    data = draw_random_directions(
        400_000, n_dims=1, n_features=3, activity=0.3, correlation=0.6, seed=2
    )
    patterns = [np.all(data.bits == p, axis=1).mean() for p in itertools.product((0, 1), repeat=3)]
    drawn = -sum(p * math.log2(p) for p in patterns)
    assert data.joint_entropy_bits == pytest.approx(drawn, abs=0.01)
    assert data.bits.mean() == pytest.approx(0.3, abs=0.005)


def test_two_bits_have_the_joint_entropy_of_their_gaussians() -> None:
    # P(both below 0) = 1/4 + asin(rho) / (2 pi) for Gaussians of correlation rho (Sheppard 1899).
    both = 0.25 + math.asin(0.5) / (2 * math.pi)
    p = np.array([both, both, 0.5 - both, 0.5 - both])
    data = draw_random_directions(2, n_dims=1, n_features=2, correlation=0.5)
    assert data.joint_entropy_bits == pytest.approx(float(-(p * np.log2(p)).sum()), rel=1e-9)


def test_noise_has_the_wanted_share_of_the_variance() -> None:
    parameters = {"n_dims": 6, "n_features": 5, "seed": 3}
    clean = draw_random_directions(20_000, **parameters).hidden
    noisy = draw_random_directions(20_000, signal_to_noise=4.0, **parameters).hidden
    ratio = clean.var(axis=0) / (noisy - clean).var(axis=0)
    np.testing.assert_allclose(ratio, 4.0, rtol=0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_features", 0),
        ("activity", 0.0),
        ("activity", 1.0),
        ("correlation", 1.0),
        ("correlation", -0.1),
        ("signal_to_noise", 0.0),
    ],
)
def test_a_wrong_argument_is_refused_by_name(name: str, value: float) -> None:
    arguments = {"n_dims": 3, "n_features": 2, name: value}
    with pytest.raises(ValueRangeError, match=name):
        draw_random_directions(4, **arguments)  # type: ignore[arg-type]


def test_the_features_preset_recovers_the_true_bits_and_no_others() -> None:
    data = draw_random_directions(6000, n_dims=24, n_features=8, seed=0)
    codec = BitCodec.preset("features", n_steps=1500).fit(data.hidden[:5000])
    found, true = codec.encode_bits(data.hidden[5000:]), data.bits[5000:]
    correlation = np.abs(np.corrcoef(true.T, found.T)[:8, 8:])
    assert codec.n_bits_ == 8
    assert (correlation.max(axis=1) > 0.99).all()
    assert codec.evaluate(data.hidden[5000:]).fvu < 0.001
