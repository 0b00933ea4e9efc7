"""Reports of a codec on real hidden states, against what the codec itself says."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitcodec import BitCodec, Report, ReportSettings, TokenTexts, metrics
from bitcodec import report as report_module
from bitcodec.bits import pack, unpack
from bitcodec.errors import (
    ConfigError,
    FileError,
    FormatError,
    NotFittedError,
    ShapeError,
    ValueRangeError,
)
from bitcodec.fitted import STREAM_ROWS
from bitcodec.range_coding import compress, learn_context
from bitcodec.sealed_json import sealed
from bitcodec.statistics import BitStatistics, binary_entropy
from bitcodec_transformers import HarvestRows, read_rows

SETTINGS = ReportSettings(n_contexts=4, n_worst=7, width=30, min_token_count=5)


@pytest.fixture(scope="module")
def rows(harvest_folder: Path) -> HarvestRows:
    return read_rows(harvest_folder)


@pytest.fixture(scope="module")
def bits(codec: BitCodec, hidden: np.ndarray) -> np.ndarray:
    return codec.encode_bits(hidden)


@pytest.fixture(scope="module")
def report(codec: BitCodec, hidden: np.ndarray, rows: HarvestRows) -> Report:
    return codec.report(hidden, text=rows, settings=SETTINGS)


def flip_cost(codec: BitCodec, hidden: np.ndarray, bits: np.ndarray, feature: int) -> np.ndarray:
    """By how much each row's squared error rises if a bit is flipped, from decoded rows alone."""
    scale = codec._model.scale.numpy()
    flipped = bits.copy()
    flipped[:, feature] ^= 1
    errors = [
        np.square((hidden - codec.decode(pack(each))).astype(np.float64) / scale).sum(axis=1)
        for each in (bits, flipped)
    ]
    cost: np.ndarray = errors[1] - errors[0]
    return cost


def test_rate_and_distortion_are_those_of_evaluate(
    report: Report, codec: BitCodec, hidden: np.ndarray
) -> None:
    assert report.evaluation == codec.evaluate(hidden)
    assert np.nanmean(report.fvu_per_dimension) == pytest.approx(report.evaluation.fvu)
    assert len(report.fvu_per_dimension) == codec.n_dims_
    assert report.codec.fingerprint == codec.fingerprint_


def test_features_have_the_activity_entropy_and_price_of_their_bits(
    report: Report, bits: np.ndarray
) -> None:
    p = bits.mean(axis=0)
    assert [f.feature for f in report.features] == list(range(67))
    np.testing.assert_array_equal([f.n_on for f in report.features], bits.sum(axis=0))
    np.testing.assert_allclose([f.activity for f in report.features], p)
    np.testing.assert_allclose([f.entropy_bits for f in report.features], binary_entropy(p))
    np.testing.assert_allclose([f.price_on_bits for f in report.features], -np.log2(p))
    np.testing.assert_allclose([f.firing_burstiness for f in report.features], np.log2(1 - p))


def test_entropy_is_bounded_ever_more_tightly(report: Report) -> None:
    entropy = report.entropy
    assert entropy.sum_bits == report.evaluation.entropy_bits
    assert 0 < entropy.tree_bits < entropy.sum_bits < entropy.sum_bits_corrected
    assert entropy.coder_bits == report.evaluation.code_bits >= entropy.sum_bits
    assert entropy.n_tree_edges == 66
    assert 0 < entropy.sum_standard_error < 1


def test_rows_cost_the_sum_of_entropies_on_the_mean(report: Report, codec: BitCodec) -> None:
    histogram = report.distributions.row_price_bits
    assert sum(histogram.counts) == report.evaluation.n_rows
    middles = (np.array(histogram.edges[1:]) + histogram.edges[:-1]) / 2
    step = histogram.edges[1] - histogram.edges[0]
    mean = np.average(middles, weights=histogram.counts)
    assert mean == pytest.approx(report.entropy.sum_bits, abs=step)


