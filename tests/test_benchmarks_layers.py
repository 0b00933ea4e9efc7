"""Codecs between layers, quantities spread over features, and what features mean."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.continuous_probes import (
    bin_rows,
    monotone_share,
    probe,
    r_squared,
    scale_coefficient,
    thermometer,
    threshold,
    told_by_bins,
    tuning_curves,
)
from benchmarks.feature_semantics import (
    N_BEST,
    Occurrences,
    agreement,
    best_tokens,
    compare,
    excess,
    frequent_tokens,
    judge,
    read_occurrences,
    standard_ranks,
    tokens_of,
)
from benchmarks.fragmentation import QUANTITIES, measure, probed_rows, take
from benchmarks.layer_transfer import draw, encode, refit, summarise, transfer
from benchmarks.layered_codecs import spread_layers
from benchmarks.quantisers import Standardisation
from benchmarks.sparse_methods import of_codec
from bitcodec import BitCodec
from bitcodec.errors import ConfigError
from bitcodec_transformers import LanguageModel, read_rows

# layers


def test_layers_are_spread_between_the_first_and_the_last() -> None:
    assert spread_layers(8, 6) == (1, 2, 3, 4, 5, 6)
    assert spread_layers(30, 2) == (1, 28)
    with pytest.raises(ConfigError, match="between 2 and 6"):
        spread_layers(8, 7)


def test_a_codec_on_its_own_layer_has_the_fvu_that_it_reports(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    train, held_out = hidden[:3072], hidden[3072:]
    standard = Standardisation.of(train)
    figures = transfer(codec, standard, standard.apply(train), standard.apply(held_out))
    assert figures["fvu"] == pytest.approx(codec.evaluate(held_out).fvu, abs=1e-3)
    assert figures["fvu_refitted"] == pytest.approx(figures["fvu"], abs=0.01)


def test_a_layer_that_is_another_with_other_units_is_coded_as_well(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    """States times 3 plus 5 are another layer whose standardised states are the same."""
    train, other = hidden[:3072], 3 * hidden[:3072] + 5
    standard, others = Standardisation.of(train), Standardisation.of(other)
    own = encode(codec, standard, standard.apply(hidden[3072:]))
    moved = encode(codec, standard, others.apply(3 * hidden[3072:] + 5))
    assert (own != moved).mean() < 1e-3  # rounding at a threshold


def test_without_shared_directions_only_a_new_decoder_helps(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    standard = Standardisation.of(hidden[:3072])
    order = np.random.default_rng(0).permutation(hidden.shape[1])
    rows = standard.apply(hidden)
    own = transfer(codec, standard, rows[:3072], rows[3072:])
    figures = transfer(codec, standard, rows[:3072, order], rows[3072:, order])
    assert own["fvu"] < 0.9 < figures["fvu_refitted"] < 1 < figures["fvu"]


def test_the_refitted_decoder_is_the_ridge_regression_of_the_errors_on_the_bits(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    standard = Standardisation.of(hidden)
    rows = standard.apply(hidden[:500])
    weight, bias, penalty = refit(codec, standard, rows)
    bits = codec.encode_bits(hidden[:400], refine="none").astype(np.float64)
    missed = rows[:400] - standard.apply(codec.decode(codec.encode(hidden[:400], refine="none")))
    centred, targets = bits - bits.mean(axis=0), missed - missed.mean(axis=0)
    gram = centred.T @ centred + penalty * np.eye(codec.n_bits_)
    expected = np.linalg.solve(gram, centred.T @ targets)
    np.testing.assert_allclose(weight, expected, atol=2e-3)
    np.testing.assert_allclose(bias, missed.mean(axis=0) - bits.mean(axis=0) @ expected, atol=2e-3)


def test_pairs_are_summed_up_by_their_distance_and_direction() -> None:
    table = np.array([[0.0, 1, 2], [3, 0, 4], [5, 6, 0]])
    expected = {"own": 0, "next": 14 / 4, "other": 21 / 6, "to_later": 7 / 3, "to_earlier": 14 / 3}
    assert summarise(table) == pytest.approx(expected)


def test_the_heat_maps_are_drawn(tmp_path: Path) -> None:
    table = [[0.1, 2.0], [0.7, 0.2]]
    floor = {"fvu": [1.1, 1.2], "fvu_refitted": [0.8, 0.9]}
    results = {"layers": [1, 6], "fvu": table, "fvu_refitted": table, "shuffled": floor}
    draw(results, tmp_path / "maps.png")
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")


# continuous quantities


def thermometer_bits(quantity: np.ndarray, n_bits: int) -> np.ndarray:
    """Return (n, n_bits) bool, each on above its own quantile of the quantity."""
    edges = np.quantile(quantity, np.linspace(0.1, 0.9, n_bits))
    above: np.ndarray = quantity[:, None] > edges
    return above


def test_a_thermometer_is_known_by_its_bits() -> None:
    random = np.random.default_rng(0)
    quantity = random.random(4000)
    on = np.hstack([thermometer_bits(quantity, 8), random.random((4000, 20)) < 0.3])
    figures = thermometer(on, quantity, range(8))
    assert figures["nested"] == pytest.approx(1)
    assert figures["nested_by_curves"] > 0.9
    assert abs(figures["nested_shuffled"]) < 0.05
    assert abs(figures["nested_of_others"]) < 0.05
    assert min(figures["monotone_share"]) > 0.999
    np.testing.assert_allclose(figures["thresholds"], np.linspace(0.1, 0.9, 8), atol=0.05)


def test_bits_that_each_stand_for_a_range_are_no_thermometer() -> None:
    quantity = np.random.default_rng(1).random(4000)
    on = (quantity[:, None] * 8).astype(int) == np.arange(8)
    figures = thermometer(on, quantity, range(8))
    assert figures["nested"] < 0.3
    assert np.median(figures["monotone_share"]) < 0.5


def test_the_scale_coefficient_is_that_of_two_bits_by_hand() -> None:
    on = np.array([[1, 1], [1, 0], [0, 1], [0, 1], [0, 0], [0, 0]], dtype=bool)
    # the rarer is on without the commoner in 1 of 6 rows; independence expects 2 * 1/2
    assert scale_coefficient(on) == pytest.approx(1 - 1 / 1)
    assert scale_coefficient(on[[0, 0, 2, 4]]) == pytest.approx(1)


def test_curves_and_what_bins_tell_are_those_of_a_small_case() -> None:
    bins = np.array([0, 0, 1, 1])
    curves, rows = tuning_curves(np.array([[0], [0], [1], [1]], dtype=bool), bins)
    assert curves[:, 0].tolist() == [0, 1]
    assert told_by_bins(curves, rows).tolist() == [1]
    assert threshold(curves[:, 0], rows) == 0.75  # the middle of the bin that is half way up
    assert monotone_share(np.array([0.0, 1.0, 0.0]), np.ones(3)) == pytest.approx(0.25)


def test_rows_of_equal_value_share_a_bin() -> None:
    bins = bin_rows(np.repeat([3.0, 1.0, 2.0], 50))
    assert len(np.unique(bins)) == 3
    assert (np.diff(bins.reshape(3, 50), axis=1) == 0).all()
    assert bins[0] > bins[100] > bins[50]


def test_a_quantity_in_three_features_takes_three() -> None:
    random = np.random.default_rng(2)
    features = random.normal(size=(2500, 40)).astype(np.float32) * 7 + 3
    quantities = np.stack(
        [features[:, [4, 11, 30]] @ np.array([3.0, 2, 1]), random.random(2500)], axis=1
    )
    found, nothing = probe(
        (features[:2000], quantities[:2000]),
        (features[2000:], quantities[2000:]),
        sizes=(1, 2, 3, 8),
    )
    assert found.chosen[:3] == (4, 11, 30)
    assert found.full_r2 > 0.999
    assert found.r2[:3] == pytest.approx([9 / 14, 13 / 14, 1], abs=0.04)
    assert (found.needed(0.9), found.needed(0.99)) == (2, 3)
    assert nothing.full_r2 < 0.02
    assert found.needed(1.1) is None


def test_r_squared_is_0_for_the_mean_and_1_for_the_truth() -> None:
    truth = np.array([1.0, 2, 6])
    assert r_squared(truth, truth) == 1
    assert r_squared(truth, np.full(3, 3.0)) == 0


def test_position_and_norm_are_read_from_a_codecs_bits_and_nothing_is_not(
    codec: BitCodec, harvest_folder: Path
) -> None:
    counts = np.bincount(read_rows(harvest_folder).token_id[:3000])
    rows = probed_rows(harvest_folder, 15, 4096, counts)
    assert rows.hidden.shape == (4096, 576)
    train = type(rows)(rows.hidden[:3000], rows.quantities[:3000])
    test = type(rows)(rows.hidden[3000:], rows.quantities[3000:])
    figures = measure(of_codec(codec, refine="none"), train, test)
    assert figures["norm"]["full_r2"] > 0.2
    assert figures["nothing"]["full_r2"] < 0.03
    assert set(QUANTITIES) < set(figures)
    assert "thermometer" not in figures["nothing"]
    assert len(figures["norm"]["curves"]) == min(8, figures["norm"]["thermometer"]["features"])


def test_codecs_to_probe_are_given_with_their_one_layer_or_made(
    codec: BitCodec, harvest_folder: Path, tmp_path: Path
) -> None:
    codec.save(tmp_path / "mine")
    given = {
        "hidden": harvest_folder,
        "held_out": harvest_folder,
        "codecs": [tmp_path / "mine"],
        "device": "cpu",
    }
    nothing = dict.fromkeys(("packages", "work", "layers", "hidden", "held_out", "codecs"))
    (asked,) = take(Namespace(**{**nothing, **given, "layers": [15], "saes": []}))
    assert (asked.layer, asked.held_out) == (15, harvest_folder)
    assert asked.codecs["codec mine"].fingerprint_ == codec.fingerprint_
    for wrong in ({**given, "layers": None}, {**given, "layers": [8, 15]}, {"layers": [15]}):
        with pytest.raises(ConfigError, match=r"--codecs and one of --layers"):
            list(take(Namespace(**{**nothing, **wrong, "saes": []})))


# what features mean


def test_the_next_token_is_that_of_the_text(harvest_folder: Path) -> None:
    rows = read_rows(harvest_folder)
    token, following = tokens_of(rows)
    assert len(token) == len(following) == len(rows)
    assert following[-1] == -1
    assert (following >= 0).mean() > 0.95
    for row in np.flatnonzero(following[:-1] >= 0)[::500]:
        assert following[row] == token[row + 1]
        assert rows.start[row + 1] == rows.end[row]  # the texts touch
    gaps = np.flatnonzero(following[:-1] < 0)
    assert ((rows.start[gaps + 1] != rows.end[gaps]) | (rows.position[gaps + 1] <= 1)).all()


def test_excess_is_observed_less_expected_over_its_root() -> None:
    on = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=bool)
    scores = excess(on, np.array([5, 5, 5, 9]), np.array([5, 9, 7]))
    expected = [[(2 - 1.5) / 1.5**0.5, -(0.5**0.5), 0], [(1 - 1.5) / 1.5**0.5, 0.5**0.5, 0]]
    np.testing.assert_allclose(scores, expected)


def test_products_of_standard_ranks_are_spearmans_correlation() -> None:
    one, other = np.random.default_rng(3).integers(0, 9, size=(2, 4, 30)).astype(float)
    found = standard_ranks(one) @ standard_ranks(other).T
    for i, j in np.ndindex(4, 4):
        assert found[i, j] == pytest.approx(spearmanr(one[i], other[j]).statistic)


def test_scores_that_agree_are_told_from_those_of_other_features() -> None:
    random = np.random.default_rng(4)
    truth, noise = random.normal(size=(2, 60, 300))
    same, unlike = compare(truth, truth + 0.3 * noise), compare(truth, noise)
    for way in ("correlation", "shared_best"):
        assert same[way]["identified"] > 0.99
        assert same[way]["low"] > 0.3
        assert unlike[way]["low"] < 0 < unlike[way]["high"]
        assert unlike[way]["identified"] == pytest.approx(0.5, abs=0.1)
    assert unlike["shared_best"]["others"] == pytest.approx(N_BEST / 300, abs=0.01)


def test_what_all_features_have_in_common_is_no_agreement() -> None:
    common = np.random.default_rng(5).normal(size=300) * 10
    one, other = np.random.default_rng(6).normal(size=(2, 40, 300)) + common
    found = compare(one, other)["correlation"]
    assert found["own"] > 0.9
    assert found["others"] == pytest.approx(found["own"], abs=0.01)
    assert found["identified"] == pytest.approx(0.5, abs=0.12)


def test_agreement_is_that_of_a_table_by_hand() -> None:
    found = agreement(np.array([[0.9, 0.1, 0.9], [0.2, 0.5, 0.1], [0.4, 0.3, 0.1]]))
    assert found.own == pytest.approx(0.5)
    assert found.others == pytest.approx((0.5 + 0.15 + 0.35) / 3)
    assert found.identified == pytest.approx((0.75 + 1 + 0) / 3)
    assert best_tokens(np.arange(24.0).reshape(2, 12)).sum(axis=1).tolist() == [10, 10]


def test_a_feature_that_is_on_at_a_token_is_named_by_it(
    codec: BitCodec, language_model: LanguageModel, harvest_folder: Path
) -> None:
    """Of the codec's features the first is replaced by one that is on at the commonest token."""
    found = read_occurrences(codec, harvest_folder, 15, 4096)
    commonest = frequent_tokens(found.token)[0]
    on = found.on.copy()
    on[:, 0] = found.token == commonest
    figures = judge(language_model, codec, Occurrences(on, found.token, found.following))
    scores = excess(on[:, :1], found.token, frequent_tokens(found.token))
    assert scores[0].argmax() == 0
    assert figures["judged"] <= codec.n_bits_
    for measures in figures["agreement"].values():
        assert -1 <= measures["correlation"]["own"] <= 1
    assert all(len(shown["vocabulary"]) == N_BEST for shown in figures["at_random"])
