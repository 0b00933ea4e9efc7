"""Rows of one length and a large mean: what distances see that inner products do not."""

from __future__ import annotations

import numpy as np
import pytest

from bitcodec import BitCodec
from bitcodec.metrics import recall
from bitcodec.similarity import Metric
from bitcodec_faiss import AsymmetricIndex


@pytest.fixture(scope="module")
def unit_rows(hidden: np.ndarray) -> np.ndarray:
    """Means of four neighbouring hidden states, of length 1."""
    pooled = hidden[: 4 * (len(hidden) // 4)].reshape(-1, 4, hidden.shape[1]).mean(axis=1)
    unit: np.ndarray = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    return unit


def test_distances_by_stored_lengths_rank_past_the_error_along_the_mean(
    unit_rows: np.ndarray,
) -> None:
    base, queries = unit_rows[:900], unit_rows[900:1000]
    assert np.linalg.norm(base.mean(axis=0)) > 0.5
    exact = np.argsort(-(queries @ base.T), axis=1)[:, :10]
    settings = {"n_bits": 256, "side_bytes": 4, "n_steps": 60, "batch_size": 128, "refine": "fast"}
    codec = BitCodec.preset("search", **settings).fit(base)
    packed = codec.encode(base)

    def recall_by(metric: Metric) -> float:
        index = AsymmetricIndex(codec, metric=metric)
        index.add_packed(packed)
        return recall(index.search(queries, k=10).ids, exact)

    assert recall_by("l2") > recall_by("inner_product") + 0.1
