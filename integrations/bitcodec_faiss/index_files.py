"""Index folders: FAISS's own file and an index.json that says what it is.

index.faiss   what `faiss.write_index_binary` writes, external ids included
index.json    format_version, factory, n_bits, row_bytes, bit_order, fingerprint, n_rows,
              next_id, ids_ascending, file_bytes, file_sha256
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bitcodec.errors import FileError, FormatError, MismatchError
from bitcodec.files import (
    PathLike,
    atomic_path,
    read_json,
    refuse_existing,
    refuse_foreign_folder,
    write_json,
)
from bitcodec_faiss.backend import load_faiss

FORMAT_VERSION = 1
"""The index.json that this version writes and the newest that it reads."""

BIT_ORDER = "little"
"""FAISS's and bitcodec's order of the bits in a byte."""

_FAISS_FILE = "index.faiss"
_JSON_FILE = "index.json"


@dataclass(frozen=True)
class IndexHeader:
    """What index.json says beside its format version."""

    factory: str
    """The kind of index, as given to its constructor."""

    n_bits: int
    """Bits of one code."""

    row_bytes: int
    """Bytes of one packed row."""

    bit_order: str
    """Order of the bits in a byte."""

    fingerprint: str
    """The codec's, hex."""

    n_rows: int
    """Rows in the index."""

    next_id: int
    """One more than the largest id that the index has ever held."""

    ids_ascending: bool
    """Whether every id added was larger than all before it."""

    file_bytes: int = 0
    """Size of index.faiss."""

    file_sha256: str = ""
    """SHA-256 of index.faiss, hex."""


class _HashingWriter:
    """Write bytes to an open file, hashed and counted on the way."""

    def __init__(self, file: Any) -> None:
        self.n_bytes = 0
        self.sha256 = hashlib.sha256()
        self._file = file

    def write(self, data: bytes) -> int:
        """Write all of `data` and return its length, as FAISS's callback must."""
        self._file.write(data)
        self.sha256.update(data)
        self.n_bytes += len(data)
        return len(data)


def serialised_bytes(faiss_index: Any) -> int:
    """Count the bytes of FAISS's file for an index, without keeping them."""
    faiss, counted = load_faiss(), 0

    def count(data: bytes) -> int:
        nonlocal counted
        counted += len(data)
        return len(data)

    faiss.write_index_binary(faiss_index, faiss.PyCallbackIOWriter(count))
    return counted


def write_index(
    folder: PathLike, faiss_index: Any, header: IndexHeader, *, overwrite: bool = False
) -> None:
    """Write an index folder that appears whole or not at all.

    Args:
        folder: the folder to make; its parent must exist.
        faiss_index: any `faiss.IndexBinary`.
        header: its description; the size and hash of the file are filled in here.
        overwrite: replace an existing folder.

    Raises:
        FileError: `folder` exists and `overwrite` is false, or cannot be written.
    """
    refuse_existing(folder, overwrite=overwrite)
    refuse_foreign_folder(folder, expected=(_FAISS_FILE, _JSON_FILE))
    with atomic_path(folder, overwrite=overwrite) as temporary:
        temporary.mkdir()
        written = _write_faiss_file(temporary / _FAISS_FILE, faiss_index)
        content = asdict(header) | {
            "file_bytes": written.n_bytes,
            "file_sha256": written.sha256.hexdigest(),
        }
        write_json(temporary / _JSON_FILE, {"format_version": FORMAT_VERSION} | content)


def read_header(folder: PathLike) -> IndexHeader:
    """Read and check index.json.

    Raises:
        FileError: there is no such file.
        FormatError: it is damaged, foreign or of a newer format.
    """
    path = Path(folder) / _JSON_FILE
    content = read_json(path)
    version = content.pop("format_version", None)
    if type(version) is not int or version < 1:
        raise FormatError(f"{path} is no index of bitcodec: it has no format_version")
    if version > FORMAT_VERSION:
        raise FormatError(
            f"{path} has format_version {version}, this version reads up to {FORMAT_VERSION}: "
            f"upgrade bitcodec"
        )
    _check_fields(path, content)
    return IndexHeader(**content)


def check_codec(header: IndexHeader, *, fingerprint: str, where: PathLike) -> None:
    """Refuse an index that another codec made.

    Raises:
        MismatchError: the fingerprints differ.
    """
    if header.fingerprint != fingerprint:
        raise MismatchError(
            f"{where} was made with codec {header.fingerprint[:12]}, got codec "
            f"{fingerprint[:12]}: load the codec it was made with, or build the index anew"
        )


def read_faiss_file(folder: PathLike, header: IndexHeader, *, mmap: bool) -> Any:
    """Read index.faiss after its size and hash were found to be those of index.json.

    Args:
        folder: the index folder.
        header: its index.json.
        mmap: map the rows instead of reading them into memory.

    Returns:
        The `faiss.IndexBinary`.

    Raises:
        FileError: there is no such file.
        FormatError: it is truncated, damaged or not the index that index.json describes.
    """
    path = Path(folder) / _FAISS_FILE
    _check_file(path, header)
    faiss = load_faiss()
    try:
        index = faiss.read_index_binary(str(path), faiss.IO_FLAG_MMAP_IFC if mmap else 0)
    except RuntimeError as error:
        raise FormatError(f"{path} is no binary index that FAISS can read: {error}") from error
    if index.d != 8 * header.row_bytes or index.ntotal != header.n_rows:
        raise FormatError(
            f"{path} must hold {header.n_rows} rows of {header.row_bytes} bytes as index.json "
            f"says, got {index.ntotal} of {index.d // 8}: build the index anew"
        )
    return index


def _write_faiss_file(path: Path, faiss_index: Any) -> _HashingWriter:
    faiss = load_faiss()
    with path.open("wb") as file:
        writer = _HashingWriter(file)
        # Through Python rather than by FAISS's own writer, so that a full disk is an OSError.
        faiss.write_index_binary(faiss_index, faiss.PyCallbackIOWriter(writer.write))
        file.flush()
        os.fsync(file.fileno())
    return writer


def _check_fields(path: Path, content: dict[str, Any]) -> None:
    kinds = {"str": str, "int": int, "bool": bool}
    expected = {field.name: kinds[str(field.type)] for field in fields(IndexHeader)}
    if content.keys() != expected.keys():
        odd = sorted(content.keys() ^ expected.keys())
        raise FormatError(f"{path} must have the keys {', '.join(expected)}: check {odd}")
    for name, kind in expected.items():
        if type(content[name]) is not kind:
            raise FormatError(f"{path}: {name} must be {kind.__name__}, got {content[name]!r}")
    if content["bit_order"] != BIT_ORDER:
        raise FormatError(f'{path}: bit_order must be "{BIT_ORDER}", got {content["bit_order"]!r}')


def _check_file(path: Path, header: IndexHeader) -> None:
    try:
        with path.open("rb") as file:
            n_bytes = os.fstat(file.fileno()).st_size
            if n_bytes != header.file_bytes:
                raise FormatError(
                    f"{path} must have {header.file_bytes} bytes, got {n_bytes}: it is truncated "
                    f"or foreign, build the index anew"
                )
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileError(f"there is no file {path}: build the index anew") from error
    if digest != header.file_sha256:
        raise FormatError(f"{path} is damaged: its SHA-256 is not that of index.json")
