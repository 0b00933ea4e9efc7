"""What features do to a model's next token, as a page shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitcodec.errors import ShapeError


@dataclass(frozen=True, eq=False)
class TokenEffects:
    """The tokens that each feature makes more and less likely.

    Raises:
        ShapeError: the four arrays are not all (h, k).
    """

    tokens: Sequence[str]
    """Texts of tokens."""
    promoted: np.ndarray
    """(h, k) integers into `tokens`, the most promoted first."""
    promoted_logits: np.ndarray
    """(h, k) float, their changes."""
    suppressed: np.ndarray
    """(h, k) integers into `tokens`, the most suppressed first."""
    suppressed_logits: np.ndarray
    """(h, k) float, their changes."""
    note: str
    """How this was computed, for the reader of the page."""

    def __post_init__(self) -> None:
        shapes = {
            np.shape(array)
            for array in (
                self.promoted,
                self.promoted_logits,
                self.suppressed,
                self.suppressed_logits,
            )
        }
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            raise ShapeError(
                f"promoted and suppressed tokens and logits must all be (h, k), got {shapes}"
            )
