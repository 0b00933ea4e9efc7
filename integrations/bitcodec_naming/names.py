"""What came of naming features, as plain data, and its JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from bitcodec.errors import FormatError
from bitcodec.files import PathLike, atomic_path, read_json
from bitcodec.json_fields import from_fields, to_fields
from bitcodec.sealed_json import sealed, unsealed
from bitcodec_naming.settings import NamingSettings
from bitcodec_naming.verdicts import AnsweredPair, Verdict, wilson_interval

SCHEMA, VERSION = "bitcodec.names", 2
"""Version 2 added the seal of the file; version 1 is read without one."""
_MAX_BYTES = 2**30
THRESHOLDS = (0.6, 0.7, 0.8, 0.9)
"""Scores from which on a feature may be called interpretable."""


@dataclass(frozen=True)
class FeatureName:
    """One feature's name, and how it stood the test."""

    feature: int
    """Its number."""
    explanation: str
    """What the judge said; empty if it found no name."""
    activity: float
    """Share of rows in which it is on."""
    n_contexts: int
    """Rows in which it is among the most bursty."""
    verdict: Verdict
    """Of the answers to `pairs`."""
    control: Verdict | None
    """Of answers to the same contexts under another feature's name; None if not asked."""
    pairs: tuple[AnsweredPair, ...]
    """The answers."""


@dataclass(frozen=True)
class InterpretableCount:
    """Features whose score reaches a threshold."""

    threshold: float
    """Least score."""
    n: int
    """How many."""
    share: float
    """Of the named features."""
    low: float
    """Lower end of the share's 95% interval, taking features as a sample (Wilson, 1927)."""
    high: float
    """Upper end."""
    control: int | None
    """How many reach it under another feature's name; None if not asked."""


@dataclass(frozen=True, repr=False)
class Names:
    """Names of a source's features by one judge."""

    judge: str
    """The judge."""
    fingerprint: str
    """What made the codes."""
    settings: NamingSettings
    """How features were named."""
    n_rows: int
    """Rows n of the codes."""
    n_features: int
    """Features h."""
    n_dead: int
    """Features that are on in no row."""
    n_tried: int
    """Features that contexts were sought of, in random order, before there were enough names."""
    n_too_rare: int
    """Those of them that have too few contexts of different text, the dead among them."""
    names: tuple[FeatureName, ...]
    """The named features, by number."""

    def __repr__(self) -> str:
        """Tell what was named: the whole is long."""
        return f"Names({len(self.names)} of {self.n_features} features by {self.judge})"

    def mean_score(self) -> tuple[float, float, float]:
        """Return the mean score with the ends of its 95% interval, features being a sample."""
        return bootstrap_mean([name.verdict.score for name in self.names])

    def mean_control(self) -> tuple[float, float, float] | None:
        """Return the same under other features' names; None if that was not asked."""
        scores = [name.control.score for name in self.names if name.control is not None]
        return bootstrap_mean(scores) if scores else None

    def counts(self, thresholds: Sequence[float] = THRESHOLDS) -> tuple[InterpretableCount, ...]:
        """Count the features whose score reaches thresholds."""
        return tuple(self._count(threshold) for threshold in thresholds)

    def _count(self, threshold: float) -> InterpretableCount:
        reached = sum(name.verdict.score >= threshold for name in self.names)
        controls = [name.control.score for name in self.names if name.control is not None]
        low, high = wilson_interval(reached, len(self.names))
        return InterpretableCount(
            threshold=threshold,
            n=reached,
            share=reached / len(self.names),
            low=low,
            high=high,
            control=sum(score >= threshold for score in controls) if controls else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON holds: these fields, under the schema's name and version."""
        return {"schema": SCHEMA, "version": VERSION, **to_fields(self)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Build names from what `to_dict` gave.

        Raises:
            FormatError: it holds no names, of a newer version, or is damaged.
        """
        schema, version = content.get("schema"), content.get("version")
        if schema != SCHEMA or version not in range(1, VERSION + 1):
            raise FormatError(
                f"expected names of schema {SCHEMA}, version 1 to {VERSION}, got {schema!r:.40}, "
                f"version {version!r:.40}: make them with `bitcodec name`, or use a newer bitcodec"
            )
        fields = {key: value for key, value in content.items() if key not in ("schema", "version")}
        names = from_fields(cls, fields)
        names._check()
        return names

    def _check(self) -> None:
        """Refuse what no naming gives, and what no count or mean could be taken of.

        Raises:
            FormatError: there are no names, or features or numbers that cannot be.
        """
        features = [name.feature for name in self.names]
        if not features:
            raise FormatError("there must be a name at least, got none")
        if len(set(features)) < len(features) or not 0 <= min(features) <= max(features) < (
            self.n_features
        ):
            raise FormatError(
                f"names must be of different features of {self.n_features}, got {features[:3]}"
            )
        for name in self.names:
            scores = [found.score for found in (name.verdict, name.control) if found is not None]
            if not (0 < name.activity <= 1 and all(0 <= score <= 1 for score in scores)):
                raise FormatError(
                    f"activity and scores must be shares, got {name.activity} and {scores} of "
                    f"feature {name.feature}"
                )

    def save(self, path: PathLike, *, overwrite: bool = False) -> None:
        """Write the names as JSON.

        Raises:
            FileError: `path` exists and `overwrite` is false, or cannot be written.
        """
        content = json.dumps(sealed(self.to_dict()), indent=1, ensure_ascii=False, allow_nan=False)
        with atomic_path(path, overwrite=overwrite) as temporary:
            temporary.write_text(content + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: PathLike) -> Self:
        """Read names that `save` wrote.

        Raises:
            FileError: there is no such file.
            FormatError: it holds no names, of a newer version, or is damaged.
        """
        try:
            content = read_json(path, max_bytes=_MAX_BYTES)
            ours = content.get("schema") == SCHEMA and content.get("version") == VERSION
            return cls.from_dict(unsealed(content, where=path) if ours else content)
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from error


def bootstrap_mean(values: Sequence[float], *, n_samples: int = 2000) -> tuple[float, float, float]:
    """Return a mean with the ends of its 95% percentile bootstrap interval (Efron, 1979).

    Args:
        values: at least one; resampled with seed 0.
        n_samples: resamples.
    """
    array = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(0).integers(len(array), size=(n_samples, len(array)))
    low, high = np.percentile(array[draws].mean(axis=1), (2.5, 97.5))
    return float(array.mean()), float(low), float(high)
