"""The files of a codec and of packed codes: JSON beside safetensors or .npy, never pickle."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Self, TypeVar, get_origin, get_type_hints

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as serialise

from bitcodec.bits import row_bytes
from bitcodec.config import CodecConfig, Precision
from bitcodec.errors import ConfigError, FileError, FormatError, MismatchError
from bitcodec.files import (
    NpyWriter,
    PathLike,
    atomic_pair,
    atomic_path,
    check_target,
    one_line,
    open_npy,
    read_json,
    refuse_existing,
    refuse_foreign_folder,
)
from bitcodec.renaming import settle
from bitcodec.sealed_json import unsealed, write_sealed

FORMAT_VERSION = 3
"""Version 2 added side bytes and stages; version 1 is read as having neither. Version 3 added seals
and the hash of packed codes; what is older is read without them."""
_SEALED_FROM = 3
HEADER_NAME, TENSORS_NAME = "config.json", "model.safetensors"
_Header = TypeVar("_Header")
_CODEC_KIND, _PACKED_KIND = "bitcodec-codec", "bitcodec-packed"


@dataclass(frozen=True)
class CodecHeader:
    """What `config.json` says about a codec."""

    n_dims: int
    """Width d of the hidden states."""
    n_bits: int
    """Bits h of a code."""
    n_rows: int
    """Rows whose bits were counted after the fit."""
    entropy_bits: float
    """Sum of the bits' entropies over those rows."""
    fingerprint: str
    """SHA-256 of the tensors, hexadecimal."""
    parameters: CodecConfig
    """What the fit was asked to do."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the hidden states came from, as the caller told."""
    training: dict[str, Any] = field(default_factory=dict)
    """What the last step of training saw."""
    libraries: dict[str, str] = field(default_factory=dict)
    """Versions that made the codec."""


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
    sha256: str = ""
    """Of the codes' bytes, hexadecimal; empty in files before format 3."""
    compute: str = "float32"
    """Precision of the products that made them."""


def fingerprint(tensors: dict[str, np.ndarray]) -> str:
    """Return the SHA-256 of tensors: names, dtypes, shapes and little-endian bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        little = np.ascontiguousarray(tensor).astype(tensor.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name} {little.dtype.str} {little.shape}\n".encode())
        digest.update(little.tobytes())
    return digest.hexdigest()


def check_codec_target(folder: PathLike, *, overwrite: bool = False) -> None:
    """Raise if a codec could not be written to a folder, before a fit begins.

    Raises:
        FileError: the folder exists and `overwrite` is false or it is no codec, or its place cannot
            be written to.
        FormatError: the folder looks like a codec's but is another tool's.
    """
    check_target(folder, overwrite=overwrite)
    refuse_foreign_folder(folder, expected=(HEADER_NAME, TENSORS_NAME))
    if Path(folder).exists():
        _read_header(Path(folder) / HEADER_NAME, kind=_CODEC_KIND)


def save_codec(
    folder: PathLike,
    header: CodecHeader,
    tensors: dict[str, np.ndarray],
    *,
    overwrite: bool = False,
) -> None:
    """Write a codec folder, whole or not at all.

    Raises:
        FileError: `folder` exists and `overwrite` is false or is no codec, or cannot be written.
    """
    check_codec_target(folder, overwrite=overwrite)
    with atomic_path(folder, overwrite=overwrite) as temporary:
        temporary.mkdir()
        (temporary / TENSORS_NAME).write_bytes(serialise(tensors))
        content = dataclasses.asdict(header) | {"libraries": library_versions()}
        write_sealed(
            temporary / HEADER_NAME,
            {"format": _CODEC_KIND, "format_version": FORMAT_VERSION, **content},
        )


def read_codec_header(folder: PathLike) -> CodecHeader:
    """Read what a codec folder says about itself, without its weights.

    Raises:
        FileError: there is no such folder or it has no `config.json`.
        FormatError: the header is foreign, damaged or of a newer format.
    """
    path = Path(folder) / HEADER_NAME
    if not path.is_file():
        raise FileError(f"{folder} is not a codec folder: it has no {HEADER_NAME}")
    content = _read_header(path, kind=_CODEC_KIND)
    try:
        parameters = CodecConfig.from_dict(content.pop("parameters", None))
    except (ConfigError, TypeError) as error:
        raise FormatError(f"{path} has bad parameters: {error}") from error
    return _build(CodecHeader, {**content, "parameters": parameters}, path)


def load_codec(folder: PathLike) -> tuple[CodecHeader, dict[str, np.ndarray]]:
    """Read and check a codec folder.

    Returns:
        The header, and the tensors by name.

    Raises:
        FileError: there is no such folder or file.
        FormatError: a file is foreign, damaged or of a newer format.
    """
    header = read_codec_header(folder)
    path = Path(folder) / TENSORS_NAME
    if not path.is_file():
        raise FileError(f"{folder} is not a whole codec folder: it has no {TENSORS_NAME}")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{path} is not a whole safetensors file of a codec: {one_line(error)}"
        ) from error
    if fingerprint(tensors) != header.fingerprint:
        raise FormatError(f"{path} is damaged: its fingerprint is not that of {HEADER_NAME}")
    return header, tensors


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
        self._compute, self._digest = compute, hashlib.sha256()

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
        """
        self._writer.append(packed)
        self._digest.update(np.ascontiguousarray(packed).data)

    def __exit__(self, *raised: Any) -> None:
        if raised[0] is not None:
            self._stack.__exit__(*raised)
            return
        with self._stack:
            header = PackedHeader(
                n_rows=self.n_rows,
                n_bits=self._n_bits,
                row_bytes=self._row_bytes,
                side_bytes=self._side_bytes,
                fingerprint=self._fingerprint,
                sha256=self._digest.hexdigest(),
                compute=self._compute,
            )
            content = {"format": _PACKED_KIND, "format_version": FORMAT_VERSION}
            write_sealed(self._header_path, content | dataclasses.asdict(header))