def test_histograms_count_every_feature_firing_and_cell(report: Report, bits: np.ndarray) -> None:
    shown = report.distributions
    expected = {
        "log10_activity": 67,
        "firing_price_bits": int(bits.sum()),
        "burstiness": bits.size,
        "row_price_bits": len(bits),
        "row_n_on": len(bits),
        "row_log10_error": len(bits),
    }
    for name, total in expected.items():
        histogram = getattr(shown, name)
        assert sum(histogram.counts) + histogram.n_outside == total, name
        assert len(histogram.edges) == len(histogram.counts) + 1
        assert (np.diff(histogram.edges) > 0).all()


def test_the_top_contexts_are_the_firings_that_earn_most(
    report: Report, codec: BitCodec, hidden: np.ndarray, bits: np.ndarray
) -> None:
    for feature in report.features[::13]:
        cost = flip_cost(codec, hidden, bits, feature.feature)
        on = np.flatnonzero(bits[:, feature.feature])
        best = on[np.argsort(-cost[on])][:4]
        margins = np.array([context.margin for context in feature.top], dtype=np.float64)
        np.testing.assert_allclose(margins, cost[best], rtol=1e-3, atol=0.02)
        np.testing.assert_allclose(cost[[c.row for c in feature.top]], cost[best], atol=0.02)


def test_the_nearest_counter_examples_are_off_where_being_on_would_cost_least(
    report: Report, codec: BitCodec, hidden: np.ndarray, bits: np.ndarray
) -> None:
    for feature in report.features[::13]:
        cost = flip_cost(codec, hidden, bits, feature.feature)
        near = [c for c in feature.counter if c.reason == "nearest"]
        off = np.flatnonzero(bits[:, feature.feature] == 0)
        others = np.setdiff1d(off, [c.row for c in feature.counter])
        assert near
        assert not bits[[c.row for c in near], feature.feature].any()
        assert cost[[c.row for c in near]].max() <= cost[others].min() + 0.02


def test_counter_examples_of_the_same_token_are_off_at_the_most_frequent_token(
    report: Report, rows: HarvestRows, bits: np.ndarray
) -> None:
    n_found = 0
    for feature in report.features:
        for context in feature.counter:
            if context.reason == "same_token":
                n_found += 1
                assert rows.token_id[context.row] == feature.tokens[0].token_id
                assert not bits[context.row, feature.feature]
                assert context.margin is None
    assert n_found > 67


def test_the_random_contexts_are_the_same_firings_however_the_rows_are_read(
    report: Report, codec: BitCodec, hidden: np.ndarray, bits: np.ndarray
) -> None:
    batches = [hidden[:5], hidden[5:1500], hidden[1500:]]
    again = codec.report(batches, settings=SETTINGS)
    for one, other in zip(report.features, again.features, strict=True):
        found = [context.row for context in one.random]
        assert found == [context.row for context in other.random]
        assert bits[found, one.feature].all()
        assert [c.row for c in one.top] == [c.row for c in other.top]


def test_another_seed_shows_other_random_contexts(
    report: Report, codec: BitCodec, hidden: np.ndarray
) -> None:
    settings = dataclasses.replace(SETTINGS, seed=1)
    other = codec.report(hidden, settings=settings)
    assert other.features[0].top[0].row == report.features[0].top[0].row
    differ = [
        {c.row for c in one.random} != {c.row for c in two.random}
        for one, two in zip(report.features, other.features, strict=True)
    ]
    assert np.mean(differ) > 0.9


def test_every_row_that_is_shown_is_traced_to_its_document_and_token(
    report: Report, rows: HarvestRows
) -> None:
    shown = [c.row for f in report.features for c in (*f.top, *f.random, *f.counter)]
    shown += [worst.row for worst in report.worst_rows]
    for row in shown:
        place, context = report.row(row), rows.context(row, width=30)
        assert (place.before, place.token, place.after) == tuple(context)
        assert place.document == rows.document_id(row)
        assert (place.position, place.token_id) == (rows.position[row], rows.token_id[row])


