"""A report as the arrays and texts that the page's scripts read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from bitcodec.errors import ShapeError
from bitcodec.report import Context, Feature, Flag, Report
from bitcodec_html.effects import TokenEffects
from bitcodec_html.names import FeatureNames
from bitcodec_html.packing import (
    Strings,
    differences,
    halves,
    lists,
    smallest,
    tensor_file,
    trimmed,
)
from bitcodec_html.texts import EncodedText

CONTEXT_KINDS = ("top", "random", "same_token", "nearest")
FLAGS = get_args(Flag)
FEATURE_COLUMNS = (
    "activity",
    "entropy_bits",
    "mean_burstiness",
    "firing_burstiness",
    "price_on_bits",
    "decoder_norm",
    "token_share",
    "document_share",
    "token_entropy_bits",
    "document_entropy_bits",
)
"""Fields of `Feature` that the page shows as they are."""


def payload(
    report: Report,
    *,
    title: str,
    effects: TokenEffects | None,
    texts: Sequence[EncodedText],
    names: FeatureNames | None = None,
) -> bytes:
    """Lay everything that the page's scripts show into one safetensors file.

    Args:
        report: the report.
        title: of the page.
        effects: of its h features, if a model was given.
        texts: encoded with the report's codec.
        names: of its features.

    Returns:
        The file; arrays by name, and in the metadata "page" a JSON object.

    Raises:
        ShapeError: effects or texts are of another number of features.
        MismatchError: the names are of another codec.
    """
    n_features = len(report.features)
    strings = Strings()
    arrays = feature_arrays(report, strings) | row_arrays(report) | context_arrays(report)
    prices = coder_prices(report)
    if effects is not None:
        arrays |= effect_arrays(effects, strings, n_features=n_features)
    if names is not None:
        names.check(fingerprint=report.codec.fingerprint, n_features=n_features)
    entries = []
    for number, text in enumerate(texts):
        _check_width(text.bits.shape[1], n_features, what=f"the text {text.title!r}")
        arrays |= text_arrays(text, number)
        entries.append(text_entry(text, prices))
    page = {
        "title": title,
        "n_rows": report.evaluation.n_rows,
        "has_text": bool(report.passages),
        "first_order": "token_share" if report.passages else "activity",
        "flags": FLAGS,
        "context_kinds": CONTEXT_KINDS,
        "context_characters": report.settings.width,
        "price_step": price_step(report),
        "price_range": price_range(report),
        "passages": [{"document": p.document, "text": p.text} for p in report.passages],
        "effects_note": None if effects is None else effects.note,
        "judge": names.judge if names else "",
        "names": names.names if names else {},
        "name_scores": names.scores if names else {},
        "texts": entries,
        "strings": strings.texts,
    }
    return tensor_file(arrays, page)


def feature_arrays(report: Report, strings: Strings) -> dict[str, np.ndarray]:
    """Lay out the feature table, a value a feature, and what each lists."""
    features = report.features
    columns = {
        name: trimmed([_number(getattr(feature, name)) for feature in features])
        for name in FEATURE_COLUMNS
    }
    flags = [sum(1 << FLAGS.index(flag) for flag in feature.flags) for feature in features]
    counts = [token for feature in features for token in feature.tokens]
    tokens = lists(
        "token",
        (len(feature.tokens) for feature in features),
        text=smallest([strings.number(count.token) for count in counts]),
        n_on=smallest([count.n_on for count in counts]),
    )
    nearest = [f.nearest[0].cosine if f.nearest else math.nan for f in features]
    errors = [_activity_error(feature) for feature in features]
    own = {
        "activity_error": trimmed(errors),
        "n_tokens": smallest([feature.n_tokens or 0 for feature in features]),
        "n_documents": smallest([feature.n_documents or 0 for feature in features]),
        "n_on": smallest([feature.n_on for feature in features]),
        "flags": smallest(flags),
        "nearest_cosine": trimmed(nearest),
    }
    rows_of = {strings.number(count.token): count.n_rows for count in counts}
    of_tokens = {"string_rows": smallest([rows_of.get(n, 0) for n in range(len(strings.texts))])}
    return columns | own | tokens | of_tokens | neighbour_arrays(features)


def neighbour_arrays(features: Sequence[Feature]) -> dict[str, np.ndarray]:
    """Lay out the features nearest to each, and those most often on together with it."""
    nearest = [neighbour for feature in features for neighbour in feature.nearest]
    coactive = [neighbour for feature in features for neighbour in feature.coactive]
    return lists(
        "nearest",
        (len(feature.nearest) for feature in features),
        feature=smallest([neighbour.feature for neighbour in nearest]),
        value=halves([neighbour.cosine for neighbour in nearest]),
    ) | lists(
        "coactive",
        (len(feature.coactive) for feature in features),
        feature=smallest([neighbour.feature for neighbour in coactive]),
        value=halves([neighbour.phi for neighbour in coactive]),
        n_both=smallest([neighbour.n_both for neighbour in coactive]),
    )


def row_arrays(report: Report) -> dict[str, np.ndarray]:
    """Lay out the rows that are shown; without text only their numbers and prices.

    A page may show most rows of the data, so these columns make up much of its size: a token is
    kept by its length and the gap to the token before, both small, and its price in steps.
    """
    rows = report.rows
    passage = np.asarray(rows.passage, np.int64)
    start, end = np.asarray(rows.start, np.int64), np.asarray(rows.end, np.int64)
    follows = np.diff(passage, prepend=-1) == 0
    before = np.where(follows, np.roll(end, 1), 0)
    return {
        "row_number": differences(rows.row),
        "row_price": smallest(np.rint(np.asarray(rows.price_bits) / price_step(report))),
        "row_passage": differences(passage),
        "row_gap": smallest(start - before),
        "row_length": smallest(end - start),
        "row_position": differences(rows.position),
    }


def price_step(report: Report) -> int:
    """Return the bits to which a row's price is rounded, a thirtieth of the mean price."""
    return max(1, round(report.entropy.sum_bits / 30))


