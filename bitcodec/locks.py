"""One writer at a time: a lock beside what is written, which dies with its process."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from bitcodec.errors import FileError

try:
    import fcntl
except ImportError:  # no locks on this system: the last of two writers wins, as everywhere else
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""What file systems without locks say."""
_owners: dict[Path, tuple[int, int]] = {}
"""The process and thread that hold each lock; a forked child has a copy, and none of the locks."""


@contextlib.contextmanager
def writing_alone(target: str | os.PathLike[str]) -> Iterator[bool]:
    """Keep others from writing a file or folder while the block runs.

    The lock is the file `.NAME.lock` beside the target, locked by `flock`: the system lets go of
    it when the process ends, however it ends. Blocks of one thread may be nested.

    Args:
        target: what will be written; its parent must exist.

    Yields:
        Whether there is a lock: some file systems have none.

    Raises:
        FileError: another process or thread is writing the target.
        OSError: the folder cannot be written to.
    """
    final = (Path.cwd() / target).parent.resolve() / Path(target).name
    own = os.getpid(), threading.get_ident()
    if _owners.get(final) == own:
        yield True
        return
    path = final.with_name(f".{final.name}.lock")
    handle = None if fcntl is None else _take(path, final)
    if handle is None:
        yield False
        return
    _owners[final] = own
    try:
        yield True
    finally:
        del _owners[final]
        # Still locked: whoever has opened it by now finds that it is no longer the file there.
        path.unlink(missing_ok=True)
        os.close(handle)


@contextlib.contextmanager
def writing_into(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Let `nobody_writes_into` know of this writer while the block runs; any number may write.

    Args:
        folder: where files of any names are written.
    """
    handle = None if fcntl is None else _lock_folder(folder, fcntl.LOCK_SH)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


@contextlib.contextmanager
def nobody_writes_into(folder: str | os.PathLike[str]) -> Iterator[bool]:
    """Keep those who would say `writing_into` waiting while the block runs.

    Args:
        folder: that they write into.

    Yields:
        Whether nobody does; False where the system has no locks, so that it cannot be known.
    """
    handle = None if fcntl is None else _lock_folder(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


def _lock_folder(folder: str | os.PathLike[str], how: int) -> int | None:
    """Return a handle that holds a lock of a folder, or None where it is not to be had."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, how)
    except OSError:  # others hold it; or the file system, such as NFS, locks no folders
        os.close(handle)
        return None
    return handle


def _take(path: Path, final: Path) -> int | None:
    """Return a handle that holds the lock, or None where there are no locks."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_file_at(handle, path):
                return handle
        except BlockingIOError as error:
            os.close(handle)
            raise FileError(
                f"{final} is being written by another process: wait until it has ended, or choose "
                "another name"
            ) from error
        except OSError as error:
            os.close(handle)
            if error.errno not in _NO_LOCKS:
                raise
            path.unlink(missing_ok=True)
            return None
        os.close(handle)  # its owner removed it while we waited for the lock


def _is_file_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