def packed_header_path(path: PathLike) -> Path:
    """Return where the header of packed codes is: beside them, with `.json` appended."""
    return Path(path).with_name(Path(path).name + ".json")


def open_packed(
    path: PathLike, *, fingerprint: str | None = None, verify: bool = True
) -> tuple[PackedHeader, np.ndarray]:
    """Memory-map packed codes and check them against their header.

    Args:
        path: the .npy file.
        fingerprint: of the codec that is to read them, where there is one.
        verify: read all codes once and hold them against their hash, a second for a gigabyte or
            two; without it only sizes are checked, and damage within the codes is not found.

    Returns:
        The header, and the codes (n, row_bytes) uint8.

    Raises:
        FileError: a file is missing.
        FormatError: a file is truncated or foreign, or they contradict each other.
        MismatchError: another codec made the codes.
    """
    header_path = packed_header_path(path)
    settle(header_path)
    packed = open_npy(path)
    if not header_path.is_file():
        raise FileError(f"{path} is not packed codes: its header {header_path.name} is not there")
    before = {"side_bytes": 0, "sha256": "", "compute": "float32"}  # there were these
    content = before | _read_header(header_path, kind=_PACKED_KIND)
    header = _build(PackedHeader, content, header_path)
    if header.bit_order != "little":
        raise FormatError(f"{header_path} says bit order {header.bit_order!r}, expected 'little'")
    said = (header.n_rows, header.row_bytes)
    if (
        packed.dtype != np.uint8
        or packed.shape != said
        or header.row_bytes != row_bytes(header.n_bits) + header.side_bytes
    ):
        raise FormatError(
            f"{path} holds {packed.shape} {packed.dtype}, but {header_path.name} says {said} of "
            f"{header.n_bits} bits: the two belong to different codes"
        )
    if verify and header.sha256 and _sha256_of_rows(packed) != header.sha256:
        raise FormatError(f"{path} is damaged: its codes are not those that were written")
    if fingerprint is not None and fingerprint != header.fingerprint:
        raise MismatchError(
            f"{path} was made by codec {header.fingerprint[:12]}, not by {fingerprint[:12]}: "
            "use the codec that encoded it"
        )
    return header, packed


def _sha256_of_rows(packed: np.ndarray) -> str:
    if not packed.flags.c_contiguous:  # the .npy header says so: whose writer was another
        packed = np.ascontiguousarray(packed)
    return hashlib.sha256(packed.data).hexdigest()


def checked_provenance(provenance: dict[str, Any] | None) -> dict[str, Any]:
    """Return provenance as it will read back from JSON.

    Raises:
        ConfigError: it holds what JSON cannot.
    """
    try:
        told: dict[str, Any] = json.loads(json.dumps(provenance or {}))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"provenance must be JSON-ready: {error}") from error
    return told


def library_versions(
    names: Iterable[str] = ("bitcodec", "torch", "numpy", "safetensors"),
) -> dict[str, str]:
    """Return the versions of Python and of the named packages that are installed."""
    versions = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _read_header(path: Path, *, kind: str) -> dict[str, Any]:
    content = read_json(path)
    if content.pop("format", None) != kind:
        raise FormatError(f"{path} is not a {kind} header")
    version = content.pop("format_version", None)
    if type(version) is not int or version < 1:
        raise FormatError(f"{path} has no valid format_version, got {version!r:.40}")
    if version > FORMAT_VERSION:
        raise FormatError(
            f"{path} is of format {version!r:.40}, this version reads up to {FORMAT_VERSION}: "
            "upgrade bitcodec"
        )
    if version < _SEALED_FROM:
        return content
    inner = unsealed(content | {"format": kind, "format_version": version}, where=path)
    return {key: value for key, value in inner.items() if key not in ("format", "format_version")}


def _build(kind: type[_Header], content: dict[str, Any], path: Path) -> _Header:
    expected = get_type_hints(kind)
    for name in sorted(set(content) ^ set(expected)):
        problem = "unknown" if name in content else "missing"
        raise FormatError(f"{path}: {name!r} is {problem}, expected {', '.join(expected)}")
    for name, value in content.items():
        wanted = get_origin(expected[name]) or expected[name]
        allowed = (int, float) if wanted is float else wanted
        if not isinstance(value, allowed) or (isinstance(value, bool) and wanted is not bool):
            raise FormatError(f"{path}: {name!r} must be {wanted.__name__}, got {value!r:.80}")
        largest = {int: 2**63 - 1, float: sys.float_info.max}.get(wanted)
        if largest is not None and not -largest <= value <= largest:
            raise FormatError(f"{path}: {name!r} is out of range: {value!r:.80}")
    return kind(**content)