def context_arrays(report: Report) -> dict[str, np.ndarray]:
    """Lay out the contexts of all features; rows are indices into the rows shown.

    Those at which the feature is on are steps, the first from the context's own row.
    """
    index = {row: at for at, row in enumerate(report.rows.row)}
    contexts = [(kind, c) for feature in report.features for kind, c in contexts_of(feature)]
    rows = [index[context.row] for _, context in contexts]
    steps = [
        np.diff([index[on] for on in context.on], prepend=row)
        for row, (_, context) in zip(rows, contexts, strict=True)
    ]
    own = lists(
        "context",
        (len(contexts_of(feature)) for feature in report.features),
        row=smallest(rows),
        kind=smallest([CONTEXT_KINDS.index(kind) for kind, _ in contexts]),
        margin=halves([_number(context.margin) for _, context in contexts]),
    )
    on = lists("context_on", map(len, steps), step=smallest(np.concatenate([[], *steps])))
    return own | on


def contexts_of(feature: Feature) -> list[tuple[str, Context]]:
    """Return a feature's contexts with their kinds."""
    kinds: list[tuple[str, Sequence[Context]]] = [("top", feature.top), ("random", feature.random)]
    plain = [(kind, context) for kind, contexts in kinds for context in contexts]
    return plain + [(context.reason, context) for context in feature.counter]


def effect_arrays(
    effects: TokenEffects, strings: Strings, *, n_features: int
) -> dict[str, np.ndarray]:
    """Lay out promoted and suppressed tokens, the same number for every feature."""
    _check_width(len(effects.promoted), n_features, what="the effects on tokens")
    arrays: dict[str, np.ndarray] = {}
    for kind in ("promoted", "suppressed"):
        ids = np.asarray(getattr(effects, kind)).ravel()
        arrays[kind] = smallest([strings.number(effects.tokens[i]) for i in ids.tolist()])
        arrays[f"{kind}_logits"] = halves(getattr(effects, f"{kind}_logits"))
    return arrays


def coder_prices(report: Report) -> np.ndarray:
    """Return what a bit off and on costs an entropy coder that knows the report's rows.

    Its probabilities are (count + 1/2) / (n + 1), the estimator of Krichevsky and Trofimov (1981),
    so that a text may hold what no row of the report did.

    Returns:
        (2, h) float32, in bits: first off, then on.
    """
    on = np.array([feature.n_on for feature in report.features], dtype=np.float64)
    p = (on + 0.5) / (report.evaluation.n_rows + 1)
    return np.stack([-np.log2(1 - p), -np.log2(p)]).astype(np.float32)


def text_arrays(text: EncodedText, number: int) -> dict[str, np.ndarray]:
    """Lay out the features that are on at each token of a text."""
    rows, features = np.nonzero(text.bits)
    counts = np.bincount(rows, minlength=len(text.bits)).tolist()
    name = f"text_{number}_on"
    return lists(name, counts) | {name: differences(features)}


def text_entry(text: EncodedText, prices: np.ndarray) -> dict[str, Any]:
    """Return what of a text is not arrays: its pieces, and the price of each token."""
    cost = text.bits @ (prices[1] - prices[0]) + prices[0].sum()
    starts, ends = text.start.tolist(), text.end.tolist()
    return {
        "title": text.title,
        "tokens": [text.text[begin:end] for begin, end in zip(starts, ends, strict=True)],
        "gaps": [
            text.text[at:begin] for at, begin in zip([0, *ends[:-1]], starts, strict=True)
        ],  # tokens that are no rows, and what the tokenizer leaves out
        "tail": text.text[ends[-1] :] if ends else text.text,
        "positions": text.position.tolist(),
        "price_bits": [round(float(price), 2) for price in cost],
    }


def price_range(report: Report) -> tuple[float, float]:
    """Return the prices between which the page shades rows: those of all but a tenth of them."""
    if not report.rows.price_bits:
        return 0.0, 1.0
    low, high = np.percentile(report.rows.price_bits, (5, 95))
    return round(float(low), 1), round(float(high), 1)


def _activity_error(feature: Feature) -> float:
    """Return the standard error that takes documents as independent, where it is known."""
    clustered = feature.activity_clustered_error
    return feature.activity_standard_error if clustered is None else clustered


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _check_width(found: int, expected: int, *, what: str) -> None:
    if found != expected:
        raise ShapeError(
            f"{what} must be of the report's {expected} features, got {found}: make both with the "
            "same codec"
        )
