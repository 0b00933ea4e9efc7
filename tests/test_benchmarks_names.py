"""The benchmark of names for rivals' features: what is paired, what is on, what is counted."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.common_semantics import figures
from benchmarks.matched_names import MOST_OCTAVES, activity_pairs, difference, matched_figures
from benchmarks.sparse_methods import Method, SparseRows, of_codec, on_features
from benchmarks.sparse_rival_names import (
    MATCHED_RUNS,
    by_octave,
    codes_of,
    compared_with,
    kept_codes,
    kept_names,
    median_values,
    random_codes,
    upper_half,
    whole_set,
)
from benchmarks.sparse_rival_names_plot import draw, table_of_pairs, table_of_sets
from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches
from bitcodec.bits import unpack
from bitcodec_naming import FeatureRows, Names, NamingSettings, name_features, token_judge
from bitcodec_transformers import read_rows
from tests.naming_sources import at_tokens, by_chance, word_rows


@pytest.fixture(scope="module")
def named() -> Names:
    """Features of a word each, on in a twelfth of the rows."""
    words = [[word] for word in (" cat", " dog", " sat", " on", " mat")]
    settings = NamingSettings(n_named=12, n_tested=12)
    return name_features(at_tokens(word_rows(), *words), token_judge(), settings=settings)


def with_activity(names: Names, activity: list[float]) -> Names:
    """Names as they are, on in other shares of the rows."""
    shown = itertools.cycle(names.names)
    return replace(
        names,
        names=tuple(replace(next(shown), feature=at, activity=p) for at, p in enumerate(activity)),
    )


# what is paired


def test_pairs_are_as_many_as_can_be_and_closest_of_those(named: Names) -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        octaves = generator.uniform(-3, -2, (2, 5))
        left, right = (with_activity(named, (2.0**side).tolist()) for side in octaves)
        apart = np.abs(octaves[0][:, None] - octaves[1])
        ways = [apart[range(5), order] for order in map(list, itertools.permutations(range(5)))]
        near = [way[way <= MOST_OCTAVES] for way in ways]
        best = min((-len(way), way.sum()) for way in near)
        pairs = activity_pairs(left, right)
        found = [abs(np.log2(a.activity) - np.log2(b.activity)) for a, b in pairs]
        assert (-len(pairs), sum(found)) == pytest.approx(best)
        assert max(found, default=0) <= MOST_OCTAVES
        for side in zip(*pairs, strict=True):
            assert len({name.feature for name in side}) == len(pairs)


def test_features_that_are_on_as_often_are_compared_and_others_are_not(named: Names) -> None:
    settings = NamingSettings(n_named=12, n_tested=12)
    rare, frequent = (
        name_features(
            by_chance(word_rows(), 8, activity=activity), token_judge(), settings=settings
        )
        for activity in (1 / 12, 0.6)
    )
    found = matched_figures(named, rare)
    assert found["pairs"] == 5
    assert found["shares"]["0.9"]["left"] == 1.0
    assert found["shares"]["0.9"]["right"] == 0.0
    assert found["score"]["low"] > 0.3
    assert abs(found["octaves"]) < MOST_OCTAVES
    assert matched_figures(named, frequent) == {"pairs": 0}


def test_our_sets_are_compared_with_all_and_an_upper_half_with_its_whole() -> None:
    names = ["bitcodec 0.7", "topk 32", "topk 32, upper half", "relu 2, upper half"]
    assert compared_with(names) == {
        "bitcodec 0.7": names[1:],
        "topk 32, upper half": ["topk 32"],
    }


def test_the_interval_of_a_difference_is_that_of_pairs() -> None:
    generator = np.random.default_rng(1)
    shared = generator.normal(size=400)  # as large in both: it must not widen the interval
    left, right = shared + 0.1, shared + generator.normal(scale=0.02, size=400)
    found, apart = difference(left, right), left - right
    half = 1.96 * apart.std(ddof=1) / 20
    assert (found.left - found.right) == pytest.approx(apart.mean())
    assert (found.low, found.high) == pytest.approx(
        (apart.mean() - half, apart.mean() + half), abs=2e-4
    )


# what is on


def test_the_upper_half_is_on_above_each_features_median() -> None:
    values = np.random.default_rng(2).gamma(2.0, 1.5, (401, 6)).astype(np.float32)
    values[:, :3] *= np.random.default_rng(3).random((401, 3)) < 0.4
    values[:, 5] = 0
    medians = median_values(SparseRows.from_dense(values))
    for column, median in zip(values.T[:5], medians, strict=False):
        assert median == np.sort(column[column > 0])[((column > 0).sum() - 1) // 2]
    whole = Method(lambda rows: rows, lambda on: on, 6, has_values=True)
    upper = upper_half(lambda _: whole, values)
    on, stronger = (unpack(on_features(kind, values), n_bits=6) for kind in (whole, upper))
    assert not (stronger.astype(bool) & ~on.astype(bool)).any()
    np.testing.assert_array_equal(stronger.sum(axis=0), on.sum(axis=0) // 2)


def test_random_projections_are_on_as_often_as_the_codecs_features(
    codec: BitCodec, harvest_folder: Path
) -> None:
    texts, hidden = read_rows(harvest_folder), next(harvest_folder.glob("layer-*"))
    like = FeatureRows(*coded(codec, hidden), texts)
    codes, n_features = random_codes(like, hidden)
    theirs, ours = (
        unpack(packed, n_bits=n).mean(axis=0)
        for packed, n in ((codes, n_features), (like.codes, like.n_features))
    )
    np.testing.assert_allclose(np.sort(theirs), np.sort(ours[ours > 0]), atol=0.02)


# what is kept and counted


def test_real_features_are_named_once_and_found_again(
    codec: BitCodec, harvest_folder: Path, tmp_path: Path
) -> None:
    texts, hidden = read_rows(harvest_folder), next(harvest_folder.glob("layer-*"))
    source = kept_codes(tmp_path, "bitcodec", lambda: coded(codec, hidden), texts)
    again = kept_codes(tmp_path, "bitcodec", refuse, texts)
    np.testing.assert_array_equal(source.codes, again.codes)
    arguments: Any = SimpleNamespace(work=tmp_path, features=20)
    found = kept_names(arguments, "bitcodec", "tokens", source)
    assert 0 < len(found.names) <= 20
    assert kept_names(arguments, "bitcodec", "tokens", source).to_dict() == found.to_dict()
    assert sum(octave[0] for octave in by_octave(found).values()) == len(found.names)


def test_a_sample_stands_for_the_whole_set(named: Names) -> None:
    sampled = replace(named, n_features=2000, n_tried=50)
    middle, low, high = whole_set(sampled)["in_the_whole_set"]["0.9"]
    assert middle == pytest.approx(2000 * 5 / 50)
    assert low < middle < high


def test_the_tables_and_the_picture_are_made_from_the_figures_alone(
    named: Names, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    many = replace(with_activity(named, [0.02] * 12), n_features=12, n_tried=12)
    told = figures(many) | whole_set(many) | {"by_octave": by_octave(many)}
    compared = matched_figures(many, many)
    results: Any = {
        "sets": {
            name: {"lexical": told} for name in ("bitcodec 0.34", "topk 32", "random projections")
        },
        "matched": {
            "bitcodec 0.34": {
                "topk 32": dict.fromkeys(MATCHED_RUNS, compared),
                "relu 2": {run: {"pairs": 0} for run in MATCHED_RUNS},
                "run": "0123abcd",
            }
        },
    }
    assert table_of_sets(results["sets"])[2].startswith("| bitcodec 0.34 | 1.000 (1.000 to 1.000)")
    lines = table_of_pairs(results["matched"]["bitcodec 0.34"])
    assert lines[2].startswith("| topk 32 | 12 | +0.000 (+0.000 to +0.000) |")
    assert len(lines) == 3  # a rival without pairs has no line
    draw(results, tmp_path / "names.png")
    assert (tmp_path / "names.png").read_bytes()[:4] == b"\x89PNG"


def coded(codec: BitCodec, hidden: Path) -> tuple[np.ndarray, int]:
    """Encode a layer of a harvest by the linear pass."""
    rows = np.concatenate([batch.numpy() for batch in HiddenBatches(hidden).batches(4096)])
    return codes_of(lambda _: of_codec(codec, refine="none"), rows)


def refuse() -> tuple[np.ndarray, int]:
    raise AssertionError("made again")
