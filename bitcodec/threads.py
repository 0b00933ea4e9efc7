"""Work on the CPU that is done in parts, each part in a thread of its own."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from bitcodec.errors import ConfigError

Result = TypeVar("Result")


def row_parts(n_rows: int, *, n_threads: int | None) -> list[slice]:
    """Cut rows into one part a thread.

    Args:
        n_rows: rows in all; 0 gives no part.
        n_threads: None means one for each CPU that this process may use.

    Raises:
        ConfigError: `n_threads` is below 1.
    """
    wanted = _n_cpus() if n_threads is None else n_threads
    if wanted < 1:
        raise ConfigError(f"n_threads must be at least 1, got {n_threads}")
    size = max(1, -(-n_rows // wanted))
    return [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]


def run(task: Callable[[slice], Result], parts: Sequence[slice]) -> list[Result]:
    """Do a task for every part, each in a thread, and return the results in order.

    As many are done at a time as there are CPUs. A task must not call this itself.
    """
    if len(parts) < 2:
        return [task(part) for part in parts]
    return list(_pool(os.getpid()).map(task, parts))


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Return threads that wait for work: starting them anew takes longer than many a task.

    A process that was forked has none of its parent's threads, so it gets its own.
    """
    del process
    return ThreadPoolExecutor(_n_cpus(), thread_name_prefix="bitcodec")


def _n_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
