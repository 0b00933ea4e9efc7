"""Columns of Arrow tables as numpy arrays, and packed rows as columns that say what they are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa

from bitcodec.bits import row_bytes
from bitcodec.errors import FormatError, MismatchError, ShapeError, ValueRangeError

PACKED_FORMAT, PACKED_VERSION = "bitcodec-packed", 2
_KEY = b"bitcodec"
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


@dataclass(frozen=True)
class PackedHeader:
    """What the metadata of a packed column say."""

    n_bits: int
    """True bits h of a row."""
    side_bytes: int
    """Bytes of a row after those of its bits."""
    fingerprint: str
    """Of the codec that made them, hexadecimal."""
    bit_order: str = "little"
    """Bit j of a row is bit j % 8 of byte j // 8."""

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return row_bytes(self.n_bits) + self.side_bytes

    def metadata(self) -> dict[bytes, bytes]:
        """Return the entry for an Arrow field's or schema's metadata."""
        said = {"format": PACKED_FORMAT, "format_version": PACKED_VERSION}
        return {_KEY: json.dumps(said | {"row_bytes": self.row_bytes} | asdict(self)).encode()}

    @classmethod
    def of(cls, metadata: dict[bytes, bytes] | None, *, where: str) -> Self | None:
        """Read it from metadata; None where they do not speak of packed rows.

        Args:
            metadata: of an Arrow field or schema.
            where: they are from, for messages.

        Raises:
            FormatError: the entry is damaged or of a newer format.
        """
        content = (metadata or {}).get(_KEY)
        if content is None:
            return None
        try:
            said = json.loads(content)
            version, n_bytes = said.pop("format_version"), said.pop("row_bytes")
            header = cls(**{key: said[key] for key in said if key != "format"})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"{where} has damaged bitcodec metadata: {error}") from error
        if version != PACKED_VERSION or header.bit_order != "little":
            raise FormatError(
                f"{where} is of format {version}, bit order {header.bit_order!r}; this version "
                f"reads {PACKED_VERSION}, 'little': upgrade bitcodec, if it is newer"
            )
        if n_bytes != header.row_bytes:
            raise FormatError(f"{where} says {n_bytes} bytes a row and {header.row_bytes} at once")
        return header

    def require(self, fingerprint: str, *, where: str) -> None:
        """Raise unless the codec of a fingerprint made the rows.

        Raises:
            MismatchError: another one did.
        """
        if self.fingerprint != fingerprint:
            raise MismatchError(
                f"{where} was made by codec {self.fingerprint[:12]}, not by {fingerprint[:12]}: "
                "use the codec that encoded it"
            )


def packed_field(name: str, header: PackedHeader) -> pa.Field:
    """Return the field of a column of packed rows, with its header."""
    return pa.field(name, pa.binary(header.row_bytes), nullable=False, metadata=header.metadata())


def packed_array(packed: np.ndarray) -> pa.Array:
    """Return packed rows (n, row_bytes) uint8 as binaries of one length, without a copy."""
    rows = np.ascontiguousarray(packed)
    kind = pa.binary(rows.shape[1])
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(rows), [None, pa.py_buffer(rows)])


def with_packed(table: pa.Table, name: str, packed: np.ndarray, header: PackedHeader) -> pa.Table:
    """Return a table with packed rows as its last column, and their header in both metadata."""
    added = table.append_column(packed_field(name, header), packed_array(packed))
    return added.replace_schema_metadata((table.schema.metadata or {}) | header.metadata())


def column_of(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a column.

    Raises:
        ShapeError: there is none of that name.
    """
    if name not in table.column_names:
        raise ShapeError(f"there is no column {name!r}: the columns are {table.column_names}")
    return table.column(name)


def matrix_of(column: pa.ChunkedArray, *, name: str) -> np.ndarray:
    """Return a column of vectors as (n, d), without a copy where it is in one piece.

    Args:
        column: lists of numbers of one length, tensors of Ray or Arrow, or binaries of one length.
        name: of the column, for messages.

    Raises:
        ShapeError: the values are no vectors of one length.
        ValueRangeError: a row or a value is missing.
    """
    parts = [_matrix(chunk, name) for chunk in column.chunks if len(chunk)]
    if len({part.shape[1] for part in parts}) > 1:
        widths = sorted({part.shape[1] for part in parts})
        raise ShapeError(f"column {name!r} holds vectors of {widths} numbers: expected one length")
    if not parts:
        return np.empty((0, 0), dtype=np.float32)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _matrix(chunk: pa.Array, name: str) -> np.ndarray:
    values: Any = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
    if values.null_count:
        raise ValueRangeError(f"column {name!r} has rows without a value: drop them first")
    if pa.types.is_fixed_size_binary(values.type):
        width = values.type.byte_width
        start = values.offset * width
        content = np.frombuffer(values.buffers()[1], dtype=np.uint8)
        return content[start : start + len(values) * width].reshape(-1, width)
    if not any(is_list(values.type) for is_list in _LISTS):
        raise ShapeError(f"column {name!r} must hold vectors of one length, got {values.type}")
    flat = values.flatten()
    n_rows = len(values)
    lengths = np.diff(np.asarray(values.offsets)) if hasattr(values, "offsets") else None
    if len(flat) % n_rows or (lengths is not None and (lengths != lengths[0]).any()):
        raise ShapeError(f"column {name!r} holds vectors of different lengths: expected one")
    if flat.null_count:
        raise ValueRangeError(f"column {name!r} has vectors with missing numbers: drop them first")
    return np.asarray(flat).reshape(n_rows, -1)
