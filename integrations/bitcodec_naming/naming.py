"""The pipeline: contexts, names, answers, verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from bitcodec.errors import ValueRangeError
from bitcodec.statistics import BitStatistics
from bitcodec_naming.judge import NO_NAME, Judge
from bitcodec_naming.names import FeatureName, Names
from bitcodec_naming.settings import NamingSettings
from bitcodec_naming.sources import FeatureSource
from bitcodec_naming.trials import Pair, Trial, TrialMaker
from bitcodec_naming.verdicts import CHANCE, AnsweredPair, verdict

Progress = Callable[[int, int], None]
"""Told of steps done and steps in all; a feature is two steps, its name and the answers."""


def name_features(
    source: FeatureSource,
    judge: Judge,
    *,
    settings: NamingSettings | None = None,
    features: Iterable[int] | None = None,
    progress: Progress | None = None,
) -> Names:
    """Name features by what their contexts share, and test the names on contexts held out.

    The Common Semantics pipeline of arXiv 2509.20997, section 4.2: each row counts as a context of
    its most bursty features, a judge names what some contexts of a feature share, and answers of
    others whether the name fits. Unlike there, half of the contexts asked about are
    counter-examples, so that a name that fits everything scores 1/2; names are tested on other
    documents; and each feature's contexts are asked about under another feature's name too.

    Args:
        source: the features.
        judge: who names and answers.
        settings: how many contexts; see `NamingSettings`.
        features: numbers of the features to try; None tries all, in random order.
        progress: told of every step that is done.

    Returns:
        The names, with all answers.

    Raises:
        ValueRangeError: there is no such feature, none has enough contexts, all rows are of one
            document, or the judge's answers are no probabilities.
    """
    settings = settings or NamingSettings()
    drawn = draw_trials(source, settings, features)
    n_steps = 2 * len(drawn.trials)
    explanations: list[str] = []
    for step, trial in enumerate(drawn.trials, start=1):
        explanations.append(_explain(judge, trial))
        if progress is not None:
            progress(step, n_steps)
    activity = BitStatistics.empty(source.n_features).update(source.codes).activity
    names = []
    for index, trial in enumerate(drawn.trials):
        # Trials are in random order: the one before has the name of a random other feature.
        other = explanations[index - 1] if settings.control and len(explanations) > 1 else None
        names.append(_tested(judge, trial, explanations[index], other, activity[trial.feature]))
        if progress is not None:
            progress(len(explanations) + index + 1, n_steps)
    return Names(
        judge=judge.name,
        fingerprint=source.fingerprint,
        settings=settings,
        n_rows=len(source.codes),
        n_features=source.n_features,
        n_dead=int((activity == 0).sum()),
        n_tried=drawn.n_tried,
        n_too_rare=drawn.n_tried - len(drawn.trials),
        names=tuple(sorted(names, key=lambda name: name.feature)),
    )


class DrawnTrials(NamedTuple):
    """The trials of the features that have enough contexts."""

    trials: list[Trial]
    """In random order."""
    n_tried: int
    """Features that contexts were sought of."""


def draw_trials(
    source: FeatureSource, settings: NamingSettings, features: Iterable[int] | None = None
) -> DrawnTrials:
    """Draw the contexts that features are named from and tested on.

    Args:
        source: the features.
        settings: how many, and of how many features.
        features: numbers of the features to try; None tries all.

    Raises:
        ValueRangeError: there is no such feature, none has enough contexts, or all rows are of one
            document.
    """
    generator = np.random.default_rng(settings.seed)
    wanted = range(source.n_features) if features is None else list(dict.fromkeys(features))
    maker, n_tried = TrialMaker(source, settings), 0
    trials: list[Trial] = []
    for feature in generator.permutation(np.asarray(wanted, dtype=np.int64)).tolist():
        if len(trials) == settings.n_features:
            break
        trial = maker.trial(feature)
        n_tried += 1
        if trial is not None:
            trials.append(trial)
    if not trials:
        raise ValueRangeError(
            f"no feature has {settings.n_named} contexts to be named from and {settings.n_tested} "
            f"of other documents, of {n_tried} tried: ask for fewer, or give more rows"
        )
    return DrawnTrials(trials, n_tried)


def ask(judge: Judge, explanation: str, pairs: Sequence[Pair]) -> tuple[AnsweredPair, ...]:
    """Ask a judge about contexts and counter-examples, mixed, by an explanation.

    Args:
        judge: the judge.
        explanation: the explanation; `NO_NAME` leaves all undecided, and nothing is asked.
        pairs: the contexts.

    Raises:
        ValueRangeError: an answer is missing or no probability.
    """
    excerpts = [pair.on for pair in pairs] + [pair.off for pair in pairs]
    answers = np.full(len(excerpts), CHANCE)
    if explanation != NO_NAME:
        order = np.random.default_rng(0).permutation(len(excerpts))
        given = np.asarray(judge.answer(explanation, [excerpts[at] for at in order]), np.float64)
        if given.shape != answers.shape or not ((given >= 0) & (given <= 1)).all():
            raise ValueRangeError(
                f"the judge {judge.name} must give {len(excerpts)} probabilities, got "
                f"{given.size} answers, the first {given.ravel()[:3].tolist()}"
            )
        answers[order] = given
    on, off = np.split(answers, 2)
    return tuple(
        AnsweredPair(float(on[at]), float(off[at]), pair.kind) for at, pair in enumerate(pairs)
    )


def _explain(judge: Judge, trial: Trial) -> str:
    return judge.explain(
        [pair.on for pair in trial.examples], [pair.off for pair in trial.examples]
    )


def _tested(
    judge: Judge, trial: Trial, explanation: str, other: str | None, activity: float
) -> FeatureName:
    """Test a name, and another feature's name on the same contexts."""
    pairs = ask(judge, explanation, trial.tests)
    control = None if other is None else verdict(ask(judge, other, trial.tests))
    return FeatureName(
        feature=trial.feature,
        explanation=explanation,
        activity=float(activity),
        n_contexts=trial.n_contexts,
        verdict=verdict(pairs),
        control=control,
        pairs=pairs,
    )
