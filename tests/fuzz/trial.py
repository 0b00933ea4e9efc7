"""One changed artefact, read: what came of it, and whether that is allowed."""

from __future__ import annotations

import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from bitcodec.errors import BitcodecError
from tests.fuzz.mutations import Files

SECONDS = 10
"""Of processor time that one reading may take."""
ROOM = 2**28
"""Address space that readings may take above that of valid artefacts, bytes."""
_PROGRAM = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), "/proc", "/sys")
_RUNS_CODE = {"pickle.find_class", "os.system", "os.exec", "subprocess.Popen"}


@dataclass(frozen=True)
class Outcome:
    """What came of a reading."""

    kind: str
    """"read", "refused" or "fault"."""
    what: str = ""
    """Of a fault, its kind and place."""
    value: Any = None
    """What was read."""


class HangError(BaseException):
    """A reading took too long; not an Exception, so that no reader turns it into one."""


class Trial:
    """Reads artefacts in one place on the disk.

    Args:
        path: where the artefact is put; inside a folder of its own, and best in memory.
        read: its reader.
    """

    def __init__(self, path: Path, read: Callable[[Path], Any]) -> None:
        self._path, self._read = path, read
        self._events: list[str] = []
        self._watching = False
        sys.addaudithook(self._audit)

    def run(self, files: Files) -> Outcome:
        """Put an artefact on the disk and read it."""
        put(self._path, files)
        self._events.clear()
        try:
            with self._watched(), time_limit(SECONDS):
                value = self._read(self._path)
        except BitcodecError:
            outcome = Outcome("refused")
        except (Exception, HangError) as error:
            return Outcome("fault", f"{type(error).__name__} at {_place(error)}: {error!s:.200}")
        else:
            outcome = Outcome("read", value=value)
        return Outcome("fault", self._events[0]) if self._events else outcome

    @contextmanager
    def _watched(self) -> Iterator[None]:
        self._watching = True
        try:
            yield
        finally:
            self._watching = False

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event == "pickle.find_class" and _numba_is_asking():
            return
        if event in _RUNS_CODE:
            self._events.append(f"{event} {arguments!r:.80}")
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            opened = arguments[0] if isinstance(arguments[0], str) else arguments[0].decode()
            inside = Path(opened).absolute().is_relative_to(self._path)
            if not inside and not opened.startswith(_PROGRAM):
                self._events.append(f"opened a file outside: {opened}")


def _numba_is_asking() -> bool:
    """Tell whether numba loads a kernel that it has kept on disk: one that is called first."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("numba."):
            return True
        frame = frame.f_back
    return False


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise `HangError` after so many seconds of processor time, in the main thread only."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise HangError(f"more than {seconds} seconds of processor time")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def limit_memory() -> None:
    """Have allocations fail that go beyond what the process has now by more than `ROOM`."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def put(path: Path, files: Files) -> None:
    """Write the files of an artefact, in the place of what is there."""
    if path.is_dir():
        for file in [file for file in path.rglob("*") if file.is_file()]:
            if file.relative_to(path).as_posix() not in files:
                file.unlink()
    for name, content in files.items():
        file = path / name if name else path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def take(path: Path) -> Files:
    """Read the files of an artefact."""
    if path.is_file():
        return {"": path.read_bytes()}
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-1:-4:-1])
