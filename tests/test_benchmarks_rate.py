"""The rate-distortion benchmark: its rivals, its bound, and how its results are kept."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faiss")
pytest.importorskip("numcodecs")

import faiss

from benchmarks import quantisers as rivals
from benchmarks import rate_distortion_codecs as ours
from benchmarks import results_file
from benchmarks import rivals as shared
from benchmarks.quantisers import Fitted, ResidualStages, Standardisation, quantisers, standardised
from benchmarks.rate_distortion import Rows, bits_at, bound_line, gaussian_bound, measure
from benchmarks.rate_distortion_plot import draw, families
from benchmarks.results_file import merge_results
from benchmarks.transform_coding import fit_transform
from bitcodec.errors import MismatchError, ValueRangeError
from bitcodec.files import read_json
from bitcodec.metrics import DistortionMeter
from bitcodec.range_coding import learn_context

N_DIMS = 96
BYTES = {
    "float16": 192,
    "PQ6x8": 6,
    "PQ12x8": 12,
    "PQ24x8": 24,
    "PQ48x8": 48,
    "PQ96x8": 96,
    "OPQ12x8": 12,
    "RQ2x8": 2,
    "RQ4x8": 4,
    "LSQ2x8": 2,
    "RaBitQ1": 12 + 8,
    "RaBitQ2": 24 + 20,
    "RaBitQ4": 48 + 20,
    "EDEN1": 12 + 8,
    "EDEN2": 24 + 8,
    "EDEN4": 48 + 8,
    "TurboQuant2": 24 + 8,
    "TurboQuant4": 48 + 8,
    "SQ4": 48,
    "SQ8": 96,
    "float8 e4m3": 96,
}
"""Bytes of a row by method, but for the one that compresses: code bits, then side data."""
COMPRESSED = "int8, zstd -19"
UNDECODED = ("RaBitQ2", "RaBitQ4")


@pytest.fixture(scope="module")
def rows() -> Rows:
    draw = np.random.default_rng(0)
    factors, noise = draw.normal(size=(1200, 30)), draw.normal(size=(1200, N_DIMS))
    states = factors @ draw.normal(size=(30, N_DIMS)) + 0.5 * noise
    states = states * draw.uniform(1, 30, N_DIMS) + 5
    return Rows.of(states[:600].astype("f"), states[600:].astype("f"), n_queries=100)


@pytest.fixture(scope="module")
def fitted(rows: Rows) -> Iterator[dict[str, Fitted]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(rivals.RESIDUAL_STAGES, "tiny", (2, 4))
        patch.setitem(rivals.ROTATED_BYTES, "tiny", (12,))
        patch.setitem(rivals.SEARCHED_STAGES, "tiny", (2,))
        patch.setattr(rivals, "SEARCHED_ROUNDS", 2)
        patch.setattr(shared, "OPQ_ROUNDS", 2)
        yield {name: fit(rows.train) for name, fit in quantisers(N_DIMS, "tiny").items()}


def test_every_rival_is_tested_here(fitted: dict[str, Fitted]) -> None:
    assert set(fitted) == {*BYTES, COMPRESSED}


@pytest.mark.parametrize("name", [*BYTES, COMPRESSED])
def test_a_rival_beats_predicting_the_mean(
    name: str, fitted: dict[str, Fitted], rows: Rows
) -> None:
    decoded = fitted[name].approximate(rows.base)
    if name in UNDECODED:
        assert decoded is None
        return
    assert decoded is not None
    assert decoded.dtype == np.float32
    meter = DistortionMeter(rows.standard.mean)
    meter.update(rows.base, decoded)
    assert meter.fvu < 0.75


@pytest.mark.parametrize("name", list(BYTES))
def test_a_rivals_bytes_are_those_of_its_codes(
    name: str, fitted: dict[str, Fitted], rows: Rows
) -> None:
    assert fitted[name].encode(rows.base).bytes_per_vector == BYTES[name]


def test_compressed_integers_are_counted_as_they_are_stored(
    fitted: dict[str, Fitted], rows: Rows
) -> None:
    encoded = fitted[COMPRESSED].encode(rows.base)
    assert encoded.bytes_per_vector * len(rows.base) == len(b"".join(encoded.codes))
    assert 48 < encoded.bytes_per_vector < 96
    constant = fitted[COMPRESSED].encode(np.repeat(rows.base[:1], 500, axis=0))
    assert constant.bytes_per_vector < 1


def test_shared_bytes_count_codebooks_rotations_and_statistics(fitted: dict[str, Fitted]) -> None:
    codebook, statistics, rotation = 4 * 256 * N_DIMS, 4 * 2 * N_DIMS, 4 * N_DIMS**2
    least = {"PQ12x8": codebook, "RQ4x8": 4 * codebook, "OPQ12x8": codebook + rotation}
    for name, size in {**least, "EDEN1": rotation}.items():
        assert size + statistics <= fitted[name].shared_bytes < size + statistics + 2000


@pytest.mark.parametrize("name", ["PQ12x8", "OPQ12x8"])
def test_the_scan_of_product_codes_finds_what_is_nearest_to_the_reconstruction(
    name: str, fitted: dict[str, Fitted], rows: Rows
) -> None:
    method, standard = fitted[name], rows.standard
    encoded = method.encode(rows.base)
    assert method.search is not None
    assert method.decode is not None
    decoded = standard.apply(method.decode(encoded)).astype(np.float64)
    queries = standard.apply(rows.queries).astype(np.float64)
    distances = np.square(queries[:, None] - decoded).sum(axis=2)
    found = method.search(rows.queries, encoded, 5)
    chosen = np.take_along_axis(distances, found, axis=1)
    np.testing.assert_allclose(chosen, np.sort(distances, axis=1)[:, :5], rtol=1e-4)


@pytest.mark.parametrize("name", ["EDEN4", "RaBitQ4"])
def test_own_scorers_order_rows_nearly_as_floats_do(
    name: str, fitted: dict[str, Fitted], rows: Rows
) -> None:
    figures = measure(name, lambda train: fitted[name], rows)
    assert figures["recall_at_10"] > 0.85


def test_the_first_stages_of_a_residual_quantiser_are_a_smaller_one(rows: Rows) -> None:
    standard = rows.standard.apply(rows.train)
    many = ResidualStages(N_DIMS, 5, n_rows=10_000).fit(2, standard)
    few = ResidualStages(N_DIMS, 2, n_rows=10_000).fit(2, standard)
    base = rows.standard.apply(rows.base)
    np.testing.assert_array_equal(many.encode(base).codes, few.encode(base).codes)
    assert many.decode is not None
    assert few.decode is not None
    np.testing.assert_array_equal(many.decode(many.encode(base)), few.decode(few.encode(base)))


def test_a_residual_quantiser_encodes_as_well_as_faisss_default_does(rows: Rows) -> None:
    standard = rows.standard.apply(rows.train)
    stages = ResidualStages(N_DIMS, 4, n_rows=10_000)
    codes = stages.fit(4, standard).encode(standard).codes
    default = faiss.ResidualQuantizer(N_DIMS, 4, 8)
    faiss.copy_array_to_vector(stages._train(standard), default.codebooks)
    default.is_trained = True
    # Not the codes: centroids that share their rows come in nearly equal pairs.
    errors = [
        np.square(default.decode(found) - standard).mean()
        for found in (codes, default.compute_codes(standard))
    ]
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)


def test_a_method_without_reconstruction_has_no_distortion(
    fitted: dict[str, Fitted], rows: Rows
) -> None:
    figures = measure("RaBitQ2", lambda train: fitted["RaBitQ2"], rows)
    assert figures["fvu"] is figures["cosine"] is None
    assert "first bit" in figures["limits"]
    assert json.loads(json.dumps(figures)) == figures


def test_measured_figures_are_those_of_the_reconstruction(
    fitted: dict[str, Fitted], rows: Rows
) -> None:
    figures = measure("PQ24x8", lambda train: fitted["PQ24x8"], rows)
    held_out = np.concatenate([rows.base, rows.queries]).astype(np.float64)
    decoded = fitted["PQ24x8"].approximate(held_out.astype(np.float32))
    assert decoded is not None
    errors = np.square(held_out - decoded).mean(axis=0)
    assert figures["fvu"] == pytest.approx((errors / held_out.var(axis=0)).mean(), rel=1e-6)
    assert figures["bits_per_vector"] == 192
    assert figures["gaussian_fvu"] < figures["fvu"]


def test_a_constant_dimension_keeps_its_unit() -> None:
    states = np.array([[1, 7], [3, 7]], dtype=np.float32)
    standard = Standardisation.of(states)
    np.testing.assert_array_equal(standard.apply(states), [[-1, 0], [1, 0]])
    np.testing.assert_array_equal(standard.undo(standard.apply(states)), states)


@pytest.mark.parametrize("bits", [0, 1, 8, 100])
def test_the_bound_of_equal_eigenvalues_is_a_power_of_two(bits: int) -> None:
    assert gaussian_bound(np.full(8, 3.0), bits) == pytest.approx(2 ** (-2 * bits / 8), rel=1e-12)


def test_the_bound_spends_no_bits_below_the_water_level() -> None:
    assert gaussian_bound(np.array([0.25, 4.0, 0.0]), 1) == pytest.approx(1.25 / 4.25)
    # From 2 bits on both components are active, at one level.
    assert gaussian_bound(np.array([0.25, 4.0]), 3) == pytest.approx(2 * 2**-3 / 4.25)


def test_the_bound_holds_for_the_rate_it_gives() -> None:
    eigenvalues = np.random.default_rng(0).exponential(size=50)
    level_sum = gaussian_bound(eigenvalues, 60) * eigenvalues.sum()
    levels = np.linspace(0, eigenvalues.max(), 200_001)[1:]
    sums = np.array([np.minimum(eigenvalues, level).sum() for level in levels[::50]])
    level = np.interp(level_sum, sums, levels[::50])
    rate = 0.5 * np.log2(np.maximum(eigenvalues / level, 1)).sum()
    assert rate == pytest.approx(60, rel=1e-3)


def test_bits_between_rates_are_log_linear_in_fvu() -> None:
    curve = [(400, 0.05), (100, 0.4), (200, 0.1)]
    assert bits_at(curve, 0.2) == pytest.approx(150)
    assert bits_at(curve, 0.1) == pytest.approx(200)
    assert bits_at(curve, 0.1 / np.sqrt(2)) == pytest.approx(300)


@pytest.mark.parametrize("fvu", [0.41, 0.09])
def test_a_curve_is_not_extrapolated(fvu: float) -> None:
    with pytest.raises(ValueRangeError, match=r"must be in \[0\.1, 0\.4\]"):
        bits_at([(100, 0.4), (200, 0.1)], fvu)


def test_a_curve_that_rises_is_refused() -> None:
    with pytest.raises(ValueRangeError, match="must fall"):
        bits_at([(100, 0.4), (200, 0.5)], 0.45)


def test_merging_replaces_one_method_and_keeps_the_others(tmp_path: Path) -> None:
    merge_results("rates", ("a", "methods", "PQ"), {"fvu": 0.5, "limits": "few"}, folder=tmp_path)
    merge_results("rates", ("a", "methods", "RQ"), {"fvu": 0.4}, folder=tmp_path)
    merge_results("rates", ("b", "methods", "PQ"), {"fvu": 0.3}, folder=tmp_path)
    path = merge_results("rates", ("a", "methods", "PQ"), {"fvu": 0.2}, folder=tmp_path)
    content = read_json(path)
    (run,) = content["runs"]
    assert content["results"] == {
        "a": {"methods": {"PQ": {"fvu": 0.2, "run": run}, "RQ": {"fvu": 0.4, "run": run}}},
        "b": {"methods": {"PQ": {"fvu": 0.3, "run": run}}},
    }
    assert set(content["runs"][run]) == {"machine", "versions", "commit"}


def test_runs_stay_as_long_as_their_figures_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for commit, method in (("first", "PQ"), ("second", "RQ"), ("third", "PQ")):
        monkeypatch.setenv(results_file.COMMIT, commit)
        path = merge_results("rates", ("a", method), {"fvu": 0.5}, folder=tmp_path)
    content = read_json(path)
    assert {run["commit"] for run in content["runs"].values()} == {"second", "third"}
    figures = content["results"]["a"]["RQ"]
    assert content["runs"][figures["run"]]["commit"] == "second"


def test_a_commit_is_marked_where_sources_differ_and_not_where_results_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(results_file.COMMIT, raising=False)
    source, result = tmp_path / "library.py", tmp_path / "benchmarks/results/speed.json"
    result.parent.mkdir(parents=True)
    for path in (source, result):
        path.write_text("first")
    me = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for step in (["init", "-q"], ["add", "."], [*me, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *step], cwd=tmp_path, check=True)
    clean = results_file.commit(tmp_path / "benchmarks")
    result.write_text("second")
    assert results_file.commit(tmp_path / "benchmarks") == clean
    source.write_text("second")
    assert results_file.commit(tmp_path / "benchmarks") == f"{clean}+"


def test_methods_of_one_name_and_many_rates_are_one_curve() -> None:
    names = ["PQ12x8", "PQ24x8", "OPQ12x8", "EDEN1", "EDEN4", "SQ8", "float16", COMPRESSED]
    found = families({name: {"bits_per_vector": 1.0} for name in names})
    assert {family: list(members) for family, members in found.items()} == {
        "PQ": ["PQ12x8", "PQ24x8"],
        "OPQ": ["OPQ12x8"],
        "EDEN": ["EDEN1", "EDEN4"],
        "SQ": ["SQ8"],
        "float16": ["float16"],
        COMPRESSED: [COMPRESSED],
    }


def test_the_picture_is_drawn_from_results_alone(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figures = {"bits_per_vector": 96.0, "fvu": 0.5, "cosine": 0.7, "recall_at_10": 0.4}
    dataset: dict[str, Any] = {
        "rows": {"n_dims": 96, "n_fitted": 600, "n_held_out": 600},
        "gaussian_bound": bound_line(np.ones(96)),
        "methods": {
            "PQ12x8": figures,
            "bitcodec 0.34": {**figures, "fvu": 0.4},
            "RaBitQ2": {**figures, "fvu": None, "cosine": None},
        },
    }
    draw({"layer-15": dataset}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


def test_our_methods_decode_what_they_count_and_refuse_other_rows(
    hidden: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "learn_context", partial(learn_context, n_steps=2))
    train, kept = hidden[:2048], ours.Codecs(tmp_path / "kept")
    for coding, effort in (("context", "fast"), ("independent", "none")):
        fitted = ours.fit_sparse(kept, 5, 0.4, coding, effort, train)  # type: ignore[arg-type]
        encoded = fitted.encode(hidden[2048:2100])
        assert encoded.bytes_per_vector == len(encoded.codes) / 52
        assert fitted.decode is not None
        assert fitted.decode(encoded).shape == (52, 576)
    assert len(list((tmp_path / "kept").glob("*.json"))) == 2  # fitted once
    with pytest.raises(MismatchError, match="other training rows"):
        ours.fit_sparse(kept, 5, 0.4, "independent", "none", train[:1024])


def test_transform_coding_decodes_its_words_and_meets_its_rate(hidden: np.ndarray) -> None:
    rows = np.ascontiguousarray(hidden[:, :48])
    fitted = standardised(partial(fit_transform, 80))(rows[:3000])
    encoded = fitted.encode(rows[3000:])
    assert fitted.decode is not None
    meter = DistortionMeter(rows.mean(axis=0))
    meter.update(rows[3000:], fitted.decode(encoded))
    assert meter.fvu < 0.3
    assert 8 * encoded.bytes_per_vector == pytest.approx(80, rel=0.15)
