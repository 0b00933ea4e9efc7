"""What a command does when it is told to stop: clear up, say so in one line, and go."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Stopped(BaseException):
    """A signal came; no `except Exception` on the way holds it up.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name}: files are as they were before, or as the "
            "last checkpoint or shard left them"
        )
        self.number = number


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Stopped` while the block runs, so that temporaries go.

    Signals that are ignored stay so, and outside the main thread all come as they always do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        raise Stopped(number)

    heard = [
        number
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    ]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
