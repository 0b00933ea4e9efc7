"""What features are called, as a page shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bitcodec.errors import FormatError, MismatchError

SCHEMA = "bitcodec.names"


@dataclass(frozen=True)
class FeatureNames:
    """Names of some features, each with the share of held-out contexts that it tells rightly."""

    judge: str
    """Who gave and tested them."""
    fingerprint: str
    """Of the codec whose features they are; empty where it is not known."""
    names: dict[int, str]
    """By feature."""
    scores: dict[int, float]
    """By feature; one half by chance."""

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> FeatureNames:
        """Read what `bitcodec name` wrote as JSON.

        Raises:
            FormatError: it holds no names, or is damaged.
        """
        try:
            if content["schema"] != SCHEMA:
                raise KeyError
            found = content["names"]
            return cls(
                judge=str(content["judge"]),
                fingerprint=str(content["fingerprint"]),
                names={int(one["feature"]): str(one["explanation"]) for one in found},
                scores={int(one["feature"]): float(one["verdict"]["score"]) for one in found},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(
                f"expected the names that `bitcodec name` writes, got a JSON object of "
                f"{', '.join(list(content)[:5])}"
            ) from error

    def check(self, *, fingerprint: str, n_features: int) -> None:
        """Refuse names of another codec's features.

        Raises:
            MismatchError: they are of another codec, or of features that are not there.
        """
        foreign = self.fingerprint not in ("", fingerprint)
        if foreign or not all(0 <= feature < n_features for feature in self.names):
            raise MismatchError(
                f"the names must be of the report's {n_features} features, of codec "
                f"{fingerprint[:12]}, got those of {self.fingerprint[:12] or 'another'}: name its "
                "features with `bitcodec name`"
            )
