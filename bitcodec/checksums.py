"""CRC-32 of blocks of rows, by which the damage of a file of tensors is found where it is read.

A safetensors file of hidden states has them in its metadata, under `bitcodec_crc32`, as JSON: for
each tensor, 8 hexadecimal digits a block of 256 rows. A .npy file has room for no such thing: a
file beside it, with `.json` appended, holds the same. Other readers are not disturbed.

They find accidents, and not who changes a file on purpose.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from bitcodec.errors import FormatError
from bitcodec.files import PathLike, read_json
from bitcodec.sealed_json import unsealed, write_sealed

Rows = np.ndarray | torch.Tensor

BLOCK_ROWS = 256
"""Rows that one checksum is of."""
METADATA_KEY = "bitcodec_crc32"
"""Of safetensors' metadata."""
_DIGITS = 8
_FORMAT, _FORMAT_VERSION = "bitcodec-hidden", 1


@dataclass(frozen=True)
class BlockChecksums:
    """Checksums of the blocks of one tensor."""

    digits: str
    """Eight hexadecimal digits a block."""

    @classmethod
    def of(cls, rows: Rows) -> Self:
        """Compute the checksums of a whole tensor, (n, ...) of any dtype."""
        starts = range(0, len(rows), BLOCK_ROWS)
        return cls("".join(_checksum(rows[at : at + BLOCK_ROWS], at) for at in starts))

    def covering(self, start: int, stop: int, *, n_rows: int) -> tuple[int, int]:
        """Return the first row, and the row after the last, of the blocks that rows lie in."""
        return start - start % BLOCK_ROWS, min(-(-stop // BLOCK_ROWS) * BLOCK_ROWS, n_rows)

    def check(self, rows: Rows, *, first_row: int, where: PathLike) -> None:
        """Raise unless whole blocks are what they were when they were written.

        Args:
            rows: of whole blocks.
            first_row: of the first block.
            where: they were read from, for messages.

        Raises:
            FormatError: a block is not; names its rows.
        """
        for at in range(0, len(rows), BLOCK_ROWS):
            block, place = rows[at : at + BLOCK_ROWS], (first_row + at) // BLOCK_ROWS
            noted = self.digits[_DIGITS * place :][:_DIGITS]
            if _checksum(block, first_row + at) != noted:
                raise FormatError(
                    f"{where} is damaged: rows {first_row + at} to {first_row + at + len(block)} "
                    "are not those that were written; restore it, or make it anew"
                )


def metadata_of(tensors: Mapping[str, Rows]) -> dict[str, str]:
    """Return the safetensors metadata that hold the checksums of tensors."""
    return {METADATA_KEY: json.dumps({k: BlockChecksums.of(v).digits for k, v in tensors.items()})}


def checksums_in(metadata: Mapping[str, str] | None, name: str) -> BlockChecksums | None:
    """Return the checksums of a tensor that safetensors metadata hold, None where there are none.

    Raises:
        FormatError: what is there is damaged.
    """
    text = (metadata or {}).get(METADATA_KEY)
    return None if text is None else _noted(_parsed(text), name)


def checksums_file(path: PathLike) -> Path:
    """Return where the checksums of a .npy file are: beside it, with `.json` appended."""
    return Path(path).with_name(Path(path).name + ".json")


def write_checksums(path: PathLike, rows: Rows) -> None:
    """Write the checksums of a .npy file's rows beside it.

    Raises:
        FileError: the file cannot be written.
    """
    content = {"format": _FORMAT, "format_version": _FORMAT_VERSION}
    checksums = {"crc32": {"hidden": BlockChecksums.of(rows).digits}}
    write_sealed(checksums_file(path), content | checksums, overwrite=True)


def checksums_beside(path: PathLike) -> BlockChecksums | None:
    """Return the checksums that lie beside a .npy file, None where there are none.

    Raises:
        FormatError: what is there is damaged or of a newer format.
    """
    file = checksums_file(path)
    if not file.is_file():
        return None
    content = read_json(file)
    if content.get("format") != _FORMAT:
        raise FormatError(
            f"{file} does not hold the checksums of {Path(path).name}, as its name says: rename it"
        )
    content = unsealed(content, where=file)
    if content.get("format_version") != _FORMAT_VERSION:
        raise FormatError(
            f"{file} is of format {content.get('format_version')!r:.40}, this version reads "
            f"{_FORMAT_VERSION}: upgrade bitcodec"
        )
    return _noted(content.get("crc32"), "hidden")


def _checksum(block: Rows, first_row: int) -> str:
    if isinstance(block, torch.Tensor):
        kind = str(block.dtype).removeprefix("torch.")
        content = block.contiguous().reshape(-1).view(torch.uint8).numpy()
    else:
        kind = block.dtype.name
        little = block.astype(block.dtype.newbyteorder("<"), copy=False)
        content = np.ascontiguousarray(little).reshape(-1).view(np.uint8)
    said = f"{kind} {tuple(block.shape)} {first_row}".encode()  # so that no block is another's
    return f"{zlib.crc32(content.data, zlib.crc32(said)):08x}"


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError("the checksums of hidden states are damaged") from error


def _noted(checksums: Any, name: str) -> BlockChecksums:
    digits = checksums.get(name) if isinstance(checksums, dict) else None
    if not isinstance(digits, str):
        raise FormatError(f'the checksums of hidden states are damaged: there are none of "{name}"')
    return BlockChecksums(digits)
