"""Scores of names, their JSON, and feature sets compared at equal activity."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bitcodec import TokenTexts
from bitcodec.errors import FormatError
from bitcodec_naming import (
    Names,
    NamingSettings,
    matched_counts,
    name_features,
    save_scores,
    token_judge,
)
from bitcodec_naming.verdicts import AnsweredPair, verdict, wilson_interval
from tests.naming_sources import at_tokens, by_chance, word_rows

SMALL = NamingSettings(n_named=12, n_tested=12)


@pytest.fixture(scope="module")
def texts() -> TokenTexts:
    return word_rows()


def test_a_verdict_counts_hits_and_rejections_by_kind() -> None:
    found = verdict(
        [
            AnsweredPair(0.9, 0.2, "beside"),
            AnsweredPair(0.8, 0.9, "beside"),
            AnsweredPair(0.5, 0.5, "elsewhere"),
            AnsweredPair(0.1, 0.4, "same_token"),
        ]
    )
    assert found.hits == pytest.approx(2.5 / 4)
    rejections = {part.kind: (part.n_pairs, part.share) for part in found.rejections}
    assert rejections == {"same_token": (1, 1.0), "beside": (2, 0.5), "elsewhere": (1, 0.5)}
    assert found.score == pytest.approx((2.5 + 2.5) / 8)
    assert found.ranked == pytest.approx(1.5 / 4)
    right = [0.9, 0.8, 0.8, 0.1, 0.5, 0.5, 0.1, 0.6]
    assert found.bits == pytest.approx(np.mean(np.log2(right)) + 1)


def test_a_certain_wrong_answer_costs_endless_bits() -> None:
    assert verdict([AnsweredPair(0.0, 0.0, "beside")]).bits == -np.inf


def test_wilson_intervals_are_those_of_the_closed_form() -> None:
    # 24 of 24: the lower end is n / (n + z^2); and 0 of 24 mirrors it.
    low, high = wilson_interval(24, 24)
    assert low == pytest.approx(24 / (24 + 1.959963984540054**2))
    assert high == 1.0
    assert wilson_interval(0, 24) == pytest.approx((0.0, 1 - low))


def test_names_round_trip_through_json(texts: TokenTexts, tmp_path: Path) -> None:
    found = name_features(at_tokens(texts, [" is"], [" a"]), token_judge(), settings=SMALL)
    found.save(tmp_path / "names.json")
    assert Names.load(tmp_path / "names.json").to_dict() == found.to_dict()


def test_foreign_json_is_no_names(tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text(json.dumps({"schema": "bitcodec.report", "version": 1}))
    with pytest.raises(FormatError, match=r"expected names of schema bitcodec\.names"):
        Names.load(tmp_path / "names.json")


def test_an_edited_score_is_found(texts: TokenTexts, tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    name_features(at_tokens(texts, [" is"], [" a"]), token_judge(), settings=SMALL).save(path)
    path.write_text(path.read_text().replace('"score": 1.0', '"score": 0.9', 1))
    with pytest.raises(FormatError, match=r"names\.json is damaged or was edited"):
        Names.load(path)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"names": []}, "there must be a name at least"),
        ({"n_features": 1}, "names must be of different features of 1, got"),
        ({"version": 99}, "version 1 to 2, got 'bitcodec.names', version 99"),
    ],
)
def test_names_of_nothing_are_refused(
    texts: TokenTexts, change: dict[str, object], refusal: str
) -> None:
    found = name_features(at_tokens(texts, [" is"], [" a"]), token_judge(), settings=SMALL)
    with pytest.raises(FormatError, match=refusal):
        Names.from_dict(found.to_dict() | change)


def test_matched_counts_compare_features_of_equal_activity(texts: TokenTexts) -> None:
    named = at_tokens(texts, *[[word] for word in (" cat", " dog", " sat", " on", " mat")])
    chance = by_chance(texts, 12, activity=1 / 12)  # as often as each of the words
    left, right = (
        name_features(source, token_judge(), settings=SMALL) for source in (named, chance)
    )
    frequent = name_features(by_chance(texts, 5, activity=0.6), token_judge(), settings=SMALL)
    (count,) = matched_counts(left, right, [0.9])
    assert count.n_matched <= 5
    assert (count.left, count.right) == (count.n_matched, 0.0)
    assert count.low > 0.5
    assert matched_counts(left, frequent, [0.9])[0].n_matched == 0


def test_a_picture_shows_scores_and_controls(texts: TokenTexts, tmp_path: Path) -> None:
    found = name_features(at_tokens(texts, [" is"], [" a"]), token_judge(), settings=SMALL)
    save_scores({"words": found}, tmp_path / "scores.png")
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")
