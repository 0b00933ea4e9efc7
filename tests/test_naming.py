"""Naming features: contexts and counter-examples, scores, and controls that score by chance."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bitcodec import BitCodec, TokenTexts
from bitcodec.errors import ConfigError, ShapeError, ValueRangeError
from bitcodec_naming import (
    Excerpt,
    FeatureRows,
    NamingSettings,
    lexical_judge,
    name_features,
    token_judge,
)
from bitcodec_naming.naming import ask, draw_trials
from bitcodec_naming.sources import bursty_contexts
from bitcodec_naming.trials import Pair, Trial
from bitcodec_transformers import read_rows
from tests.naming_sources import KeywordJudge, at_tokens, by_chance, word_rows

SMALL = NamingSettings(n_named=12, n_tested=12)


@pytest.fixture(scope="module")
def texts() -> TokenTexts:
    return word_rows()


@pytest.fixture(scope="module")
def real_source(codec: BitCodec, hidden: np.ndarray, harvest_folder: Path) -> FeatureRows:
    return FeatureRows(codec.encode(hidden), codec.n_bits_, read_rows(harvest_folder))


def place_in(texts: TokenTexts, excerpt: Excerpt) -> int:
    """Find the row of an excerpt whose text is wide enough to be unique."""
    for row in range(len(texts)):
        start, text = int(texts.column("start")[row]), texts.document_text(row)
        end = start + len(excerpt.token)
        if (
            text[max(0, start - 60) : start] == excerpt.before
            and text[start:end] == excerpt.token
            and text[end : end + 60] == excerpt.after
        ):
            return row
    raise AssertionError("no row has this excerpt")


def test_contexts_are_rows_of_their_rarest_features() -> None:
    active = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 1], [1, 1, 0]], dtype=bool)
    source = FeatureRows.from_active(active, TokenTexts(list("abcd")))
    contexts = bursty_contexts(source, k=1)
    assert [rows.tolist() for rows in contexts] == [[], [1, 3], [0, 2]]
    assert [rows.tolist() for rows in bursty_contexts(source, k=2)] == [
        [1, 2, 3],
        [0, 1, 3],
        [0, 2],
    ]
    assert bursty_contexts(source, k=None)[0].tolist() == [0, 1, 2, 3]


def test_bursty_contexts_agree_with_burstiness_row_by_row(real_source: FeatureRows) -> None:
    from bitcodec.bits import unpack
    from bitcodec.statistics import burstiness

    bits = unpack(real_source.codes, n_bits=real_source.n_features)[:200]
    activity = unpack(real_source.codes, n_bits=real_source.n_features).mean(axis=0)
    bursts = np.where(bits, burstiness(bits, activity), -np.inf)
    contexts = bursty_contexts(real_source, k=5)
    for row in range(200):
        expected = np.argsort(-bursts[row], kind="stable")[:5]
        found = {feature for feature, rows in enumerate(contexts) if row in rows}
        assert found == {int(j) for j in expected if bits[row, j]}


def test_pairs_are_a_row_where_the_feature_is_on_and_one_where_it_is_off(texts: TokenTexts) -> None:
    source = by_chance(texts, 3)
    (trial,) = draw_trials(source, SMALL, [1]).trials
    active = source.codes[:, 0] >> 1 & 1
    for pair in trial.tests:
        on, off = place_in(texts, pair.on), place_in(texts, pair.off)
        assert (active[on], active[off]) == (1, 0)
        if pair.kind == "same_token":
            assert pair.on.token == pair.off.token
        if pair.kind == "beside":
            assert texts.document_id(on) == texts.document_id(off)
            assert abs(on - off) <= 20


def test_kinds_of_counter_examples_take_turns(texts: TokenTexts) -> None:
    (trial,) = draw_trials(by_chance(texts, 3), SMALL, [1]).trials
    assert [pair.kind for pair in trial.tests] == ["same_token", "beside", "elsewhere"] * 4


def test_a_token_that_is_always_on_gives_no_counter_examples_of_the_same_token(
    texts: TokenTexts,
) -> None:
    (trial,) = draw_trials(at_tokens(texts, [" is"]), SMALL).trials
    assert {pair.kind for pair in trial.tests} == {"beside", "elsewhere"}


def test_names_are_tested_on_other_documents(texts: TokenTexts) -> None:
    (trial,) = draw_trials(by_chance(texts, 1), SMALL).trials

    def documents(pairs: Sequence[Pair]) -> set[str]:
        rows = [place_in(texts, excerpt) for pair in pairs for excerpt in (pair.on, pair.off)]
        return {texts.document_id(row) for row in rows}

    assert not documents(trial.examples) & documents(trial.tests)


def test_no_text_is_used_twice(harvest_folder: Path, real_source: FeatureRows) -> None:
    for trial in draw_trials(real_source, SMALL).trials:
        pairs = [*trial.examples, *trial.tests]
        excerpts = [excerpt for pair in pairs for excerpt in (pair.on, pair.off)]
        assert len(set(excerpts)) == len(excerpts)


def test_a_feature_of_one_token_scores_1(texts: TokenTexts) -> None:
    found = name_features(at_tokens(texts, [" is"], [" cat"]), token_judge(), settings=SMALL)
    assert [name.verdict.score for name in found.names] == [1.0, 1.0]
    assert [name.verdict.ranked for name in found.names] == [1.0, 1.0]
    assert found.names[0].explanation.startswith('token " is": on in 9')


def test_a_feature_of_two_tokens_is_named_by_both(texts: TokenTexts) -> None:
    (name,) = name_features(at_tokens(texts, [" cat", " dog"]), token_judge(), settings=SMALL).names
    assert name.verdict.score == 1.0
    assert '" cat"' in name.explanation
    assert '" dog"' in name.explanation


@pytest.mark.parametrize("judge", [token_judge(), lexical_judge()], ids=lambda judge: judge.name)
def test_features_that_are_on_by_chance_score_by_chance(texts: TokenTexts, judge: object) -> None:
    found = name_features(by_chance(texts, 40), judge, settings=SMALL)  # type: ignore[arg-type]
    assert len(found.names) == 40
    mean, low, high = found.mean_score()
    assert low <= 0.5 <= high, mean
    assert found.counts()[1].n <= 2  # a share of 17 in 24 or more has probability .03 by chance


def test_chance_is_one_half_for_real_texts_too(harvest_folder: Path) -> None:
    texts = read_rows(harvest_folder)
    active = np.random.default_rng(3).random((len(texts), 50)) < 0.05
    source = FeatureRows.from_active(active, texts)
    mean, low, high = name_features(source, lexical_judge(), settings=SMALL).mean_score()
    assert low <= 0.5 <= high, mean


def test_shuffled_labels_leave_nothing_to_name(texts: TokenTexts) -> None:
    groups = [[a, b] for a in (" cat", " dog", " sat", " on", " a") for b in (" is", ".", ",")]
    source = at_tokens(texts, *groups)
    true = name_features(source, token_judge(), settings=SMALL)
    shuffled = dataclasses.replace(SMALL, labels="shuffled")
    found = name_features(source, token_judge(), settings=shuffled)
    assert true.mean_score()[0] > 0.95
    assert abs(found.mean_score()[0] - 0.5) < 0.1


def test_another_features_name_scores_by_chance(texts: TokenTexts) -> None:
    source = at_tokens(texts, *[[word] for word in (" cat", " dog", " sat", " on", " mat")])
    found = name_features(source, token_judge(), settings=SMALL)
    control = found.mean_control()
    assert control is not None
    assert abs(control[0] - 0.5) < 0.05
    assert [name.verdict.score for name in found.names] == [1.0] * 5


@pytest.mark.parametrize("probability", [0.0, 1.0, 0.5])
def test_a_judge_that_always_says_the_same_scores_one_half(
    texts: TokenTexts, probability: float
) -> None:
    class Same(KeywordJudge):
        def answer(self, explanation: str, excerpts: Sequence[Excerpt]) -> list[float]:
            return [probability] * len(excerpts)

    found = name_features(at_tokens(texts, [" is"]), Same("anything"), settings=SMALL)
    assert found.names[0].verdict.score == 0.5
    assert found.names[0].verdict.ranked == 0.5


def test_a_feature_without_a_name_is_asked_nothing(texts: TokenTexts) -> None:
    class Mute(KeywordJudge):
        def answer(self, explanation: str, excerpts: Sequence[Excerpt]) -> list[float]:
            raise AssertionError("asked")

    (name,) = name_features(at_tokens(texts, [" is"]), Mute(""), settings=SMALL).names
    assert {pair.on for pair in name.pairs} == {0.5}


@pytest.mark.parametrize("answers", [[0.5], [2.0] * 24, [float("nan")] * 24])
def test_answers_that_are_no_probabilities_are_refused(
    texts: TokenTexts, answers: list[float]
) -> None:
    class Odd(KeywordJudge):
        def answer(self, explanation: str, excerpts: Sequence[Excerpt]) -> list[float]:
            return answers

    with pytest.raises(ValueRangeError, match="the judge keyword must give 24 probabilities"):
        name_features(at_tokens(texts, [" is"]), Odd("it"), settings=SMALL)


def test_a_judge_cannot_tell_contexts_from_counter_examples_by_their_order() -> None:
    def excerpt(word: str) -> Excerpt:
        return Excerpt("", word, "")

    class Recorder(KeywordJudge):
        seen: Sequence[Excerpt] = ()

        def answer(self, explanation: str, excerpts: Sequence[Excerpt]) -> list[float]:
            self.seen = excerpts
            return [float(excerpt.token.startswith("on")) for excerpt in excerpts]

    judge = Recorder("it")
    pairs = [Pair(excerpt(f"on{k}"), excerpt(f"off{k}"), "beside") for k in range(10)]
    answered = ask(judge, "it", pairs)
    first = [excerpt.token.startswith("on") for excerpt in judge.seen[:10]]
    assert 2 <= sum(first) <= 8
    assert all(pair.on == 1 and pair.off == 0 for pair in answered)


def test_the_same_seed_gives_the_same_names(real_source: FeatureRows) -> None:
    settings = NamingSettings(n_features=10, n_named=12, n_tested=6)
    runs = [name_features(real_source, lexical_judge(), settings=settings) for _ in range(2)]
    assert runs[0].to_dict() == runs[1].to_dict()
    other = dataclasses.replace(settings, seed=1)
    again = name_features(real_source, lexical_judge(), settings=other)
    assert again.to_dict() != runs[0].to_dict()


def test_a_feature_has_the_same_contexts_whichever_others_are_named(
    real_source: FeatureRows,
) -> None:
    def of(trials: Sequence[Trial], feature: int) -> Trial:
        return next(trial for trial in trials if trial.feature == feature)

    drawn = draw_trials(real_source, SMALL).trials
    feature = drawn[-1].feature
    assert of(draw_trials(real_source, SMALL, [feature]).trials, feature) == drawn[-1]


def test_features_of_a_codec_are_named_beyond_chance_on_real_states(
    real_source: FeatureRows,
) -> None:
    settings = NamingSettings(n_named=40, top_k=None)
    found = name_features(real_source, lexical_judge(), settings=settings)
    assert len(found.names) + found.n_too_rare == found.n_tried == 67
    control = found.mean_control()
    assert control is not None
    assert found.mean_score()[1] > max(0.5, control[2])


def test_one_document_is_refused() -> None:
    source = by_chance(TokenTexts(["a", " b"] * 50), 1)
    with pytest.raises(ValueRangeError, match="the rows must be of two documents at least, got 1"):
        name_features(source, token_judge())


def test_too_few_contexts_are_told(texts: TokenTexts) -> None:
    source = by_chance(texts, 3, activity=0.001)
    with pytest.raises(ValueRangeError, match=r"no feature has 20 contexts .* of 3 tried"):
        name_features(source, token_judge())


def test_a_feature_that_is_not_there_is_refused(texts: TokenTexts) -> None:
    with pytest.raises(ValueRangeError, match="feature must be between 0 and 2, got 3"):
        name_features(by_chance(texts, 3), token_judge(), features=[3])


def test_texts_of_other_rows_are_refused(texts: TokenTexts) -> None:
    with pytest.raises(ShapeError, match="a row for each of the 10 hidden states, got 6000"):
        FeatureRows.from_active(np.zeros((10, 3), dtype=bool), texts)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("n_named", 0, "n_named must be at least 1, got 0"),
        ("top_k", 0, "top_k must be at least 1, got 0"),
        ("held_out", 1.0, "held_out must be between 0 and 1, got 1.0"),
        ("labels", "other", 'labels must be "true" or "shuffled"'),
    ],
)
def test_settings_out_of_range_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(NamingSettings(), **{field: value})  # type: ignore[arg-type]
