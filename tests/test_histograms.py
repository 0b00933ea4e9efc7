"""Counts between edges, against numpy's."""

from __future__ import annotations

import numpy as np
import pytest

from bitcodec.histograms import distributions, histogram
from bitcodec.statistics import BitStatistics


def test_counts_are_those_of_numpy_which_include_both_outer_edges() -> None:
    values = np.array([0.0, 0.5, 1.0, 1.0, 1.5, 2.0, 2.0])
    edges = np.array([0.0, 1.0, 2.0])
    found = histogram(values, edges)
    assert found.counts == tuple(np.histogram(values, edges)[0]) == (2, 5)
    assert (found.edges, found.n_outside) == ((0, 1, 2), 0)


def test_what_lies_between_no_edges_is_counted_apart() -> None:
    values = np.array([-np.inf, -0.1, 0.5, 2.1, np.inf])
    found = histogram(values, np.array([0.0, 1.0, 2.0]))
    assert (found.counts, found.n_outside) == ((1, 0), 4)


def test_weights_say_how_often_a_value_counts() -> None:
    values, weights = np.array([0.5, 1.5, 9.0]), np.array([3, 4, 5])
    found = histogram(values, np.array([0.0, 1.0, 2.0]), weights=weights)
    assert (found.counts, found.n_outside) == ((3, 4), 5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("counts", [[0, 0], [1, 1], [0, 1]])
def test_a_single_row_has_distributions(counts: list[int]) -> None:
    n_on = np.array([sum(counts)])
    statistics = BitStatistics(n_rows=1, counts=np.array(counts))
    found = distributions(statistics, prices=np.zeros(1), n_on=n_on, errors=np.zeros(1))
    assert sum(found.row_n_on.counts) == sum(found.row_price_bits.counts) == 1
    assert (sum(found.firing_price_bits.counts), found.row_log10_error.n_outside) == (n_on[0], 1)
    assert sum(found.log10_activity.counts) == n_on[0]
