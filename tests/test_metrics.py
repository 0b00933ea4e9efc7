"""Distortion and recall against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcodec.errors import ShapeError, ValueRangeError
from bitcodec.metrics import DistortionMeter, recall


def measure(
    hidden: np.ndarray, decoded: np.ndarray, *, origin: np.ndarray | None = None, n_parts: int = 1
) -> DistortionMeter:
    meter = DistortionMeter(np.zeros(hidden.shape[1]) if origin is None else origin)
    halves = (np.array_split(rows, n_parts) for rows in (hidden, decoded))
    for left, right in zip(*halves, strict=True):
        meter.update(left, right)
    return meter


@pytest.fixture(scope="module")
def decoded(hidden: np.ndarray) -> np.ndarray:
    """Real hidden states with an error of different size in every dimension."""
    generator = np.random.default_rng(0)
    noise = generator.normal(size=hidden.shape) * generator.random(hidden.shape[1])
    return (hidden + noise).astype(np.float32)


@pytest.mark.parametrize("n_parts", [1, 7])
def test_fvu_equals_numpy_however_the_rows_come(
    hidden: np.ndarray, decoded: np.ndarray, n_parts: int
) -> None:
    x, y = hidden.astype(np.float64), decoded.astype(np.float64)
    per_dimension = np.square(x - y).mean(axis=0) / x.var(axis=0)
    meter = measure(hidden, decoded, n_parts=n_parts)
    np.testing.assert_allclose(meter.fvu_per_dimension(), per_dimension, rtol=1e-9)
    assert meter.fvu == pytest.approx(per_dimension.mean(), rel=1e-9)
    total = np.square(x - y).sum() / np.square(x - x.mean(axis=0)).sum()
    assert meter.fvu_total == pytest.approx(total, rel=1e-9)


def test_cosine_and_norms_equal_numpy(hidden: np.ndarray, decoded: np.ndarray) -> None:
    x, y = hidden.astype(np.float64), decoded.astype(np.float64)
    norms = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    meter = measure(hidden, decoded, n_parts=3)
    assert meter.cosine == pytest.approx(((x * y).sum(axis=1) / norms[0] / norms[1]).mean())
    assert meter.l2_ratio == pytest.approx((norms[1] / norms[0]).mean())


def test_predicting_the_mean_scores_one(hidden: np.ndarray) -> None:
    mean = np.broadcast_to(hidden.astype(np.float64).mean(axis=0), hidden.shape)
    meter = measure(hidden, mean)
    assert meter.fvu == pytest.approx(1, rel=1e-9)
    assert meter.fvu_total == pytest.approx(1, rel=1e-9)


def test_exact_copies_score_zero(hidden: np.ndarray) -> None:
    meter = measure(hidden, hidden)
    assert meter.fvu == 0.0
    assert meter.cosine == pytest.approx(1)
    assert meter.l2_ratio == pytest.approx(1)


def test_a_mean_far_from_zero_costs_no_accuracy() -> None:
    generator = np.random.default_rng(0)
    x = 1e6 + generator.normal(size=(1000, 3))
    y = x + 0.5 * generator.normal(size=x.shape)
    expected = (np.square(x - y).mean(axis=0) / x.var(axis=0)).mean()
    assert measure(x, y, origin=x[0]).fvu == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n_rows", [2, 3, 7, 50])
def test_a_dimension_that_does_not_vary_is_left_out_of_the_mean(n_rows: int) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(n_rows, 3))
    x[:, 1] = 0.1
    meter = measure(x, x + generator.normal(size=x.shape))
    found = meter.fvu_per_dimension()
    assert np.isnan(found).tolist() == [False, True, False]
    assert meter.fvu == pytest.approx((found[0] + found[2]) / 2)


def test_a_dimension_of_rounding_beside_the_others_is_left_out_of_the_mean() -> None:
    x = np.random.default_rng(0).normal(size=(50, 4)) * [1.0, 1e-7, 1e-5, 1e4]
    found = measure(x, np.zeros_like(x)).fvu_per_dimension()
    assert np.isnan(found).tolist() == [False, True, False, False]


@pytest.mark.parametrize("n_rows", [1, 2, 3, 7, 50])
def test_rows_that_do_not_differ_have_no_variance_to_explain(n_rows: int) -> None:
    x = np.tile(np.random.default_rng(0).normal(size=5), (n_rows, 1))
    with pytest.raises(ValueRangeError, match=f"the {n_rows} rows do not differ.*evaluate at leas"):
        _ = measure(x, x + 1).fvu


def test_zero_rows_count_nothing_in_cosine_and_norms() -> None:
    x = np.array([[0.0, 0.0], [3.0, 4.0]])
    meter = measure(x, np.array([[1.0, 0.0], [3.0, 4.0]]))
    assert (meter.cosine, meter.l2_ratio) == (0.5, 0.5)


def test_decoded_rows_of_another_shape_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"decoded must be \(2, 3\) like hidden, got \(2, 4\)"):
        DistortionMeter(np.zeros(3)).update(np.zeros((2, 3)), np.zeros((2, 4)))


@settings(max_examples=40)
@given(n=st.integers(1, 5), k=st.integers(1, 6), seed=st.integers(0, 99))
def test_recall_is_the_share_of_true_neighbours_that_were_found(n: int, k: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    true = np.stack([generator.permutation(12)[:k] for _ in range(n)])
    found = generator.integers(0, 12, (n, k))
    shares = [len(set(t) & set(f)) / k for t, f in zip(true.tolist(), found.tolist(), strict=True)]
    assert recall(found, true) == pytest.approx(np.mean(shares))


def test_a_neighbour_that_is_found_twice_counts_once() -> None:
    assert recall(np.array([[1, 1]]), np.array([[1, 2]])) == 0.5


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (6,), (0, 3)])
def test_recall_refuses_ids_that_do_not_correspond(shape: tuple[int, ...]) -> None:
    ids = np.zeros(shape, np.int64)
    with pytest.raises(ShapeError, match=r"found and true must be \(n, k\) alike"):
        recall(ids, ids if ids.size == 0 else np.zeros((2, 3), np.int64))
