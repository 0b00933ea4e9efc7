"""What this package asks of a source of rows, of stored codes and of an output."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Rows(Protocol):
    """Rows that any worker can slice: a Zarr or HDF5 array, or what `open_rows` returns.

    It is pickled to the workers, so it should hold a path and not the data.
    """

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, rows: slice, /) -> Any:
        """Return rows start to stop, (b, d)."""


@runtime_checkable
class Codes(Protocol):
    """Packed rows that any worker can slice; an archive of `bitcodec_zarr` is one."""

    @property
    def n_bits(self) -> int:
        """True bits h of a row."""

    @property
    def side_bytes(self) -> int:
        """Bytes of a row after those of its bits."""

    @property
    def fingerprint(self) -> str:
        """Of the codec that made them, hexadecimal."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Return packed rows start to stop, (b, row_bytes) uint8."""


class Output(Protocol):
    """Where shards of packed rows are written by many workers at once, without a lock.

    `PackedParquet` is one, and so is an archive of `bitcodec_zarr`. What is written becomes visible
    by `commit`. It is pickled to the workers.
    """

    @property
    def n_rows(self) -> int:
        """Rows that are visible already."""

    @property
    def shard_rows(self) -> int:
        """Rows of every shard but the last."""

    @property
    def fingerprint(self) -> str:
        """Of the codec whose codes it takes."""

    def alone(self) -> AbstractContextManager[None]:
        """Keep other jobs from writing this output while the block runs, or raise FileError."""

    def write_shard(self, index: int, packed: np.ndarray) -> Any:
        """Write the rows from `index * shard_rows` on; return what has their index and n_rows."""

    def commit(self, written: Iterable[Any]) -> Any:
        """Make shards visible, given what has the index and n_rows of each."""
