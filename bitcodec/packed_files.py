"""The files of packed codes: a .npy file that any tool reads, and a JSON header beside it."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from bitcodec.bits import row_bytes
from bitcodec.block_hashes import DIGITS, BlockHasher, BlockHashes, block_rows_of
from bitcodec.config import Precision
from bitcodec.errors import ConfigError, FileError, FormatError, MismatchError
from bitcodec.files import NpyWriter, PathLike, atomic_pair, open_npy, refuse_existing
from bitcodec.headers import build_header, read_header
from bitcodec.packed_rows import PackedRows
from bitcodec.renaming import settle
from bitcodec.sealed_json import write_sealed

PACKED_VERSION = 4
"""Version 2 added side bytes, version 3 a seal and one hash of all codes, version 4 a hash of every
block in its place."""
MAX_BLOCKS = 2**21
"""Of a file: their hashes are half of the largest header that is read."""
_KIND = "bitcodec-packed"
_HASHED_FROM = 3
_WHOLE_DIGITS = 64
"""Of the one hash of version 3."""


@dataclass(frozen=True)
class PackedHeader:
    """What the JSON file beside packed codes says about them."""

    n_rows: int
    """Number of codes."""
    n_bits: int
    """True bits h of a code."""
    row_bytes: int
    """Bytes of a row."""
    fingerprint: str
    """Of the codec that made them."""
    side_bytes: int = 0
    """Bytes of a row after those of its bits."""
    bit_order: str = "little"
    """Bit j of a row is bit j % 8 of byte j // 8."""
    block_rows: int = 0
    """Rows that one hash is of."""
    block_sha256: str = field(default="", repr=False)
    """Of every block's bytes, see `bitcodec.block_hashes`; empty in files before format 3."""
    compute: str = "float32"
    """Precision of the products that made them."""


class PackedWriter:
    """Write packed codes to a .npy file with its header in a JSON file beside it.

    Args:
        path: the final .npy file; its header goes to the same name with `.json` appended.
        n_bits: true bits of a code.
        fingerprint: of the codec that makes the codes.
        side_bytes: bytes of a row after those of its bits.
        compute: precision of the products that make the codes.
        overwrite: replace existing files.

    Use it as a context manager; an exception inside the block leaves no file.

    Raises:
        FileError: a file exists and `overwrite` is false, or cannot be written.
        ConfigError: `path` does not end in .npy.
    """

    def __init__(
        self,
        path: PathLike,
        *,
        n_bits: int,
        fingerprint: str,
        side_bytes: int = 0,
        compute: Precision = "float32",
        overwrite: bool = False,
    ) -> None:
        if Path(path).suffix != ".npy":
            raise ConfigError(f"packed codes are written as .npy, got {path}: name it so")
        if Path(path).is_dir():
            raise FileError(f"{path} is a folder: name a file")
        for target in (path, packed_header_path(path)):
            refuse_existing(target, overwrite=overwrite)
        self._pair = atomic_pair(path, packed_header_path(path), overwrite=overwrite)
        self._n_bits, self._fingerprint = n_bits, fingerprint
        self._side_bytes, self._row_bytes = side_bytes, row_bytes(n_bits) + side_bytes
        self._compute, self._hasher = compute, BlockHasher(block_rows_of(self._row_bytes))

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            codes, self._header_path = stack.enter_context(self._pair)
            self._writer = stack.enter_context(
                NpyWriter(codes, n_columns=self._row_bytes, dtype=np.dtype(np.uint8))
            )
            self._stack = stack.pop_all()
        return self

    @property
    def n_rows(self) -> int:
        """Rows appended so far."""
        return self._writer.n_rows

    def append(self, packed: np.ndarray) -> None:
        """Append packed rows, (n, ceil(n_bits / 8) + side_bytes) uint8.

        Raises:
            ShapeError: the width or the dtype is another.
            FileError: the file has become too long, two terabytes.
        """
        if self._hasher.n_whole >= MAX_BLOCKS:
            raise FileError(
                f"packed codes of one file have at most {MAX_BLOCKS} blocks of a mebibyte: write "
                "several files, or an archive"
            )
        self._writer.append(packed)
        self._hasher.update(packed)

    def __exit__(self, *raised: Any) -> None:
        if raised[0] is not None:
            self._stack.__exit__(*raised)
            return
        with self._stack:
            hashes = self._hasher.finish()
            header = PackedHeader(
                n_rows=self.n_rows,
                n_bits=self._n_bits,
                row_bytes=self._row_bytes,
                side_bytes=self._side_bytes,
                fingerprint=self._fingerprint,
                block_rows=hashes.block_rows,
                block_sha256=hashes.digits,
                compute=self._compute,
            )
            content = {"format": _KIND, "format_version": PACKED_VERSION}
            write_sealed(self._header_path, content | dataclasses.asdict(header))


