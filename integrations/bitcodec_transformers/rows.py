"""Rows traced back to their texts."""

from __future__ import annotations

import functools
import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from bitcodec.checksums import checksums_in
from bitcodec.errors import FileError, FormatError, ValueRangeError
from bitcodec.files import PathLike, one_line
from bitcodec_transformers.documents import Document
from bitcodec_transformers.manifest import load_manifest
from bitcodec_transformers.shards import DOCUMENTS_FILE, rows_file
from bitcodec_transformers.windows import COLUMN_TYPES, RowTable

_SHARDS_KEPT = 8
_DOCUMENTS_KEPT = 64


class RowContext(NamedTuple):
    """A row's token with the text around it."""

    before: str
    token: str
    after: str


class HarvestRows(ABC):
    """Where each row of some hidden states comes from."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of rows."""

    @abstractmethod
    def column(self, name: str) -> np.ndarray:
        """Give one column: `document`, `token_id`, `position`, `start` or `end`.

        Returns:
            (n,) int64 for `document`, int32 for the others.
        """

    @abstractmethod
    def source(self, document: int) -> Document:
        """Give the id and the text of a document by its number."""

    @abstractmethod
    def _cell(self, row: int, name: str) -> int: ...

    @property
    def document(self) -> np.ndarray:
        """(n,) int64, number of each row's document."""
        return self.column("document")

    @property
    def token_id(self) -> np.ndarray:
        """(n,) int32, token of each row."""
        return self.column("token_id")

    @property
    def position(self) -> np.ndarray:
        """(n,) int32, place of each row's token in its window."""
        return self.column("position")

    @property
    def start(self) -> np.ndarray:
        """(n,) int32, first character of each row's token in its document."""
        return self.column("start")

    @property
    def end(self) -> np.ndarray:
        """(n,) int32, one past the last character."""
        return self.column("end")

    def context(self, row: int, width: int = 60) -> RowContext:
        """Give a row's token with the text around it.

        Args:
            row: the row, from 0.
            width: characters before and after the token.

        Returns:
            The three strings; joined they are a piece of the document.

        Raises:
            ValueRangeError: there is no such row.
        """
        text = self.source(self._checked_cell(row, "document")).text
        start, end = self._cell(row, "start"), self._cell(row, "end")
        return RowContext(text[max(0, start - width) : start], text[start:end], text[end:][:width])

    def document_id(self, row: int) -> str:
        """Give the id of a row's document.

        Raises:
            ValueRangeError: there is no such row.
        """
        return self.source(self._checked_cell(row, "document")).id

    def document_text(self, row: int) -> str:
        """Give the whole text of a row's document.

        Raises:
            ValueRangeError: there is no such row.
        """
        return self.source(self._checked_cell(row, "document")).text

    def _checked_cell(self, row: int, name: str) -> int:
        if not 0 <= row < len(self):
            raise ValueRangeError(f"row must be between 0 and {len(self) - 1}, got {row}")
        return self._cell(row, name)


class MemoryRows(HarvestRows):
    """Rows of texts that are in memory.

    Args:
        table: the rows.
        documents: the documents that `table.document` numbers.
    """

    def __init__(self, table: RowTable, documents: Sequence[Document]) -> None:
        self._table = table
        self._documents = documents

    def __len__(self) -> int:
        return len(self._table)

    def column(self, name: str) -> np.ndarray:
        """See `HarvestRows.column`."""
        return self._table.columns()[name]

    def source(self, document: int) -> Document:
        """See `HarvestRows.source`."""
        return self._documents[document]

    def _cell(self, row: int, name: str) -> int:
        return int(self.column(name)[row])


