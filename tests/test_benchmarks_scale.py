"""The plan for large data follows its assumptions, and docs/scale.md shows what it prints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.scale_plan import (
    Assumptions,
    Rates,
    archive_rows,
    measured_rates,
    search_rows,
    tables,
)
from benchmarks.scale_rows import RepeatedRows

RATES = Rates(1000.0, n_dims=100, n_bits=400, search_ratio=3.0, scanned_bytes=1e9)


def test_the_page_shows_the_tables_that_the_command_prints() -> None:
    page = (Path(__file__).parent.parent / "docs" / "scale.md").read_text(encoding="utf-8")
    shown = page.split("<!-- plan -->\n")[1].split("\n<!-- /plan -->")[0]
    assert shown == tables(Assumptions(), measured_rates())


def test_hours_grow_with_the_products_and_shrink_with_the_machines() -> None:
    told = Assumptions(activation_bytes=2 * 3.6e6 * 100, n_dims=100, cores=10, machines=1, engine=1)
    lines = dict(archive_rows(told, RATES))
    assert lines["core hours, linear pass"] == "1: 0 dollars"
    assert lines["core hours, with search"] == "3: 0 dollars"
    assert lines["hours on 1 machines of 10 cores"].startswith("0.1, with search 0.3;")
    wide = replace(told, activation_bytes=told.activation_bytes * 10, n_dims=1000)
    assert dict(archive_rows(wide, RATES))["core hours, linear pass"] == "100: 5 dollars"


def test_a_billion_vectors_need_the_memory_of_their_codes_and_ids() -> None:
    told = Assumptions(vector_bits=800, vector_side_bytes=0, memory_gb=140.0, cores=100)
    lines = dict(search_rows(told, RATES))
    assert lines["codes"] == "100 bytes each, 100 GB"
    assert lines["in memory with ids"] == "112 GB: 1 machines"
    assert lines["a query against all, in batches"] == "1.00 seconds on all their cores"


def test_repeated_rows_are_those_of_the_source_over_and_over(tmp_path: Path) -> None:
    rows = np.arange(14, dtype=np.float32).reshape(7, 2)
    np.save(tmp_path / "rows.npy", rows)
    long = RepeatedRows(str(tmp_path / "rows.npy"), 20)
    assert len(long) == 20
    np.testing.assert_array_equal(long[5:17], np.concatenate([rows[5:], rows, rows[:3]]))
    np.testing.assert_array_equal(long[18:30], rows[4:6])
