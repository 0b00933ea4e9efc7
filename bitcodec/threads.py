"""Work on the CPU that is done in parts, each part in a thread of its own."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from bitcodec.errors import ConfigError

Result = TypeVar("Result")
_THREAD = threading.local()


def row_parts(n_rows: int, *, n_threads: int | None, min_rows: int = 1) -> list[slice]:
    """Cut rows into one part a thread.

    Args:
        n_rows: rows in all; 0 gives no part.
        n_threads: None means one for each CPU that this process may use, and more take turns.
        min_rows: rows that a part has at least, where there are so many.

    Raises:
        ConfigError: `n_threads` is below 1.
    """
    wanted = _n_cpus() if n_threads is None else n_threads
    if wanted < 1:
        raise ConfigError(f"n_threads must be at least 1, got {n_threads}")
    size = max(min_rows, -(-n_rows // wanted))
    return [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]


def run(task: Callable[[slice], Result], parts: Sequence[slice]) -> list[Result]:
    """Do a task for every part, each in a thread, and return the results in order.

    As many are done at a time as there are CPUs. When this returns or raises, none goes on. What a
    task itself hands to this is done in the task's thread, and so is everything once the
    interpreter ends.
    """
    if len(parts) < 2 or getattr(_THREAD, "is_worker", False):
        return [task(part) for part in parts]
    futures: list[Future[Result]] = []
    try:
        pool = _pool(os.getpid(), _n_cpus())
        with contextlib.suppress(RuntimeError):  # no new work is taken when the interpreter ends
            futures.extend(pool.submit(task, part) for part in parts)
        results = [future.result() for future in futures]
        return results + [task(part) for part in parts[len(futures) :]]
    finally:
        wait(futures)


@functools.cache
def _pool(process: int, n_threads: int) -> ThreadPoolExecutor:
    """Return threads that wait for work: starting them anew takes longer than many a task.

    A process that was forked has none of its parent's threads, so it gets its own.
    """
    del process
    return ThreadPoolExecutor(n_threads, "bitcodec", lambda: setattr(_THREAD, "is_worker", True))


def _n_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
