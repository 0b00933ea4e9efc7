"""Work on the CPU that is done in parts, each part in a thread of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from bitcodec.errors import ConfigError

Result = TypeVar("Result")


def row_parts(n_rows: int, *, n_threads: int | None, min_rows: int = 1) -> list[slice]:
    """Cut rows into one part a thread.

    Args:
        n_rows: rows in all; 0 gives no part.
        n_threads: None means one for each CPU that this process may use.
        min_rows: rows that a part has at least, where there are so many.

    Returns:
        Slices that follow one another from row 0 to the last.

    Raises:
        ConfigError: `n_threads` is below 1.
    """
    wanted = _n_cpus() if n_threads is None else n_threads
    if wanted < 1:
        raise ConfigError(f"n_threads must be at least 1, got {n_threads}")
    size = max(min_rows, -(-n_rows // wanted))
    return [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]


def run(task: Callable[[slice], Result], parts: Sequence[slice]) -> list[Result]:
    """Do a task for every part at once, the first in this thread, and return the results in order.

    When this returns or raises, no part is still being done. Threads are new ones: a pool's take
    no work once the main thread has ended, and none is left in a process that was forked.
    """
    results: dict[int, Result] = {}
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            results[number] = task(parts[number])
        except BaseException as error:
            failures.append(error)

    started: list[threading.Thread] = []
    try:
        for number in range(1, len(parts)):
            thread = threading.Thread(target=work, args=(number,))
            thread.start()
            started.append(thread)
        if parts:
            work(0)
    finally:
        for thread in started:
            thread.join()
    if failures:
        raise failures[0]
    return [results[number] for number in range(len(parts))]


def _n_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
