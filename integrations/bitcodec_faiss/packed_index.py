"""An index of packed rows with external ids, whatever its scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np

from bitcodec.errors import ConfigError, FormatError, MismatchError, NotFittedError, ValueRangeError
from bitcodec.files import PathLike
from bitcodec_faiss.arguments import (
    as_ids,
    check_distinct,
    check_filter,
    check_new_ids,
    check_packed,
    check_packed_rows,
)
from bitcodec_faiss.backend import limit_threads, require_faiss
from bitcodec_faiss.blocks import drain, sample, split
from bitcodec_faiss.index_files import (
    BIT_ORDER,
    IndexHeader,
    check_codec,
    read_faiss_file,
    read_header,
    serialised_bytes,
    write_index,
)
from bitcodec_faiss.kinds import make_store, open_store
from bitcodec_faiss.protocol import Codec
from bitcodec_faiss.store import Store, parse_factory, rows_of


class PackedIndex:
    """Packed rows of one codec under external 64-bit ids; the base of every index.

    Args:
        codec: a fitted `bitcodec.BitCodec`, or anything with the same `Codec` attributes.
        factory: `"Flat"`, `"IVF<lists>"` or `"HNSW<links>"`.

    Raises:
        ConfigError: an unknown factory, or a codec whose rows carry more than their bits.
        NotFittedError: the codec is not fitted.
        MissingExtraError: FAISS is not installed, or too old.
    """

    def __init__(self, codec: Codec, *, factory: str = "Flat") -> None:
        require_faiss()
        _check_rows(codec)
        self.codec = codec
        self.factory = factory
        self.fingerprint = codec.fingerprint_
        self.n_bits = codec.n_bits_
        self.row_bytes = codec.row_bytes_
        self._read_only = False
        self._next_id = 0
        self._ids_ascending = True
        self._store: Store = make_store(parse_factory(factory), row_bytes=self.row_bytes)

    def __len__(self) -> int:
        return int(self._store.faiss_index.ntotal)

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}(factory={self.factory!r}, n_bits={self.n_bits}, n_rows={len(self)})"

    @property
    def ids(self) -> np.ndarray:
        """(n,) int64, the ids in row order: the order of a filter mask.

        Rows come in the order of addition; FAISS's IVF forgets it, there ids ascend.
        """
        ids = self._store.ids
        return ids.copy() if self._store.keeps_order else np.sort(ids)

    @property
    def bytes_per_vector(self) -> float:
        """Bytes of FAISS's index over its rows: codes, ids, graph links and centroids.

        Raises:
            ValueRangeError: the index is empty.
        """
        self._refuse_empty()
        return serialised_bytes(self._store.faiss_index) / len(self)

    def add(self, hidden: Any, *, ids: Any = None, n_threads: int | None = None) -> np.ndarray:
        """Encode hidden states and add them, all or none.

        Args:
            hidden: (n, d) array or tensor, path(s), or an iterable of batches; encoded as a
                stream, only the packed rows are held.
            ids: (n,) distinct integers from 0 to 2**63 - 1, new to the index; by default
                consecutive from one more than the largest so far.
            n_threads: FAISS's threads during the call; by default as FAISS has it.

        Returns:
            (n,) int64, the rows' ids.

        Raises:
            ShapeError: the hidden states' width, or the ids' length or type is wrong.
            ValueRangeError: a value is not finite; an id is negative or not new; too few rows to
                train an IVF on.
            MismatchError: the codec has changed since the index was made.
            ConfigError: the index was loaded with `mmap=True`.
        """
        self._check_codec()
        self._refuse_read_only()
        return self._append(list(self.codec.encode_batches(hidden)), ids, n_threads)

    def add_packed(
        self, packed: Any, *, ids: Any = None, n_threads: int | None = None
    ) -> np.ndarray:
        """Add packed rows, all or none.

        Args:
            packed: (n, row_bytes) uint8; may be memory-mapped.
            ids: as in `add`.
            n_threads: as in `add`.

        Returns:
            (n,) int64, the rows' ids.

        Raises:
            ShapeError: the rows' shape or type, or the ids' length or type is wrong.
            ValueRangeError: a pad bit is set; an id is negative or not new; too few rows to train
                an IVF on.
            ConfigError: the index was loaded with `mmap=True`.
        """
        self._refuse_read_only()
        rows = check_packed_rows(packed, n_bits=self.n_bits, row_bytes=self.row_bytes)
        return self._append(split(rows), ids, n_threads)

    def train(self, packed: Any, *, n_threads: int | None = None) -> None:
        """Learn the lists of an IVF now rather than from the first rows added.

        Args:
            packed: (n, row_bytes) uint8, at least as many rows as lists; Flat and HNSW learn
                nothing and ignore them.
            n_threads: as in `add`.

        Raises:
            ShapeError: the rows' shape or type is wrong.
            ValueRangeError: a pad bit is set, or there are too few rows.
            ConfigError: the index holds rows already.
        """
        self._refuse_read_only()
        if len(self):
            raise ConfigError(f"train must come before rows are added, got {len(self)} rows")
        rows = check_packed_rows(packed, n_bits=self.n_bits, row_bytes=self.row_bytes)
        with limit_threads(n_threads):
            self._store.train(sample([rows], n_rows=self._store.training_rows))

    def remove(self, ids: Any) -> None:
        """Remove rows, all or none; their ids may be used again.

        Args:
            ids: (m,) distinct integers, all in the index.

        Raises:
            ShapeError: the ids are not one-dimensional integers.
            ValueRangeError: an id is given twice or not in the index.
            ConfigError: the index is an HNSW, or was loaded with `mmap=True`.
        """
        self._refuse_read_only()
        gone = as_ids(ids)
        check_distinct(gone)
        rows_of(gone, self._store.ids)
        self._store.remove(gone)

    def reconstruct_packed(self, ids: Any) -> np.ndarray:
        """Return the packed rows of some ids.

        Args:
            ids: (m,) integers, all in the index.

        Returns:
            (m, row_bytes) uint8, in the order of `ids`.

        Raises:
            ShapeError: the ids are not one-dimensional integers.
            ValueRangeError: an id is not in the index.
        """
        return self._store.codes(rows_of(as_ids(ids), self._store.ids))

    def reconstruct(self, ids: Any) -> np.ndarray:
        """Return the decoded hidden states of some ids.

        Args:
            ids: (m,) integers, all in the index.

        Returns:
            (m, d) float32, in the order of `ids`.

        Raises:
            ShapeError: the ids are not one-dimensional integers.
            ValueRangeError: an id is not in the index.
            MismatchError: the codec has changed since the index was made.
        """
        self._check_codec()
        return self.codec.decode(self.reconstruct_packed(ids))

    def save(self, folder: PathLike, *, overwrite: bool = False) -> None:
        """Write the index as a folder that appears whole or not at all.

        Args:
            folder: the folder to make; its parent must exist.
            overwrite: replace an existing folder.

        Raises:
            FileError: `folder` exists and `overwrite` is false, or cannot be written.
        """
        header = IndexHeader(
            factory=self.factory,
            n_bits=self.n_bits,
            row_bytes=self.row_bytes,
            bit_order=BIT_ORDER,
            fingerprint=self.fingerprint,
            n_rows=len(self),
            next_id=self._next_id,
            ids_ascending=self._ids_ascending,
        )
        write_index(folder, self._store.faiss_index, header, overwrite=overwrite)

    @classmethod
    def load(cls, folder: PathLike, codec: Codec, *, mmap: bool = False) -> Self:
        """Read an index folder.

        Args:
            folder: what `save` wrote.
            codec: the codec that the index was made with.
            mmap: map the rows from the file instead of reading them; the index cannot be changed.

        Returns:
            The index.

        Raises:
            FileError: there is no such folder.
            FormatError: a file is truncated, foreign or of a newer format.
            MismatchError: the index was made with another codec.
        """
        header = read_header(folder)
        _check_rows(codec)
        check_codec(header, fingerprint=codec.fingerprint_, where=folder)
        index = cls(codec, factory=_known_factory(folder, header))
        stored = read_faiss_file(folder, header, mmap=mmap)
        index._store = open_store(parse_factory(header.factory), stored, where=folder)
        index._next_id, index._ids_ascending = header.next_id, header.ids_ascending
        index._read_only = mmap
        return index

    def _append(self, blocks: list[np.ndarray], ids: Any, n_threads: int | None) -> np.ndarray:
        n_rows = sum(len(block) for block in blocks)
        new = check_new_ids(
            ids, n_rows=n_rows, existing=lambda: self._store.ids, next_id=self._next_id
        )
        if n_rows == 0:
            return new
        with limit_threads(n_threads):
            if not self._store.is_trained:
                self._store.train(sample(blocks, n_rows=self._store.training_rows))
            for block, block_ids in drain(blocks, new):
                self._store.add(block, block_ids)
        ascending = new[0] >= self._next_id and bool((new[1:] > new[:-1]).all())
        self._ids_ascending = self._ids_ascending and ascending
        self._next_id = max(self._next_id, int(new.max()) + 1)
        return new

    def _check_queries(self, packed: Any) -> np.ndarray:
        self._refuse_empty()
        return check_packed(packed, n_bits=self.n_bits, row_bytes=self.row_bytes)

    def _allowed_rows(self, wanted: Any) -> np.ndarray | None:
        """Turn a filter into (n,) bool in the store's row order; None stays None."""
        if wanted is None:
            return None
        checked = check_filter(wanted, n_rows=len(self))
        ids = self._store.ids
        if checked.dtype != np.bool_:
            return np.isin(ids, checked)
        if self._store.keeps_order:
            return checked
        if not self._ids_ascending:
            raise ConfigError(
                f"a filter mask needs the order of addition, which {self._store.kind} forgets and "
                f"these ids, not added in ascending order, do not tell: give the ids, or use Flat"
            )
        allowed = np.empty(len(ids), dtype=bool)
        allowed[np.argsort(ids)] = checked
        return allowed

    def _check_codec(self) -> None:
        if self.codec.fingerprint_ != self.fingerprint:
            raise MismatchError(
                f"this index was made with codec {self.fingerprint[:12]}, which has since become "
                f"{self.codec.fingerprint_[:12]}: build the index anew"
            )

    def _refuse_empty(self) -> None:
        if not len(self):
            raise ValueRangeError("the index is empty: add rows first")

    def _refuse_read_only(self) -> None:
        if self._read_only:
            raise ConfigError(
                "an index loaded with mmap=True cannot be changed: load it with mmap=False"
            )


def _check_rows(codec: Codec) -> None:
    if getattr(codec, "n_bits_", None) is None:
        raise NotFittedError("an index needs a fitted codec: call fit first")
    if codec.row_bytes_ != (codec.n_bits_ + 7) // 8:
        raise ConfigError(
            f"an index holds rows of {(codec.n_bits_ + 7) // 8} bytes for {codec.n_bits_} bits, "
            f"got a codec with {codec.row_bytes_}: side bytes are not supported, make codes "
            f"without them"
        )


def _known_factory(folder: PathLike, header: IndexHeader) -> str:
    try:
        parse_factory(header.factory)
    except ConfigError as error:
        raise FormatError(f"{Path(folder)} is damaged or foreign: {error}") from error
    return header.factory