def packed_header_path(path: PathLike) -> Path:
    """Return where the header of packed codes is: beside them, with `.json` appended."""
    return Path(path).with_name(Path(path).name + ".json")


def open_packed(
    path: PathLike, *, fingerprint: str | None = None, verify: bool = True
) -> tuple[PackedHeader, PackedRows]:
    """Memory-map packed codes, whose blocks are checked as they are read.

    Opening reads the header alone, half a megabyte for 32 gigabytes of codes. Files of format 3
    are one block: the first read checks all of it.

    Args:
        path: the .npy file.
        fingerprint: of the codec that is to read them, where there is one.
        verify: hold blocks against their hashes, a second for a gigabyte or two; without it only
            sizes are checked, and damage within the codes is not found.

    Returns:
        The header, and the codes (n, row_bytes) uint8, of which `[:]` gives all as an array.

    Raises:
        FileError: a file is missing.
        FormatError: a file is truncated or foreign, or they contradict each other.
        MismatchError: another codec made the codes.
    """
    header_path = packed_header_path(path)
    settle(header_path)
    mapped = open_npy(path)
    if not header_path.is_file():
        raise FileError(f"{path} is not packed codes: its header {header_path.name} is not there")
    version, content = read_header(header_path, kind=_KIND, newest=PACKED_VERSION)
    header = build_header(PackedHeader, _modern(version, content, header_path), header_path)
    _require_fitting(header, mapped, path)
    hashes = None
    if version >= _HASHED_FROM:
        width = DIGITS if version == PACKED_VERSION else _WHOLE_DIGITS
        hashes = BlockHashes(header.block_rows, header.block_sha256, width)
        hashes.require_blocks_of(header.n_rows, where=header_path)
    if fingerprint is not None and fingerprint != header.fingerprint:
        raise MismatchError(
            f"{path} was made by codec {header.fingerprint[:12]}, not by {fingerprint[:12]}: "
            "use the codec that encoded it"
        )
    return header, PackedRows(mapped, hashes if verify else None, where=path)


def _modern(version: int, content: dict[str, Any], where: Path) -> dict[str, Any]:
    """Return what a header says, in the words of the newest version."""
    if version >= PACKED_VERSION:
        return content
    for name in ("block_rows", "block_sha256"):
        if name in content:
            raise FormatError(f"{where}: {name!r} is unknown in version {version}")
    said = {"side_bytes": 0, "compute": "float32"} | content  # there were these
    whole, n_rows = said.pop("sha256", ""), said.get("n_rows")
    return said | {"block_rows": n_rows or 1, "block_sha256": whole if n_rows else ""}


def _require_fitting(header: PackedHeader, mapped: np.ndarray, path: PathLike) -> None:
    """Raise unless codes are of the shape and order that their header says."""
    header_path = packed_header_path(path)
    if header.bit_order != "little":
        raise FormatError(f"{header_path} says bit order {header.bit_order!r}, expected 'little'")
    said = (header.n_rows, header.row_bytes)
    if (
        mapped.dtype != np.uint8
        or mapped.shape != said
        or header.row_bytes != row_bytes(header.n_bits) + header.side_bytes
    ):
        raise FormatError(
            f"{path} holds {mapped.shape} {mapped.dtype}, but {header_path.name} says {said} of "
            f"{header.n_bits} bits: the two belong to different codes"
        )