def test_a_context_tells_where_else_around_it_the_feature_is_on(
    report: Report, rows: HarvestRows, bits: np.ndarray
) -> None:
    for feature in report.features[::7]:
        for context in (*feature.top, *feature.random, *feature.counter):
            near = np.flatnonzero(
                (rows.document == rows.document[context.row])
                & (rows.start >= rows.start[context.row] - 30)
                & (rows.end <= rows.end[context.row] + 30)
            )
            expected = [row for row in near.tolist() if bits[row, feature.feature]]
            assert sorted(context.on) == expected
            assert set(expected) <= set(report.rows.row)


def test_tokens_are_counted_over_all_firings(
    report: Report, rows: HarvestRows, bits: np.ndarray
) -> None:
    feature = report.features[5]
    on = bits[:, 5].astype(bool)
    ids, counts = np.unique(rows.token_id[on], return_counts=True)
    assert feature.n_tokens == len(ids)
    assert [token.n_on for token in feature.tokens] == sorted(counts, reverse=True)[:10]
    for token in feature.tokens:
        same = rows.token_id == token.token_id
        assert (token.n_on, token.n_rows) == ((same & on).sum(), same.sum())
    assert feature.n_documents == len(np.unique(rows.document[on]))


def test_the_clustered_error_takes_whole_documents(
    report: Report, rows: HarvestRows, bits: np.ndarray
) -> None:
    per_document = [bits[rows.document == d].astype(float) for d in np.unique(rows.document)]
    p, n = bits.mean(axis=0), len(bits)
    residuals = np.array([part.sum(axis=0) - p * len(part) for part in per_document])
    m = len(per_document)
    expected = np.sqrt(m / (m - 1) * np.square(residuals).sum(axis=0)) / n
    found = np.array([feature.activity_clustered_error for feature in report.features], float)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert (found > [feature.activity_standard_error for feature in report.features]).mean() > 0.8


def test_positions_are_grouped_by_doubling(
    report: Report, rows: HarvestRows, bits: np.ndarray
) -> None:
    assert sum(group.n_rows for group in report.positions) == len(bits)
    for group in report.positions:
        inside = (rows.position >= group.first) & (rows.position <= group.last)
        counted = BitStatistics.empty(67).update(pack(bits[inside]))
        assert group.n_rows == inside.sum()
        expected = counted.entropies(correction="miller-madow").sum()
        assert group.sum_bits == pytest.approx(expected)
    assert [group.first for group in report.positions][:3] == [1, 2, 4]


def test_the_archive_is_measured_in_real_bytes(codec: BitCodec, hidden: np.ndarray) -> None:
    packed = codec.encode(hidden)
    found = codec.report(hidden, packed=packed, settings=ReportSettings(measure_archive=True))
    table = learn_context(packed, n_bits=67)
    assert found.entropy.archive_bits == 8 * len(compress(packed, table)) / len(packed)


def test_a_feature_that_names_a_token_is_told_by_it(
    codec: BitCodec, hidden: np.ndarray, rows: HarvestRows, bits: np.ndarray
) -> None:
    packed = codec.encode(hidden)
    comma = np.bincount(rows.token_id).argmax()
    packed[:, 0] = packed[:, 0] & 0xFE | (rows.token_id == comma)
    found = codec.report(hidden, text=rows, packed=packed, settings=SETTINGS).features
    assert found[0].token_share is not None
    assert found[0].token_share > 0.85
    assert found[0].n_tokens == 1
    assert found[0].token_entropy_bits == 0
    assert all(f.token_share is not None and f.token_share < 0.85 for f in found[1:])


def test_the_worst_rows_are_those_of_largest_error(
    report: Report, codec: BitCodec, hidden: np.ndarray
) -> None:
    scale = codec._model.scale.numpy()
    errors = np.square((hidden - codec.decode(codec.encode(hidden))) / scale).mean(axis=1)
    assert [worst.row for worst in report.worst_rows] == np.argsort(-errors)[:7].tolist()
    for worst in report.worst_rows:
        assert worst.error == pytest.approx(errors[worst.row], rel=1e-4)
        assert report.row(worst.row).error == worst.error


