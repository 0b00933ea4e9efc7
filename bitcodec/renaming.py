"""Names that change hands: what a killed writer left is cleared, folders swap at once."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from bitcodec.errors import FileError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_TOKEN = "[0-9a-f]{12}"


def hidden_name(final: Path, ending: str) -> Path:
    """Name a file beside `final` that no other writer, thread or machine chooses."""
    return final.with_name(f".{final.name}.{secrets.token_hex(6)}.{ending}")


def visible_name(path: Path) -> Path:
    """Return the name that a path is to have, of one by `hidden_name`."""
    match = re.fullmatch(rf"\.(.+)\.{_TOKEN}\.[a-z]+", path.name)
    return path if match is None else path.with_name(match[1])


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def clear_leavings(final: Path) -> None:
    """Remove what killed writers of a target left beside it; bring back what they set aside.

    Only the holder of the target's lock may: to anyone else, a living writer's file looks the same.
    """
    for aside in _beside(final, "old"):
        if os.path.lexists(final):
            remove(aside)
        else:
            aside.rename(final)
    for leaving in _beside(final, f"(partial|staged)(\\.({_TOKEN}\\.partial|lock))?"):
        remove(leaving)


def swap_folders(first: Path, second: Path) -> bool:
    """Exchange the names of two folders in one step.

    Returns:
        False where the system has no such step; nothing was done then.

    Raises:
        OSError: it has, and refused.
    """
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if exchange is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    if exchange(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(first))


def sync(path: Path) -> None:
    """Have the system write a file, or a folder and all that is in it, to the disk."""
    for each in (path, *path.rglob("*")) if path.is_dir() else (path,):
        if each.is_file() or each.is_dir():
            handle = os.open(each, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def sync_name(path: Path) -> None:
    """Have the system write to the disk that a path has its name."""
    with contextlib.suppress(PermissionError):  # a folder may be writable and not readable
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def rename_together(renames: dict[Path, Path]) -> None:
    """Rename several files of one folder so that a kill leaves all of them or none.

    A journal is written first; from then on whoever calls `settle` finishes the renames.

    Args:
        renames: new names by present ones, the last of them the one that `settle` is told.
    """
    last = list(renames.values())[-1]
    journal = hidden_name(last, "commit")
    unfinished = hidden_name(last, "partial")
    named = {present.name: final.name for present, final in renames.items()}
    unfinished.write_text(json.dumps(named), encoding="utf-8")
    sync(unfinished)
    unfinished.rename(journal)
    _finish(journal)


def settle(path: Path) -> None:
    """Finish the renames that a killed writer had decided on.

    Args:
        path: the last of the files that are renamed together.

    Raises:
        FileError: they cannot be finished.
    """
    for journal in _beside(path, "commit"):
        try:
            _finish(journal)
        except OSError as error:
            raise FileError(
                f"a writer of {path} was stopped, and what it began cannot be finished: "
                f"{error.strerror}: open it once where its folder may be written to"
            ) from error


def _finish(journal: Path) -> None:
    # Others may be at it, too: every step is harmless the second time.
    with contextlib.suppress(FileNotFoundError):
        for present, final in json.loads(journal.read_text(encoding="utf-8")).items():
            names = Path(present).name, Path(final).name  # of this folder, whatever the file says
            with contextlib.suppress(FileNotFoundError):
                journal.with_name(names[0]).replace(journal.with_name(names[1]))
    sync_name(journal)
    journal.unlink(missing_ok=True)


def _beside(final: Path, ending: str) -> Iterator[Path]:
    """Find hidden names of a target; those inside another hidden name have two dots."""
    pattern = re.compile(rf"\.{{1,2}}{re.escape(final.name)}\.{_TOKEN}\.{ending}")
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        names = [entry.name for entry in os.scandir(final.parent)]
        yield from (final.with_name(name) for name in names if pattern.fullmatch(name))
