"""The overview of a page: what its template writes without scripts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from bitcodec.report import Feature, Report, WorstRow

N_STARTS, N_PAIRS, N_WORST = 10, 10, 10
MIN_ACTIVITY = 1e-3
"""Features on less often are no good ones to start with: few contexts, shares of few rows."""

COLUMN_MEANINGS = {
    "Activity": "Share of the rows in which the feature is on.",
    "Entropy": "H2 of the activity, in bits per row; the sum bounds the code’s entropy from above.",
    "Firing costs": "−log₂ of the activity: what the feature being on costs to store, in bits.",
    "Norm": "Length of its decoder row in units of the codec’s scales.",
    "Told by token": "Share of the bits that its state takes which knowing the row’s token saves, "
    "each row coded by the other rows of its token. Near 100 %: the feature names tokens.",
    "Told by document": "The same for the row’s document. Large: the feature tells topics or kinds "
    "of text.",
    "Beyond token": "Told by document less told by token: high for context-specific features, "
    "which are on at many tokens of few documents.",
    "Nearest": "Largest cosine of its decoder row with another feature’s.",
    "Flags": "dead: never on. always on. dense: on in many rows. duplicate: nearly the same as "
    "another feature.",
}


def measures(report: Report) -> list[tuple[str, str, str]]:
    """Return rate and distortion as (name, value, meaning)."""
    found, entropy = report.evaluation, report.entropy
    lines = [
        ("FVU", digits(found.fvu), "variance unexplained, mean over dimensions"),
        ("FVU, total", digits(found.fvu_total), "the same as one ratio of sums"),
        ("cosine", digits(found.cosine), "of rows and their decoded copies"),
        ("norm ratio", digits(found.l2_ratio), "decoded over true"),
        ("float16", f"{found.float16_bytes_per_vector:,.0f} B", "bytes per vector, uncoded"),
        ("packed", f"{found.bytes_per_vector:,.0f} B", "bytes per vector, bits as they are"),
        (
            "entropy-coded",
            f"{found.coded_bytes_per_vector:,.1f} B",
            "bytes, by the fit’s activities",
        ),
        ("ΣH", f"{entropy.sum_bits:,.1f} bits", "bounds the code’s entropy from above"),
        ("tree bound", f"{entropy.tree_bits:,.1f} bits", "a tighter one, from pairs"),
    ]
    if entropy.archive_bits is not None:
        lines.append(("archive", f"{entropy.archive_bits:,.1f} bits", "real, with a context table"))
    flags = [flag for feature in report.features for flag in feature.flags]
    dense = f"features on in {report.settings.dense_activity:.0%} of rows or more"
    return [
        *lines,
        ("dead", f"{flags.count('dead'):,}", "features never on"),
        ("dense", f"{flags.count('dense'):,}", dense),
    ]


def starts(report: Report) -> list[dict[str, Any]]:
    """Return the features that are most token-specific, and most context-specific."""
    if not report.passages:
        return []
    known = [f for f in report.features if f.token_share is not None and f.activity >= MIN_ACTIVITY]
    return [
        _start(
            "Most token-specific",
            "Their token tells the largest share of their cost in bits.",
            known,
            lambda feature: feature.token_share or 0.0,
        ),
        _start(
            "Most context-specific",
            "What their document tells of their cost, less what their token tells.",
            known,
            beyond_token,
        ),
    ]


def beyond_token(feature: Feature) -> float:
    """Return the share of its entropy that the document tells less the one the token tells."""
    return (feature.document_share or 0.0) - (feature.token_share or 0.0)


def pairs(report: Report) -> list[dict[str, Any]]:
    """Return the strongest pairs with the tokens of their features."""
    return [
        {
            "left": pair.left,
            "right": pair.right,
            "tokens": [
                visible(report.features[number].tokens[0].token)
                for number in (pair.left, pair.right)
                if report.features[number].tokens
            ],
            "bits": digits(pair.information_bits),
            "phi": digits(pair.phi),
        }
        for pair in report.pairs[:N_PAIRS]
    ]


def worst(report: Report) -> list[dict[str, Any]]:
    """Return the rows of largest error with their texts."""
    return [_worst(report, row) for row in report.worst_rows[:N_WORST]]


def about(report: Report) -> list[tuple[str, str]]:
    """Return what codec and rows these are."""
    codec = report.codec
    lines = [
        ("Codec", codec.fingerprint),
        ("Bits h", f"{codec.n_bits:,}"),
        ("Dimensions d", f"{codec.n_dims:,}"),
        ("Side bytes", str(codec.side_bytes)),
        ("Rows of its fit", f"{codec.n_rows_of_fit:,}"),
        ("Rows of this report", f"{report.evaluation.n_rows:,}"),
    ]
    return lines + [(f"Fitted on: {name}", text) for name, text in flat(codec.provenance)]


def settings(report: Report) -> list[tuple[str, str]]:
    """Return the settings of the measurement."""
    return [(name.replace("_", " "), str(value)) for name, value in asdict(report.settings).items()]


def flat(content: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Flatten nested JSON objects to (name, text)."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, str(value)


def digits(value: float, n: int = 3) -> str:
    """Write a number to so many significant digits.

    >>> digits(0.012345), digits(-1234.5), digits(0.0)
    ('0.0123', '−1,234', '0')
    """
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    decimals = n - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, min(8, decimals))}f}".replace("-", "−")


def visible(token: str) -> str:
    """Make a token's line ends and outer spaces visible.

    >>> visible(" the")
    '·the'
    """
    shown = token.replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍")
    inner = shown.strip(" ")
    if not inner:
        return "·" * len(shown) or "∅"
    before = len(shown) - len(shown.lstrip(" "))
    return "·" * before + inner + "·" * (len(shown) - before - len(inner))


def _start(
    title: str, meaning: str, features: list[Feature], share: Callable[[Feature], float]
) -> dict[str, Any]:
    best = sorted(features, key=share, reverse=True)[:N_STARTS]
    lines = [
        {
            "number": feature.feature,
            "share": f"{100 * share(feature):.0f} %",
            "tokens": [visible(count.token) for count in feature.tokens[:4]],
        }
        for feature in best
    ]
    return {"title": title, "meaning": meaning, "features": lines}


def _worst(report: Report, worst: WorstRow) -> dict[str, Any]:
    place = report.row(worst.row)
    where = f"row {worst.row:,}"
    if place.document is not None:
        where = f"document {place.document} · position {place.position} · {where}"
    return {
        "error": digits(worst.error),
        "cosine": digits(worst.cosine),
        "before": place.before.replace("\n", "⏎"),
        "token": place.token.replace("\n", "⏎"),
        "after": place.after.replace("\n", "⏎"),
        "place": where,
        "surprising": worst.surprising[:8],
    }
