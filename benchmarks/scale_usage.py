"""Processor time and memory of this process and of all that it started."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

LOOK_SECONDS = 0.1
"""Between two looks: what a process uses between the last of them and its end is not counted."""


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
    usage, watcher = Usage(), _Watcher(memory=memory)
    started = time.perf_counter()
    watcher.start()
    try:
        yield usage
    finally:
        usage.seconds = time.perf_counter() - started
        usage.cpu_seconds, usage.peak_bytes = watcher.end()


class _Watcher(threading.Thread):
    """Remember the last processor time of every process: no parent knows it of all that end."""

    def __init__(self, *, memory: bool) -> None:
        super().__init__(daemon=True)
        self._memory, self._ended = memory, threading.Event()
        self._first: dict[psutil.Process, float] = {}
        self._last: dict[psutil.Process, float] = {}
        self._peak_bytes = 0
        for process in _family():
            self._first[process] = _cpu_seconds(process)

    def run(self) -> None:
        n_looks = 0
        while not self._ended.wait(LOOK_SECONDS):
            self._look(memory=self._memory and n_looks % 10 == 0)
            n_looks += 1

    def end(self) -> tuple[float, int]:
        """Return processor seconds since the start, and the most memory seen."""
        self._ended.set()
        self.join()
        self._look(memory=self._memory)
        used = (last - self._first.get(process, 0.0) for process, last in self._last.items())
        return sum(used), self._peak_bytes

    def _look(self, *, memory: bool) -> None:
        total = 0
        for process in _family():
            with contextlib.suppress(psutil.Error):
                self._last[process] = _cpu_seconds(process)
                total += process.memory_full_info().pss if memory else 0
        self._peak_bytes = max(self._peak_bytes, total)


def _family() -> list[psutil.Process]:
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