def test_a_row_tells_its_most_surprising_features(
    report: Report, codec: BitCodec, hidden: np.ndarray, bits: np.ndarray
) -> None:
    worst = report.worst_rows[0]
    beta = np.log2(np.abs(bits[worst.row] - bits.mean(axis=0)))
    assert [s.feature for s in worst.surprising] == np.argsort(-beta, kind="stable")[:5].tolist()
    for shown in worst.surprising:
        assert shown.burstiness == pytest.approx(beta[shown.feature])
        assert shown.on == bool(bits[worst.row, shown.feature])


def test_neighbours_by_decoder_row_are_those_of_largest_cosine(
    report: Report, codec: BitCodec
) -> None:
    weight = codec._model.decoder_weight.detach()
    cosines = torch.nn.functional.cosine_similarity(weight[:, None], weight[None], dim=2)
    cosines.fill_diagonal_(-2)
    for feature in report.features:
        best = cosines[feature.feature].topk(5).values
        np.testing.assert_allclose([n.cosine for n in feature.nearest], best, atol=1e-5)
        assert feature.feature not in [n.feature for n in feature.nearest]


def test_directions_are_what_turning_a_feature_on_adds(codec: BitCodec, bits: np.ndarray) -> None:
    on, off = bits[:1].copy(), bits[:1].copy()
    on[0, 9], off[0, 9] = 1, 0
    moved = codec.decode(pack(on)) - codec.decode(pack(off))
    directions = codec.feature_directions()
    assert directions.shape == (67, codec.n_dims_)
    np.testing.assert_allclose(directions[9], moved[0], rtol=1e-3, atol=1e-4)


