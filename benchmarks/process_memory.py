"""What memory this process has, and how much of it is in use.

A process that grows either keeps more, which is a leak, or has its free memory in pieces. What
the allocators have handed out tells the two apart: it grows with a leak alone.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path

_FIELDS = (
    *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
    *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
)


class _MallocFigures(ctypes.Structure):
    """`struct mallinfo2` of glibc, see mallinfo(3)."""

    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


@dataclass(frozen=True)
class ProcessMemory:
    """Memory of this process at one moment."""

    resident_bytes: int
    """Of pages that it has, used or not."""
    malloc_bytes: int | None
    """Handed out by malloc: tensors, arrays, FAISS, large Python objects. None where the C library
    does not tell (it is glibc from 2.33 on that does)."""
    python_blocks: int
    """Small objects that Python's own allocator has handed out."""

    @classmethod
    def now(cls) -> ProcessMemory:
        """Look; takes microseconds."""
        return cls(resident_bytes(), malloc_bytes(), sys.getallocatedblocks())


def resident_bytes() -> int:
    """Return the memory that this process has, in bytes.

    Raises:
        OSError: the system does not tell (it is Linux that does).
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise OSError("the system does not tell memory")


def malloc_bytes() -> int | None:
    """Return the bytes that malloc has handed out in all threads, None where it does not tell."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return None
    mallinfo2.restype = _MallocFigures
    figures = mallinfo2()
    return int(figures.uordblks + figures.hblkhd)


def trim() -> None:
    """Give free pages of malloc back to the system, where the C library can (glibc)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        return
