"""The file of feature sets: a header, the counts, and a bitmap of rows for each feature.

Little-endian throughout, version 2; version 1 has no CRC-32s:

    8s  "bitsets", NUL    u32 version         u32 n_bits h       u64 n_rows n
    32s fingerprint of the codec, SHA-256; zeros where it is not known
    h times u64           rows in which each feature is on
    h times u32           CRC-32 of each bitmap
    16s digest (BLAKE2b) of everything so far
    zeros up to a multiple of 64 bytes
    h bitmaps             of ceil(n / 512) 64 bytes each

Row r is bit r % 8 of a bitmap's byte r // 8, least significant first; bits from n on are 0. So
bitmaps start at cache lines, and whole words can be read wherever the file is mapped.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitcodec.errors import ConfigError, FileError, FormatError
from bitcodec.files import PathLike, atomic_path

VERSION = 2
ALIGNMENT = 64
_HEAD, _MAGIC, _DIGEST_BYTES = struct.Struct("<8sIIQ32s"), b"bitsets\0", 16


@dataclass(frozen=True)
class Layout:
    """Where in a file what stands."""

    counts: int
    """First byte of the counts."""
    checksums: int
    """First byte of the checksums."""
    digest: int
    """First byte of the digest."""
    bitmaps: int
    """First byte of the bitmaps."""
    stride: int
    """Bytes of a bitmap."""
    size: int
    """Bytes of the file."""


@dataclass(frozen=True)
class Header:
    """What a file of feature sets says of itself."""

    n_bits: int
    """Features h."""
    n_rows: int
    """Rows n."""
    fingerprint: str = ""
    """Of the codec, hexadecimal; empty where it is not known."""
    version: int = VERSION
    """Of the format."""

    def __post_init__(self) -> None:
        if self.n_bits < 1:
            raise ConfigError(f"n_bits must be at least 1, got {self.n_bits}")
        if len(self.fingerprint) not in (0, 64):
            raise ConfigError(f"a fingerprint has 64 digits, got {self.fingerprint!r}")

    @property
    def layout(self) -> Layout:
        """Where in the file what stands."""
        checksums = _HEAD.size + 8 * self.n_bits
        digest = checksums + (4 * self.n_bits if self.version > 1 else 0)
        bitmaps = _aligned(digest + _DIGEST_BYTES)
        stride = _aligned(-(-self.n_rows // 8))
        size = bitmaps + stride * self.n_bits
        return Layout(_HEAD.size, checksums, digest, bitmaps, stride, size)

    def to_bytes(self) -> bytes:
        """Return the head of the file."""
        known = bytes.fromhex(self.fingerprint or "00" * 32)
        return _HEAD.pack(_MAGIC, self.version, self.n_bits, self.n_rows, known)


@contextlib.contextmanager
def write_file(
    path: PathLike, header: Header, *, overwrite: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give the counts, (h,) int64, and bitmaps, (h, stride) uint8, of a new file, to be filled.

    Both are zeros at first. The file appears under its name when the block succeeds.

    Raises:
        FileError: the file exists and `overwrite` is false, or cannot be written.
    """
    layout = header.layout
    with atomic_path(path, overwrite=overwrite) as temporary:
        with temporary.open("wb") as file:
            # Room for all of it now: a mapping that finds the disk full ends the process.
            os.posix_fallocate(file.fileno(), 0, layout.size)
        content = np.memmap(temporary, dtype=np.uint8, mode="r+")
        counts = np.zeros(header.n_bits, dtype=np.int64)
        bitmaps = content[layout.bitmaps :].reshape(header.n_bits, layout.stride)
        yield counts, bitmaps
        checksums = np.array([zlib.crc32(bitmap.data) for bitmap in bitmaps], dtype="<u4")
        head = header.to_bytes() + counts.astype("<u8").tobytes() + checksums.tobytes()
        content[: layout.digest] = np.frombuffer(head, np.uint8)
        place = slice(layout.digest, layout.digest + _DIGEST_BYTES)
        content[place] = np.frombuffer(_digest(head), np.uint8)
        content.flush()


@dataclass(frozen=True, eq=False)
class Mapped:
    """A file whose head was checked."""

    header: Header
    """What it says of itself."""
    counts: np.ndarray
    """(h,) int64, rows in which each feature is on."""
    checksums: np.ndarray | None
    """(h,) uint32, CRC-32 of the bitmaps; None in files of version 1."""
    bitmaps: memoryview
    """The bytes of the bitmaps, not read yet."""


def map_file(path: PathLike) -> Mapped:
    """Map a file.

    Raises:
        FileError: there is no such file.
        FormatError: it is truncated, foreign, damaged or of a newer format.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(_HEAD.size)
            header = _read_header(head, path)
            layout = header.layout
            size = file.seek(0, 2)
            if size != layout.size:
                raise FormatError(f"{path} must have {layout.size} bytes, got {size}: truncated?")
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise FileError(f"there is no file {path}") from error
    digest = view[layout.digest : layout.digest + _DIGEST_BYTES]
    if _digest(view[: layout.digest]) != digest:
        raise FormatError(f"{path} has a damaged header: build it again")
    counts = np.frombuffer(view[layout.counts : layout.checksums], dtype="<u8").astype(np.int64)
    found = np.frombuffer(view[layout.checksums : layout.digest], dtype="<u4")
    checksums = found.astype(np.uint32) if len(found) else None
    return Mapped(header, counts, checksums, view[layout.bitmaps :])


def is_feature_sets(path: PathLike) -> bool:
    """Say whether a file begins as one of feature sets does."""
    with Path(path).open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _read_header(head: bytes, path: PathLike) -> Header:
    if len(head) < _HEAD.size or not head.startswith(_MAGIC):
        raise FormatError(f"{path} is no file of feature sets")
    _, version, n_bits, n_rows, known = _HEAD.unpack(head)
    if not 1 <= version <= VERSION:
        raise FormatError(
            f"{path} is of version {version}, this bitcodec reads {VERSION}: use a newer one"
        )
    if n_bits == 0:
        raise FormatError(f"{path} has no features")
    fingerprint = known.hex() if any(known) else ""
    return Header(n_bits=n_bits, n_rows=n_rows, fingerprint=fingerprint, version=version)


def _digest(head: bytes | memoryview) -> bytes:
    return hashlib.blake2b(head, digest_size=_DIGEST_BYTES).digest()


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