def test_flags_tell_of_dead_dense_and_duplicate_features(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    bits = codec.encode_bits(hidden)
    bits[:, 0], bits[:, 1], bits[:, 3] = 0, 1, bits[:, 2]
    found = codec.report(hidden, packed=pack(bits), settings=SETTINGS).features
    assert found[0].flags == ("dead",)
    assert found[1].flags == ("always_on",)
    assert "duplicate" in found[2].flags
    assert found[2].coactive[0].feature == 3
    assert found[2].coactive[0].phi == pytest.approx(1)
    dense = bits.mean(axis=0) >= 0.1
    dense[1] = False
    assert [("dense" in f.flags) for f in found] == dense.tolist()
    assert (found[0].mean_burstiness, found[0].price_on_bits) == (-math.inf, math.inf)
    assert found[0].top == found[0].random == found[1].counter == ()


@pytest.mark.filterwarnings("error")
def test_codes_that_are_all_off_give_a_report(
    codec: BitCodec, hidden: np.ndarray, rows: HarvestRows, tmp_path: Path
) -> None:
    packed = np.zeros((len(hidden), 9), np.uint8)
    found = codec.report(hidden, text=rows, packed=packed, settings=SETTINGS)
    assert {f.flags for f in found.features} <= {("dead",), ("dead", "duplicate")}
    assert (found.entropy.sum_bits, found.entropy.tree_bits, found.pairs) == (0, 0, ())
    found.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json").features[3].n_on == 0


def test_without_texts_contexts_are_rows_alone(codec: BitCodec, hidden: np.ndarray) -> None:
    found = codec.report(hidden, settings=SETTINGS)
    feature = found.features[2]
    assert found.passages == ()
    assert feature.token_share is feature.n_tokens is None
    assert {context.reason for context in feature.counter} == {"nearest"}
    assert feature.top[0].on == (feature.top[0].row,)
    place = found.row(feature.top[0].row)
    assert (place.document, place.token) == (None, "")


def test_a_list_of_tokens_serves_as_text(codec: BitCodec, hidden: np.ndarray) -> None:
    tokens = [f" t{row % 7}" for row in range(100)]
    found = codec.report(hidden[:100], text=TokenTexts(tokens), settings=SETTINGS)
    row = found.features[0].top[0].row
    assert found.row(row).token == tokens[row]


def test_codes_at_hand_are_not_made_again(
    report: Report, codec: BitCodec, hidden: np.ndarray, rows: HarvestRows
) -> None:
    packed = codec.encode(hidden)
    again = codec.report(hidden, text=rows, packed=packed, settings=SETTINGS)
    assert again.to_dict() == report.to_dict()


def test_side_bytes_are_decoded_but_are_no_features(hidden: np.ndarray) -> None:
    codec = BitCodec.preset("search", n_bits=20, n_steps=3, batch_size=64).fit(hidden[:600])
    found = codec.report(hidden[:600])
    assert found.evaluation == codec.evaluate(hidden[:600])
    assert len(found.features) == 20
    assert found.codec.side_bytes == 2


def test_progress_is_told_in_rows(codec: BitCodec, hidden: np.ndarray) -> None:
    told: list[int] = []
    codec.report([hidden[:100], hidden[100:300]], on_rows=told.append)
    assert told == [100, 300]
    assert len(hidden) <= STREAM_ROWS


# JSON


def test_a_saved_report_is_read_back(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path / "report.json")
    loaded = Report.load(tmp_path / "report.json")
    assert loaded.to_dict() == report.to_dict()
    assert loaded.features[3].tokens == report.features[3].tokens
    assert loaded.passages == report.passages
    assert loaded.entropy.sum_bits == pytest.approx(report.entropy.sum_bits, rel=1e-5)
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (content["schema"], content["version"]) == ("bitcodec.report", 2)


def field_names(kind: type) -> list[str]:
    """Every field of a dataclass and of those inside, as Class.field: type."""
    lines = []
    for field in dataclasses.fields(kind):
        lines.append(f"{kind.__name__}.{field.name}: {field.type}")
        for name in re.findall(r"[A-Z]\w+", str(field.type)):
            inner = getattr(report_module, name, None) or getattr(metrics, name, None)
            if isinstance(inner, type) and dataclasses.is_dataclass(inner):
                lines += field_names(inner)
    return lines


def test_the_fields_of_versions_1_and_2_stay_what_they_are() -> None:
    # Another field, name or type is another schema: raise bitcodec.report.VERSION with it.
    names = sorted(set(field_names(Report)))
    digest = hashlib.blake2b("\n".join(names).encode(), digest_size=8).hexdigest()
    assert (report_module.VERSION, len(names), digest) == (2, 127, "d18a3e085800be1f")


def test_numbers_that_are_not_finite_are_null_in_json_and_come_back(
    report: Report, tmp_path: Path
) -> None:
    dead = dataclasses.replace(
        report.features[0], mean_burstiness=-math.inf, price_on_bits=math.inf
    )
    changed = dataclasses.replace(report, features=(dead,), fvu_per_dimension=(math.nan, 0.5))
    changed.save(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert content["features"][0]["mean_burstiness"] is None
    loaded = Report.load(tmp_path / "report.json")
    assert loaded.features[0].mean_burstiness == -math.inf
    assert loaded.features[0].price_on_bits == math.inf
    assert math.isnan(loaded.fvu_per_dimension[0])


def test_an_existing_report_is_not_overwritten_unasked(report: Report, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("mine")
    with pytest.raises(FileError, match="exists: choose another name or allow overwriting"):
        report.save(tmp_path / "report.json")
    report.save(tmp_path / "report.json", overwrite=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "other"}, "expected a report of schema bitcodec.report, got 'other'"),
        ({"version": 3}, "reads reports up to version 2, got 3: measure it again"),
        ({"entropy": None}, "Report.entropy must be an object, got NoneType"),
        ({"pairs": 3}, "Report.pairs must be a list, got int"),
        ({"extra": 1}, r"Report lacks the fields \[\] and has the unknown \['extra'\]"),
        ({"fvu_per_dimension": ["a"]}, "fvu_per_dimension must be a number, got str"),
        ({"features": [{}]}, r"Report.features lacks the fields \['activity'"),
    ],
)
def test_a_damaged_report_is_refused(
    change: dict[str, object], message: str, report: Report, tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(sealed(report.to_dict() | change)), encoding="utf-8")
    with pytest.raises(FormatError, match=message):
        Report.load(path)


def test_a_row_that_the_report_does_not_show_is_refused(report: Report) -> None:
    with pytest.raises(ValueRangeError, match="row 999999 is not among the"):
        report.row(999999)


# bad input


