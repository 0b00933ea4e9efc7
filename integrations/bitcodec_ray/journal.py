"""What a run has done already, a line a shard, for the run after it."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from bitcodec.errors import FormatError, MismatchError
from bitcodec.files import PathLike, atomic_path, check_target
from bitcodec.locks import writing_alone

FORMAT, VERSION = "bitcodec-encode-journal", 1


@dataclass(frozen=True)
class Job:
    """What decides the bytes of every shard."""

    source: str
    """Digest of the rows; see `identity_of`."""
    n_rows: int
    """Rows of the source."""
    first_row: int
    """Visible rows of the output when the job began; its own rows follow them."""
    shard_rows: int
    """Rows of a shard."""
    fingerprint: str
    """Of the codec."""
    refine: str
    """How long to search for better codes."""


@dataclass(frozen=True)
class Shard:
    """A shard that was written: what `Output.commit` is told."""

    index: int
    """Its number."""
    n_rows: int
    """Its rows."""


class Journal:
    """A file of JSON lines: the job, then every shard that is done.

    Args:
        path: of the file; None keeps nothing.
        job: that is to be done. A file of another job is refused.

    Use it as a context manager, which raises what is below. A line is on the disk before the next
    shard is noted; one that a crash has cut short counts as not written.

    Raises:
        MismatchError: the file is of another job.
        FormatError: the file is no journal.
        FileError: another run is writing the file, or it cannot be written.
    """

    def __init__(self, path: PathLike | None, job: Job) -> None:
        self._path = None if path is None else Path(path)
        self._job = job
        self._file: TextIO | None = None
        self.done: dict[int, Shard] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            if self._path is not None:
                check_target(self._path, overwrite=True)
                stack.enter_context(writing_alone(self._path))
                self._restart(self._path)
                self._file = stack.enter_context(self._path.open("a", encoding="utf-8"))
            self._stack = stack.pop_all()
        return self

    def add(self, shard: Shard) -> None:
        """Note a shard that was written."""
        self.done[shard.index] = shard
        if self._file is not None:
            self._file.write(json.dumps(asdict(shard)) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def remove(self) -> None:
        """Remove the file: the job is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _restart(self, path: Path) -> None:
        if path.exists():
            self.done = _read(path, self._job)
        # Written anew, so that nothing is appended to half a line.
        head = {"format": FORMAT, "format_version": VERSION} | asdict(self._job)
        lines = [head, *(asdict(shard) for shard in self.done.values())]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        with atomic_path(path, overwrite=True) as temporary:
            temporary.write_text(text, encoding="utf-8")


def is_done(path: PathLike | None, job: Job) -> bool:
    """Tell whether a journal is of the same job, committed: its run was stopped at the very end.

    Args:
        path: of the journal, or None.
        job: as it would begin now, behind all visible rows.
    """
    if path is None or not Path(path).exists():
        return False
    before = replace(job, first_row=job.first_row - job.n_rows)
    try:
        shards = _read(Path(path), before)
    except (FormatError, MismatchError):
        return False
    return sum(shard.n_rows for shard in shards.values()) == job.n_rows


def _read(path: Path, job: Job) -> dict[int, Shard]:
    *whole, _cut = path.read_text(encoding="utf-8").split("\n")  # nothing follows a whole last line
    try:
        lines: list[dict[str, Any]] = [json.loads(line) for line in whole]
        head, shards = lines[0], [Shard(**line) for line in lines[1:]]
        known = head.pop("format"), head.pop("format_version")
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise FormatError(f"{path} is no journal of encoding: {error}; name another") from error
    if known != (FORMAT, VERSION):
        raise FormatError(f"{path} is {known}, expected {(FORMAT, VERSION)}: name another file")
    if head != asdict(job):
        other = sorted(key for key, value in asdict(job).items() if head.get(key) != value)
        raise MismatchError(
            f"{path} is the journal of another job ({', '.join(other)} differ): name another file, "
            "or remove this one to begin anew"
        )
    return {shard.index: shard for shard in shards}
