"""The rows of an index: FAISS's store, the side bytes beside it, and the ids given so far."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from bitcodec.arguments import as_ids, check_distinct, check_filter, check_new_ids
from bitcodec.errors import ConfigError
from bitcodec.files import PathLike
from bitcodec_faiss.backend import limit_threads
from bitcodec_faiss.blocks import drain, sample
from bitcodec_faiss.index_files import (
    IndexHeader,
    read_faiss_file,
    read_side_file,
    serialised_bytes,
    write_index,
)
from bitcodec_faiss.kinds import make_store, open_store
from bitcodec_faiss.side_table import SideTable
from bitcodec_faiss.store import Kind, Store, rows_of


class Rows:
    """Packed rows under external ids.

    Args:
        store: holds the first `stored_bytes` bytes of every row.
        stored_bytes: the bytes of a row that FAISS holds.
        side: holds the others; None where FAISS holds them all.
        next_id: one more than the largest id ever held.
        ids_ascending: whether every id added was larger than all before it.
    """

    def __init__(
        self,
        store: Store,
        *,
        stored_bytes: int,
        side: SideTable | None,
        next_id: int = 0,
        ids_ascending: bool = True,
    ) -> None:
        self.store = store
        self.stored_bytes = stored_bytes
        self.side = side
        self.next_id = next_id
        self.ids_ascending = ids_ascending

    @classmethod
    def empty(cls, kind: Kind, *, row_bytes: int, stored_bytes: int) -> Self:
        """Make an index's rows before there are any."""
        side_bytes = row_bytes - stored_bytes
        store = make_store(kind, row_bytes=stored_bytes)
        side = SideTable.empty(side_bytes) if side_bytes else None
        return cls(store, stored_bytes=stored_bytes, side=side)

    @classmethod
    def read(
        cls, folder: PathLike, header: IndexHeader, kind: Kind, *, stored_bytes: int, mmap: bool
    ) -> Self:
        """Read the rows of an index folder; see `PackedIndex.load`."""
        index = read_faiss_file(folder, header, kind, stored_bytes=stored_bytes, mmap=mmap)
        store, side = open_store(kind, index, where=folder), None
        if header.row_bytes > stored_bytes:
            width = header.row_bytes - stored_bytes
            values = read_side_file(folder, header, width=width, mmap=mmap)
            side = SideTable(np.sort(store.ids), values)
        return cls(
            store,
            stored_bytes=stored_bytes,
            side=side,
            next_id=header.next_id,
            ids_ascending=header.ids_ascending,
        )

    def write(self, folder: PathLike, header: IndexHeader, *, overwrite: bool) -> None:
        """Write an index folder; see `PackedIndex.save`."""
        side = None if self.side is None else self.side.values
        write_index(folder, self.store.faiss_index, header, side=side, overwrite=overwrite)

    def __len__(self) -> int:
        return int(self.store.faiss_index.ntotal)

    @property
    def n_bytes(self) -> int:
        """Bytes that a saved index takes for its rows."""
        side = 0 if self.side is None else self.side.values.nbytes
        return serialised_bytes(self.store.faiss_index) + side

    def train(self, blocks: list[np.ndarray]) -> None:
        """Have the store learn from some of the rows of blocks."""
        rows = sample(blocks, n_rows=self.store.training_rows)
        self.store.train(self._stored(rows))

    def append(self, blocks: list[np.ndarray], ids: Any, *, n_threads: int | None) -> np.ndarray:
        """Add checked rows under ids that are checked here; return the (n,) int64 ids."""
        n_rows = sum(len(block) for block in blocks)
        new = check_new_ids(
            ids, n_rows=n_rows, existing=lambda: self.store.ids, next_id=self.next_id
        )
        if n_rows == 0:
            return new
        with limit_threads(n_threads):
            if not self.store.is_trained:
                self.train(blocks)
            for block, block_ids in drain(blocks, new):
                self.store.add(self._stored(block), block_ids)
                if self.side is not None:
                    self.side.append(block_ids, block[:, self.stored_bytes :])
        ascending = bool(new[0] >= self.next_id and (new[1:] > new[:-1]).all())
        self.ids_ascending = self.ids_ascending and ascending
        self.next_id = max(self.next_id, int(new.max()) + 1)
        return new

    def remove(self, ids: Any) -> None:
        """Remove the rows of ids that are checked here, all or none."""
        gone = as_ids(ids)
        check_distinct(gone)
        rows_of(gone, self.store.ids)
        self.store.remove(gone)
        if self.side is not None:
            self.side.remove(gone)

    def packed(self, ids: Any) -> np.ndarray:
        """Copy the whole rows of (m,) ids that are checked here."""
        known = self.store.ids
        return self.whole(rows_of(as_ids(ids), known), known)

    def whole(self, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Copy the whole rows of (m,) row numbers, given the (n,) ids of the store."""
        stored = self.store.codes(rows)
        if self.side is None:
            return stored
        return np.concatenate([stored, self.side.take(ids[rows])], axis=1)

    def allowed(self, wanted: Any) -> np.ndarray | None:
        """Turn a filter into (n,) bool in the store's row order; None stays None."""
        if wanted is None:
            return None
        checked = check_filter(wanted, n_rows=len(self))
        ids = self.store.ids
        if checked.dtype != np.bool_:
            return np.isin(ids, checked)
        if self.store.keeps_order:
            return checked
        if not self.ids_ascending:
            raise ConfigError(
                f"a filter mask needs the order of addition, which {self.store.kind} forgets and "
                f"these ids, not added in ascending order, do not tell: give the ids, or use Flat"
            )
        allowed = np.empty(len(ids), dtype=bool)
        allowed[np.argsort(ids)] = checked
        return allowed

    def _stored(self, rows: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(rows[:, : self.stored_bytes])