def test_a_codec_that_was_not_fitted_has_no_report(hidden: np.ndarray) -> None:
    with pytest.raises(NotFittedError, match="this codec was not fitted: call fit"):
        BitCodec().report(hidden)
    with pytest.raises(NotFittedError, match="this codec was not fitted: call fit"):
        BitCodec().feature_directions()


def test_hidden_states_of_another_width_are_refused(codec: BitCodec) -> None:
    with pytest.raises(ShapeError, match=r"hidden must be \(n, 576\), got \(5, 575\)"):
        codec.report(np.zeros((5, 575), np.float32))


def test_texts_that_do_not_line_up_are_refused_before_anything_is_measured(
    codec: BitCodec, hidden: np.ndarray, rows: HarvestRows
) -> None:
    told: list[int] = []
    with pytest.raises(ShapeError, match="for each of the 4095 hidden states, got 4096: pass"):
        codec.report(hidden[1:], text=rows, on_rows=told.append)
    assert not told


def test_texts_of_a_stream_are_held_against_its_rows_at_its_end(
    codec: BitCodec, hidden: np.ndarray, rows: HarvestRows
) -> None:
    with pytest.raises(ShapeError, match="for each of the 50 hidden states, got 4096"):
        codec.report((batch for batch in [hidden[:50]]), text=rows)


@pytest.mark.parametrize("n_codes", [99, 101])
def test_codes_of_another_number_of_rows_are_refused(
    n_codes: int, codec: BitCodec, hidden: np.ndarray
) -> None:
    packed = codec.encode(hidden[:n_codes])
    with pytest.raises(ShapeError, match=f"packed must have 100 rows like hidden, got {n_codes}"):
        codec.report(hidden[:100], packed=packed)


def test_codes_of_another_width_are_refused(codec: BitCodec, hidden: np.ndarray) -> None:
    with pytest.raises(ShapeError, match=r"packed must be \(n, 9\), got \(100, 8\)"):
        codec.report(hidden[:100], packed=np.zeros((100, 8), np.uint8))


def test_no_rows_are_refused(codec: BitCodec) -> None:
    with pytest.raises(ShapeError, match="hidden has no rows: pass at least two"):
        codec.report(np.zeros((0, 576), np.float32))


def test_rows_that_do_not_differ_are_refused(codec: BitCodec, hidden: np.ndarray) -> None:
    with pytest.raises(ValueRangeError, match="the 3 rows do not differ"):
        codec.report(np.repeat(hidden[:1], 3, axis=0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_contexts": -1}, "n_contexts must be at least 0, got -1"),
        ({"min_count": 0}, "min_count must be at least 1, got 0"),
        ({"dense_activity": 0}, "dense_activity must be above 0 and at most 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ReportSettings(**given)


def test_nothing_is_shown_where_nothing_is_asked_for(
    codec: BitCodec, hidden: np.ndarray, rows: HarvestRows
) -> None:
    none = ReportSettings(n_contexts=0, n_neighbours=0, n_worst=0, n_pairs=0, width=0)
    found = codec.report(hidden, text=rows, settings=none)
    assert not any((found.worst_rows, found.pairs, found.passages, found.rows.row))
    for feature in found.features:
        assert not any((feature.top, feature.random, feature.counter))
        assert not any((feature.nearest, feature.coactive))


@pytest.mark.parametrize("n_rows", [2, 7, 8, 9])
def test_few_rows_give_a_report(n_rows: int, codec: BitCodec, hidden: np.ndarray) -> None:
    found = codec.report(hidden[:n_rows])
    bits = unpack(codec.encode(hidden[:n_rows]), n_bits=67)
    assert [len(f.top) for f in found.features] == bits.sum(axis=0).clip(max=5).tolist()


def test_what_tells_a_feature_is_not_said_of_few_firings(
    codec: BitCodec, hidden: np.ndarray, rows: HarvestRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitcodec.feature_reports.MIN_FIRINGS", 300)
    told = codec.report(hidden, text=rows, settings=SETTINGS).features
    few = [min(f.n_on, len(hidden) - f.n_on) < 300 for f in told]
    assert any(few)
    assert not all(few)
    assert [f.token_share is None for f in told] == few
    assert [f.document_share is None for f in told] == few
