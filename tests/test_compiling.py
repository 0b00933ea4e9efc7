"""Loops are compiled when the first of them is called, and not before."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bitcodec.compiling import compiler


@compiler(reorder_sums=False)
def doubled(value: float) -> float:
    """Return twice a value."""
    return value + value


@compiler(reorder_sums=False)
def sum_of_doubled(values: np.ndarray) -> float:
    total = 0.0
    for value in values:
        total += doubled(value)
    return total


def test_threads_that_come_first_together_all_get_the_sum() -> None:
    rows = [np.arange(n, dtype=np.float64) for n in range(1, 17)]
    with ThreadPoolExecutor(16) as threads:
        sums = list(threads.map(sum_of_doubled, rows))
    assert sums == [float(n * (n - 1)) for n in range(1, 17)]


def test_a_deferred_function_keeps_its_name_and_text() -> None:
    kept = compiler(reorder_sums=True)(test_a_deferred_function_keeps_its_name_and_text)
    assert kept.__name__ == "test_a_deferred_function_keeps_its_name_and_text"


def test_a_codec_is_imported_without_numba() -> None:
    code = "import sys; from bitcodec import BitCodec; print('numba' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout == "False\n"
