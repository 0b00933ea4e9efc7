"""Pickling by the saved format: workers get the files, and read them with all their checks."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

Files = dict[str, bytes]
"""Contents by name."""


def saved_files(save: Callable[[Path], object]) -> Files:
    """Return what `save` writes into a folder.

    Args:
        save: is given the path of the folder that it is to make.
    """
    with tempfile.TemporaryDirectory(prefix="bitcodec-") as scratch:
        folder = Path(scratch) / "saved"
        save(folder)
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@contextlib.contextmanager
def restored_folder(files: Files) -> Iterator[Path]:
    """Give a folder of files that is there as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="bitcodec-") as scratch:
        for name, content in files.items():
            (Path(scratch) / Path(name).name).write_bytes(content)
        yield Path(scratch)
