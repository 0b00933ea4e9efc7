"""Processor time and memory of this process and of all that it started."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil


@dataclass
class Usage:
    """What a block of code used, with all processes below this one."""

    seconds: float = 0.0
    """By the clock."""
    cpu_seconds: float = 0.0
    """Of all processors, in user and in system mode."""
    peak_bytes: int = 0
    """Most memory at once, looked at every second; pages that several map are shared out (PSS)."""


@contextlib.contextmanager
def measured(*, memory: bool = False) -> Iterator[Usage]:
    """Measure a block.

    Args:
        memory: watch the memory too.
    """
    usage, stop = Usage(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(usage, stop), daemon=True)
    if memory:
        watcher.start()
    started, before = time.perf_counter(), _cpu_seconds()
    try:
        yield usage
    finally:
        usage.seconds = time.perf_counter() - started
        usage.cpu_seconds = _cpu_seconds() - before
        stop.set()
        if memory:
            watcher.join()


def _family() -> list[psutil.Process]:
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def _cpu_seconds() -> float:
    # Of a process that has ended, the parent's count of its children knows.
    total = 0.0
    for process in _family():
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


def _watch(usage: Usage, stop: threading.Event) -> None:
    while not stop.wait(1.0):
        now = 0
        for process in _family():
            with contextlib.suppress(psutil.Error):
                now += process.memory_full_info().pss
        usage.peak_bytes = max(usage.peak_bytes, now)
