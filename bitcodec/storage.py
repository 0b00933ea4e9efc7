"""The files of a codec: JSON beside safetensors, never pickle; those of codes are passed on."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as serialise

from bitcodec.config import CodecConfig
from bitcodec.errors import ConfigError, FileError, FormatError
from bitcodec.files import (
    PathLike,
    atomic_path,
    check_target,
    one_line,
    refuse_foreign_folder,
)
from bitcodec.headers import build_header, read_header
from bitcodec.packed_files import PackedHeader, PackedWriter, open_packed, packed_header_path
from bitcodec.sealed_json import write_sealed

__all__ = [
    "CodecHeader",
    "PackedHeader",
    "PackedWriter",
    "check_codec_target",
    "checked_provenance",
    "fingerprint",
    "library_versions",
    "load_codec",
    "open_packed",
    "packed_header_path",
    "read_codec_header",
    "save_codec",
]

FORMAT_VERSION = 4
"""Of a codec's folder. Version 2 added side bytes and stages; version 1 is read as having neither.
Version 3 added seals; what is older is read without them. Version 4 added weighed errors."""
HEADER_NAME, TENSORS_NAME = "config.json", "model.safetensors"
_KIND = "bitcodec-codec"


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
        read_header(Path(folder) / HEADER_NAME, kind=_KIND, newest=FORMAT_VERSION)


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
            {"format": _KIND, "format_version": FORMAT_VERSION, **content},
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
    _, content = read_header(path, kind=_KIND, newest=FORMAT_VERSION)
    try:
        parameters = CodecConfig.from_dict(content.pop("parameters", None))
    except (ConfigError, TypeError) as error:
        raise FormatError(f"{path} has bad parameters: {error}") from error
    return build_header(CodecHeader, {**content, "parameters": parameters}, path)


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
