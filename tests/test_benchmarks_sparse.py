"""The benchmark of sparse autoencoders: what is stored, what it costs, and what is measured."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.quantisers import Standardisation
from benchmarks.sparse_codes import (
    ValueTable,
    learn_table,
    mean_values,
    quantise,
    rescaled,
    support_bytes,
    without_values,
)
from benchmarks.sparse_methods import Method, SparseRows, of_codec, on_features, random_signs
from benchmarks.sparse_rival_losses import through
from benchmarks.sparse_rivals import activity_figures, choose_step, fvu_of, measure, place_of
from benchmarks.sparse_rivals_plot import draw, table_of
from bitcodec import BitCodec
from bitcodec.bits import unpack
from bitcodec.metrics import DistortionMeter


def activations_of(seed: int, n: int, h: int, share: float) -> np.ndarray:
    """Return (n, h) float32 activations, that share of them above 0."""
    generator = np.random.default_rng(seed)
    values = generator.gamma(2.0, 1.5, (n, h)) * (generator.random((n, h)) < share)
    return values.astype(np.float32)


def identity(n_features: int) -> Method:
    """A method with values whose features are the dimensions above 0."""
    return Method(lambda rows: np.maximum(rows, 0), lambda on: on, n_features, has_values=True)


# what is stored


@settings(max_examples=30)
@given(n=st.integers(0, 9), h=st.integers(1, 17), share=st.sampled_from([0.0, 0.3, 1.0]))
def test_activations_come_back_from_what_is_kept_of_them(n: int, h: int, share: float) -> None:
    dense = activations_of(0, n, h, share)
    kept = SparseRows.from_dense(dense)
    np.testing.assert_array_equal(kept.dense(), dense)
    np.testing.assert_array_equal(kept.counts, (dense > 0).sum(axis=0))


def test_rounding_is_that_of_the_dense_activations() -> None:
    dense = activations_of(1, 50, 13, 0.4)
    rounded = rescaled(quantise(SparseRows.from_dense(dense), 0.7), 0.7)
    np.testing.assert_allclose(rounded.dense(), np.rint(dense / 0.7) * 0.7, rtol=1e-6)
    assert (np.rint(dense / 0.7)[dense > 0] == 0).any()  # some are off now
    np.testing.assert_array_equal(rounded.counts, (np.rint(dense / 0.7) > 0).sum(axis=0))


def test_without_values_a_feature_has_its_mean() -> None:
    dense = activations_of(2, 200, 5, 0.5)
    kept = SparseRows.from_dense(dense)
    means = [column[column > 0].mean() for column in dense.T]
    np.testing.assert_allclose(mean_values(kept), means, rtol=1e-5)
    expected = np.where(dense > 0, np.array(means), 0)
    np.testing.assert_allclose(without_values(kept, mean_values(kept)).dense(), expected, rtol=1e-5)


# what it costs


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), h=st.integers(1, 40), scale=st.sampled_from([0.5, 1.0, 30.0]))
def test_coded_values_come_back_even_beyond_what_was_learned(
    seed: int, h: int, scale: float
) -> None:
    learned = quantise(SparseRows.from_dense(activations_of(seed, 40, h, 0.3)), 0.5)
    rows = SparseRows.from_dense(scale * activations_of(seed + 1, 30, h, 0.3))
    coded = quantise(rows, 0.5)
    table = ValueTable.learn(learned)
    np.testing.assert_array_equal(table.decode(table.encode(coded), coded), coded.values)


def test_values_cost_what_their_probabilities_say() -> None:
    learned = quantise(SparseRows.from_dense(activations_of(3, 4000, 20, 0.3)), 1.0)
    rows = quantise(SparseRows.from_dense(activations_of(4, 4000, 20, 0.3)), 1.0)
    table = ValueTable.learn(learned)
    places = np.minimum(rows.values.astype(int), table.probabilities.shape[1]) - 1
    ideal = -np.log2(table.probabilities[rows.columns, places]).sum() / 8
    assert len(table.encode(rows)) == pytest.approx(ideal, rel=0.01)


def test_a_feature_of_its_own_distribution_costs_less_than_in_a_crowd() -> None:
    dense = activations_of(5, 4000, 20, 0.3)
    dense[:, :10] = 3 * (dense[:, :10] > 0)  # always 3
    rows = quantise(SparseRows.from_dense(dense), 1.0)
    table = ValueTable.learn(rows)
    crowd = np.bincount(rows.values.astype(int)) / len(rows.values)
    together = -np.log2(crowd[rows.values.astype(int)]).sum() / 8
    assert len(table.encode(rows)) < 0.75 * together


def test_the_support_costs_its_entropy() -> None:
    learned = SparseRows.from_dense(activations_of(6, 8000, 200, 0.1))
    rows = SparseRows.from_dense(activations_of(7, 8000, 200, 0.1))
    p = rows.counts / 8000
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum()
    bits = 8 * support_bytes(rows, learn_table(learned, "independent")) / 8000
    assert bits == pytest.approx(entropy, rel=0.01)


# what is measured


def test_the_step_is_the_coarsest_within_a_hundredth() -> None:
    rows = np.random.default_rng(8).normal(size=(2000, 6)).astype(np.float32) + 1
    method, kept = identity(6), SparseRows.from_dense(np.maximum(rows, 0))
    step = choose_step(method, rows)

    def fvu_at(size: float) -> float:
        return fvu_of(method, rescaled(quantise(kept, size), size), rows)

    exact = fvu_of(method, kept, rows)
    assert fvu_at(step) <= 1.01 * exact < fvu_at(2**0.5 * step)


def test_fvu_of_kept_activations_is_that_of_decoded_rows() -> None:
    rows = np.random.default_rng(9).normal(size=(9000, 4)).astype(np.float32)
    method = identity(4)
    meter = DistortionMeter(np.zeros(4))
    meter.update(rows, np.maximum(rows, 0))
    assert fvu_of(method, SparseRows.of(method, rows), rows) == pytest.approx(meter.fvu)


def test_what_the_model_gets_is_what_is_stored() -> None:
    rows = np.random.default_rng(10).normal(size=(50, 4)).astype(np.float32)
    method = identity(4)
    stored = rescaled(quantise(SparseRows.of(method, rows), 0.3), 0.3)
    np.testing.assert_allclose(through(method, 0.3)(rows), stored.dense(), rtol=1e-6)
    np.testing.assert_array_equal(through(method, None)(rows), np.maximum(rows, 0))


def test_figures_of_other_states_have_a_place_of_their_own() -> None:
    assert place_of(Namespace(model="smollm2-135m", layer=15)) == ()
    assert place_of(Namespace(model="smollm2-135m", layer=8)) == ("smollm2-135m, layer 8",)
    assert place_of(Namespace(model="mine", layer=15)) == ("mine, layer 15",)


def test_dead_and_frequent_features_are_counted() -> None:
    figures = activity_figures(np.array([0.0, 0.05, 0.2, 0.7, 1e-7]))
    assert (figures["dead"], figures["above_10_percent"], figures["above_half"]) == (1, 2, 1)
    assert sum(figures["activity_histogram"]) == 4


def test_a_codec_is_measured_as_it_measures_itself(codec: BitCodec, hidden: np.ndarray) -> None:
    method = of_codec(codec, refine="none")
    figures = measure(method, hidden[:3072], hidden[3072:])
    own = codec.evaluate(hidden[3072:], refine="none")
    assert figures["fvu"] == pytest.approx(own.fvu, rel=1e-3)
    assert figures["bits_per_vector"] == pytest.approx(own.code_bits, rel=0.05)
    expected = codec.decode(codec.encode(hidden[3072:3100]))
    np.testing.assert_allclose(through(method, None)(hidden[3072:3100]), expected)


def test_every_method_gives_features_alike(codec: BitCodec, hidden: np.ndarray) -> None:
    floor = random_signs(hidden[:3072], n_features=40, activity=0.1)
    for method in (of_codec(codec, refine="none"), floor):
        packed = on_features(method, hidden[3072:])
        on = unpack(packed, n_bits=method.n_features)
        np.testing.assert_array_equal(on, method.activations(hidden[3072:]) > 0)


def test_random_features_are_on_as_often_as_asked(hidden: np.ndarray) -> None:
    rare = random_signs(hidden[:3072], n_features=64, activity=0.05)
    activity = (rare.activations(hidden[:3072]) > 0).mean(axis=0)
    np.testing.assert_allclose(activity, 0.05, atol=0.005)
    kept = SparseRows.of(rare, hidden[:3072])
    assert fvu_of(rare, kept, hidden[:3072]) < 1  # the decoder is the best linear one


# training


@pytest.mark.parametrize(("kind", "sparsity"), [("relu", 2), ("topk", 8), ("jumprelu", 0.5)])
def test_a_rival_is_trained_kept_and_measured(
    kind: str, sparsity: float, hidden: np.ndarray, tmp_path: Path
) -> None:
    pytest.importorskip("sae_lens", reason="SAELens is not installed")
    from benchmarks.sparse_rival_fits import Recipe, method_of, train_sae

    recipe = Recipe(kind, sparsity, n_features=96, n_steps=60, batch=128)  # type: ignore[arg-type]
    standard, state = Standardisation.of(hidden[:3072]), torch.get_rng_state()
    train_sae(recipe, standard.apply(hidden[:3072]), tmp_path / "sae")
    assert torch.equal(torch.get_rng_state(), state)
    method = method_of(tmp_path / "sae", standard)
    figures = measure(method, hidden[:3072], hidden[3072:])
    assert figures["fvu_exact"] < 1
    assert figures["fvu"] < 1.05 * figures["fvu_exact"]
    assert figures["bits_per_vector"] == figures["support_bits"] + figures["value_bits"]
    assert figures["value_bits"] > 0
    if kind == "topk":
        assert figures["features_on"] <= 8


def test_the_picture_is_drawn_from_the_figures_alone(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    point = {"bits_per_vector": 90.0, "fvu": 0.3}
    shared = {**point, "activity_histogram": [1] * 10}
    methods = {
        "bitcodec 0.3": shared,
        "topk 8": {**shared, "curve": [point, {"bits_per_vector": 50.0, "fvu": 0.4}]},
        "random signs": shared,
    }
    draw(methods, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_tells_our_bits_at_a_rivals_fvu() -> None:
    shared = {"value_bits": 0.0, "features_on": 3.0, "dead": 1, "above_10_percent": 2}
    methods = {
        "bitcodec 0.3": {**shared, "bits_per_vector": 100.0, "fvu": 0.4},
        "bitcodec 0.1": {**shared, "bits_per_vector": 200.0, "fvu": 0.1},
        "topk 8": {**shared, "bits_per_vector": 190.0, "fvu": 0.2},
        "topk 1": {**shared, "bits_per_vector": 20.0, "fvu": 0.9},
    }
    within, beyond = table_of(methods, {"topk 8": {"recovered": 0.75}})[-2:]
    assert within == "| topk 8 | 190 | 0 | 0.200 | 150 | 0.750 | 3.0 | 1 | 2 |"
    assert beyond == "| topk 1 | 20 | 0 | 0.900 |  |  | 3.0 | 1 | 2 |"
