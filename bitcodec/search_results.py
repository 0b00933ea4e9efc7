"""What a search returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bitcodec.similarity import Metric

MISSING_ID = -1
"""The id where fewer than k rows match."""

MISSING_SCORE = int(np.iinfo(np.int32).max)
"""The Hamming distance beside a `MISSING_ID`, larger than any real one (FAISS's choice too)."""

ScoredBy = Literal["hamming", "asymmetric", "float"]
"""What scores are computed from: two codes; a float query and a code; two float vectors."""

ScoreMetric = Literal["hamming"] | Metric
"""What scores measure. Smaller is nearer in "hamming" and "l2", the squared distance; larger is
nearer in "inner_product" and "cosine"."""


@dataclass(frozen=True)
class SearchResult:
    """The k nearest rows of every query, the nearest first, ties by id."""

    scores: np.ndarray
    """(..., k) int32 Hamming distances, or float32 of another metric. Where fewer than k rows
    match: `MISSING_SCORE`, or the infinity that is farthest."""

    ids: np.ndarray
    """(..., k) int64; `MISSING_ID` where fewer than k rows match."""

    scored_by: ScoredBy
    """What `scores` are computed from."""

    metric: ScoreMetric = "hamming"
    """What `scores` measure."""


@dataclass(frozen=True)
class RangeResult:
    """All rows within a radius; query i owns the hits `limits[i]:limits[i + 1]`."""

    limits: np.ndarray
    """(n_queries + 1,) int64, from 0 to the number of hits."""

    scores: np.ndarray
    """(n_hits,) int32 Hamming distances, or float32 of another metric, the nearest first within a
    query, ties by id."""

    ids: np.ndarray
    """(n_hits,) int64."""

    scored_by: ScoredBy
    """What `scores` are computed from."""

    metric: ScoreMetric = "hamming"
    """What `scores` measure."""
