"""Features of any kind as on/off codes of rows with texts, and the bursty ones of each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from bitcodec.bits import check_packed, pack
from bitcodec.feature_sets import FeatureSets
from bitcodec.row_texts import RowTexts, check_aligned


class FeatureSource(Protocol):
    """What features are named from: which are on in which rows, and the rows' texts."""

    @property
    def codes(self) -> np.ndarray:
        """(n, ceil(h / 8)) uint8, packed as `bitcodec.bits.pack` does."""

    @property
    def n_features(self) -> int:
        """The number of features h."""

    @property
    def texts(self) -> RowTexts:
        """The origin of the n rows."""

    @property
    def fingerprint(self) -> str:
        """What made the codes, for example a codec's fingerprint; may be empty."""


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """A plain `FeatureSource`: the codes of a codec, or where an SAE's values are above 0.

    Raises:
        ShapeError: the width is not that of h features, or the texts have another number of rows.
        ValueRangeError: the codes are not uint8, or a pad bit is set.
        ConfigError: `texts` tells no origins.
    """

    codes: np.ndarray
    """(n, ceil(h / 8)) uint8; of a codec's packed rows the first bytes, without side bytes."""
    n_features: int
    """h."""
    texts: RowTexts
    """The origin of the n rows."""
    fingerprint: str = ""
    """What made the codes."""

    def __post_init__(self) -> None:
        check_packed(self.codes, n_bits=self.n_features)
        check_aligned(self.texts, len(self.codes))

    @classmethod
    def from_active(cls, active: np.ndarray, texts: RowTexts, *, fingerprint: str = "") -> Self:
        """Build from a matrix of what is on.

        Args:
            active: (n, h) bool; of an SAE, its values > 0.
            texts: the origin of the n rows.
            fingerprint: what made the codes.
        """
        return cls(pack(active), active.shape[1], texts, fingerprint)


def bursty_contexts(source: FeatureSource, *, k: int | None) -> list[np.ndarray]:
    """Return for each feature the rows in which it is among the k most bursty that are on.

    The burstiness of a feature that is on is log2(1 - p), so the most bursty are the rarest (arXiv
    2509.20997, section 4); equally rare ones are taken by number. The paper also ranks features
    that are off: those of p < 1/2 are less bursty than any that is on.

    Args:
        source: the features.
        k: how many of each row; None takes all.

    Returns:
        h arrays of rows, ascending.
    """
    sets = FeatureSets.from_packed(source.codes, n_bits=source.n_features)
    taken = np.zeros(sets.n_rows, dtype=np.int64)
    contexts = [np.empty(0, np.int64)] * sets.n_bits
    for feature in np.argsort(sets.counts, kind="stable").tolist():
        rows = sets[feature].rows()
        contexts[feature] = rows if k is None else rows[taken[rows] < k]
        taken[contexts[feature]] += 1
    return contexts