class FolderRows(HarvestRows):
    """Rows of a harvest folder; shards and texts are read when they are asked for.

    Args:
        folder: the harvest folder.

    Raises:
        FileError: the folder is no harvest.
        FormatError: its manifest is damaged.
    """

    def __init__(self, folder: Path) -> None:
        manifest = load_manifest(folder)
        self._folder = folder
        self._shards = manifest.shards
        self._n_documents = manifest.counts.n_documents
        self._documents_bytes = manifest.documents_bytes
        self._documents_crc32 = manifest.documents_crc32
        sizes = [shard.n_rows for shard in manifest.shards]
        self._first_rows = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._shard = functools.lru_cache(_SHARDS_KEPT)(self._read_shard)
        self._document = functools.lru_cache(_DOCUMENTS_KEPT)(self._read_document)

    def __len__(self) -> int:
        return int(self._first_rows[-1])

    def column(self, name: str) -> np.ndarray:
        """See `HarvestRows.column`."""
        parts = [self._read_shard(k)[name] for k in range(len(self._shards))]
        return np.concatenate([np.empty(0, COLUMN_TYPES[name]), *parts])

    def source(self, document: int) -> Document:
        """See `HarvestRows.source`."""
        return self._document(document)

    def _cell(self, row: int, name: str) -> int:
        shard = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        return int(self._shard(shard)[name][row - self._first_rows[shard]])

    def _read_shard(self, number: int) -> dict[str, np.ndarray]:
        path = rows_file(self._folder, self._shards[number].number)
        return _load_columns(path, n_rows=self._shards[number].n_rows)

    @functools.cached_property
    def _line_starts(self) -> np.ndarray:
        path = self._folder / DOCUMENTS_FILE
        try:
            with path.open("rb") as file:
                sizes, crc32 = _measured(file, self._documents_bytes)
        except OSError as error:
            raise FileError(f"cannot read {path}: {error.strerror}") from error
        starts = np.cumsum([0, *sizes], dtype=np.int64)
        if self._documents_bytes not in starts[self._n_documents :]:
            raise FormatError(
                f"{path} must hold {self._n_documents} documents in {self._documents_bytes} "
                f"bytes, got {len(starts) - 1} in {starts[-1]}: it is truncated or changed, "
                "harvest again"
            )
        if self._documents_crc32 not in (None, crc32):
            raise FormatError(
                f"{path} is damaged: its documents are not those that were written, harvest again"
            )
        return starts

    def _read_document(self, number: int) -> Document:
        path = self._folder / DOCUMENTS_FILE
        starts = self._line_starts
        if not 0 <= number < self._n_documents:
            raise FormatError(
                f"a row names document {number}, but {path} holds {self._n_documents}: "
                "the harvest is damaged, harvest again"
            )
        with path.open("rb") as file:
            file.seek(int(starts[number]))
            line = file.read(int(starts[number + 1] - starts[number]))
        try:
            content = json.loads(line)
            told, text = content["id"], content["text"]
            if not isinstance(told, str) or not isinstance(text, str):
                raise TypeError("id and text must be strings")
            return Document(told, text)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FormatError(
                f"line {number + 1} of {path} is no document: harvest again"
            ) from error


def read_rows(folder: PathLike) -> HarvestRows:
    """Open the origins of a harvest's rows.

    Args:
        folder: the folder that `harvest` wrote; of an unfinished one the finished shards.

    Returns:
        The rows, in the order of the hidden states.

    Raises:
        FileError: the folder is no harvest.
        FormatError: a file is truncated or foreign.
    """
    return FolderRows(Path(folder))


def _measured(file: BinaryIO, n_bytes: int) -> tuple[list[int], int]:
    """Return the lengths of a file's lines, and the CRC-32 of its first bytes."""
    sizes, crc32, place = [], 0, 0
    for line in file:
        crc32 = zlib.crc32(line[: max(0, n_bytes - place)], crc32)
        place += len(line)
        sizes.append(len(line))
    return sizes, crc32


def _load_columns(path: Path, *, n_rows: int) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata()
            columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise FormatError(f"{path} is missing: harvest again") from error
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{path} is truncated or no safetensors file ({one_line(error)}): harvest again"
        ) from error
    found = {name: (column.dtype, column.shape) for name, column in columns.items()}
    expected = {name: (dtype, (n_rows,)) for name, dtype in COLUMN_TYPES.items()}
    if found != expected:
        raise FormatError(
            f"{path} must hold {', '.join(COLUMN_TYPES)} of {n_rows} rows each, got "
            f"{ {name: shape for name, (_, shape) in found.items()} }: harvest again"
        )
    for name, column in columns.items():
        checksums = checksums_in(metadata, name)
        if checksums is not None:
            checksums.check(column, first_row=0, where=path)
    return columns
