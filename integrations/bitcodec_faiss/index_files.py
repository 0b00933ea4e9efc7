"""Index folders: FAISS's own file and an index.json that says what it is.

index.faiss   what `faiss.write_index_binary` writes, external ids included
side.npy      (n, side_bytes) uint8 in ascending order of the ids: the side bytes of rows whose
              bits alone FAISS holds; absent where FAISS holds whole rows
index.json    format_version, factory, n_bits, row_bytes, bit_order, fingerprint, n_rows,
              next_id, ids_ascending, metric, file_bytes, file_sha256, side_file_bytes, side_sha256,
              seal (see `bitcodec.sealed_json`)

Format version 4 is of lists that are searched by float queries; what has none is written as of
version 3. Format version 2 has no seal. Format version 1 has neither side.npy nor metric (it is
"hamming") nor the side file's size and hash.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from bitcodec.errors import FormatError, MismatchError
from bitcodec.files import (
    PathLike,
    atomic_path,
    open_npy,
    read_json,
    refuse_existing,
    refuse_foreign_folder,
)
from bitcodec.protocol import Codec
from bitcodec.sealed_json import unsealed, write_sealed
from bitcodec_faiss.backend import load_faiss
from bitcodec_faiss.file_layout import check_layout
from bitcodec_faiss.hashing import HashingWriter, check_file, write_hashed
from bitcodec_faiss.store import Kind

FORMAT_VERSION = 4
"""The newest index.json that is read and, for lists searched by float queries, written."""

_WITHOUT_LISTS = 3
"""What any other index is written as: older versions read it."""

_SEALED_FROM = 3

BIT_ORDER = "little"
"""FAISS's and bitcodec's order of the bits in a byte."""

_FAISS_FILE = "index.faiss"
_SIDE_FILE = "side.npy"
_JSON_FILE = "index.json"

_NEW_IN_2 = {"metric": "hamming", "side_file_bytes": 0, "side_sha256": ""}
"""What an index.json of format version 1 does not say."""


@dataclass(frozen=True)
class IndexHeader:
    """What index.json says beside its format version."""

    factory: str
    """The kind of index, as given to its constructor."""

    n_bits: int
    """Bits of one code."""

    row_bytes: int
    """Bytes of one packed row, side bytes included."""

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

    metric: str
    """What the index scores by: "hamming", or a metric of asymmetric scores."""

    file_bytes: int = 0
    """Size of index.faiss."""

    file_sha256: str = ""
    """SHA-256 of index.faiss, hex."""

    side_file_bytes: int = 0
    """Size of side.npy; 0 where there is none."""

    side_sha256: str = ""
    """SHA-256 of side.npy, hex; empty where there is none."""


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
    folder: PathLike,
    faiss_index: Any,
    header: IndexHeader,
    *,
    side: np.ndarray | None = None,
    overwrite: bool = False,
) -> None:
    """Write an index folder that appears whole or not at all.

    Args:
        folder: the folder to make; its parent must exist.
        faiss_index: any `faiss.IndexBinary`.
        header: its description; the sizes and hashes of the files are filled in here.
        side: (n, side_bytes) uint8 in ascending order of the ids, or None.
        overwrite: replace an existing folder.

    Raises:
        FileError: `folder` exists and `overwrite` is false, or cannot be written.
    """
    refuse_existing(folder, overwrite=overwrite)
    present = [_SIDE_FILE] if (Path(folder) / _SIDE_FILE).exists() else []
    refuse_foreign_folder(folder, expected=(_FAISS_FILE, _JSON_FILE, *present))
    with atomic_path(folder, overwrite=overwrite) as temporary:
        temporary.mkdir()
        written = write_hashed(
            temporary / _FAISS_FILE, lambda file: _write_faiss(file, faiss_index)
        )
        content = asdict(header) | {
            "file_bytes": written.n_bytes,
            "file_sha256": written.sha256.hexdigest(),
        }
        if side is not None:
            written = write_hashed(temporary / _SIDE_FILE, lambda file: _write_side(file, side))
            content["side_file_bytes"] = written.n_bytes
            content["side_sha256"] = written.sha256.hexdigest()
        write_sealed(temporary / _JSON_FILE, {"format_version": _version_of(header)} | content)


def _version_of(header: IndexHeader) -> int:
    has_lists = header.metric != "hamming" and header.factory.startswith("IVF")
    return FORMAT_VERSION if has_lists else _WITHOUT_LISTS


def read_header(folder: PathLike) -> IndexHeader:
    """Read and check index.json.

    Raises:
        FileError: there is no such file.
        FormatError: it is damaged, foreign or of a newer format.
    """
    path = Path(folder) / _JSON_FILE
    content = read_json(path)
    version = content.get("format_version")
    if type(version) is not int or version < 1:
        raise FormatError(f"{path} is no index of bitcodec: it has no format_version")
    if version > FORMAT_VERSION:
        raise FormatError(
            f"{path} has format_version {version!r:.40}, this version reads up to "
            f"{FORMAT_VERSION}: upgrade bitcodec"
        )
    if version >= _SEALED_FROM:
        content = unsealed(content, where=path)
    del content["format_version"]
    if version == 1:
        content |= {name: default for name, default in _NEW_IN_2.items() if name not in content}
    _check_fields(path, content)
    return IndexHeader(**content)


def check_codec(header: IndexHeader, codec: Codec, *, where: PathLike) -> None:
    """Refuse an index that another codec made.

    Raises:
        MismatchError: the fingerprints or the widths of rows differ.
    """
    if header.fingerprint != codec.fingerprint_:
        raise MismatchError(
            f"{where} was made with codec {header.fingerprint[:12]}, got codec "
            f"{codec.fingerprint_[:12]}: load the codec it was made with, or build the index anew"
        )
    if (header.n_bits, header.row_bytes) != (codec.n_bits_, codec.row_bytes_):
        raise MismatchError(
            f"{where} holds {header.n_bits} bits in rows of {header.row_bytes} bytes, got a codec "
            f"with {codec.n_bits_} in {codec.row_bytes_}: load the codec it was made with, or "
            f"build the index anew"
        )


def read_faiss_file(
    folder: PathLike, header: IndexHeader, kind: Kind, *, stored_bytes: int, mmap: bool
) -> Any:
    """Read index.faiss after its size, hash and layout were found to be those of index.json.

    Args:
        folder: the index folder.
        header: its index.json.
        kind: what it must hold.
        stored_bytes: the bytes of a row that FAISS holds.
        mmap: map the rows instead of reading them into memory.

    Returns:
        The `faiss.IndexBinary`.

    Raises:
        FileError: there is no such file.
        FormatError: it is truncated, damaged or not the index that index.json describes.
    """
    path = Path(folder) / _FAISS_FILE
    check_file(path, n_bytes=header.file_bytes, sha256=header.file_sha256)
    check_layout(path, kind, n_rows=header.n_rows, row_bytes=stored_bytes)
    faiss = load_faiss()
    try:
        index = faiss.read_index_binary(str(path), faiss.IO_FLAG_MMAP_IFC if mmap else 0)
    except RuntimeError as error:
        raise FormatError(f"{path} is no binary index that FAISS can read: {error}") from error
    return index


def read_side_file(folder: PathLike, header: IndexHeader, *, width: int, mmap: bool) -> np.ndarray:
    """Read side.npy after its size and hash were found to be those of index.json.

    Args:
        folder: the index folder.
        header: its index.json.
        width: side bytes of a row.
        mmap: map the bytes instead of reading them into memory.

    Returns:
        (n, width) uint8, in ascending order of the ids.

    Raises:
        FileError: there is no such file.
        FormatError: it is truncated, damaged or of another shape.
    """
    path = Path(folder) / _SIDE_FILE
    check_file(path, n_bytes=header.side_file_bytes, sha256=header.side_sha256)
    side = open_npy(path)
    if side.shape != (header.n_rows, width) or side.dtype != np.uint8:
        raise FormatError(
            f"{path} must hold ({header.n_rows}, {width}) uint8 as index.json says, got "
            f"{side.shape} {side.dtype}: build the index anew"
        )
    return side if mmap else np.array(side)


def _write_faiss(writer: HashingWriter, faiss_index: Any) -> None:
    # Through Python rather than by FAISS's own writer, so that a full disk is an OSError.
    faiss = load_faiss()
    faiss.write_index_binary(faiss_index, faiss.PyCallbackIOWriter(writer.write))


def _write_side(writer: HashingWriter, side: np.ndarray) -> None:
    npy_format.write_array(writer, np.ascontiguousarray(side), allow_pickle=False)


def _check_fields(path: Path, content: dict[str, Any]) -> None:
    kinds = {"str": str, "int": int, "bool": bool}
    expected = {field.name: kinds[str(field.type)] for field in fields(IndexHeader)}
    if content.keys() != expected.keys():
        odd = sorted(content.keys() ^ expected.keys())
        raise FormatError(f"{path} must have the keys {', '.join(expected)}: check {odd}")
    for name, kind in expected.items():
        if type(content[name]) is not kind:
            raise FormatError(f"{path}: {name} must be {kind.__name__}, got {content[name]!r:.80}")
        if kind is int and not 0 <= content[name] < 2**63:
            raise FormatError(f"{path}: {name} is out of range: {content[name]!r:.80}")
    if content["bit_order"] != BIT_ORDER:
        raise FormatError(f'{path}: bit_order must be "{BIT_ORDER}", got {content["bit_order"]!r}')
