"""An index of packed rows with external ids, whatever its scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from bitcodec.arguments import check_packed, check_packed_rows
from bitcodec.errors import ConfigError, FormatError, MismatchError, ValueRangeError
from bitcodec.files import PathLike
from bitcodec.pickling import restored_folder, saved_files
from bitcodec.protocol import Codec, check_rows
from bitcodec.search_results import ScoreMetric
from bitcodec_faiss.backend import limit_threads, require_faiss
from bitcodec_faiss.blocks import split
from bitcodec_faiss.index_files import BIT_ORDER, IndexHeader, check_codec, read_header
from bitcodec_faiss.rows import Rows
from bitcodec_faiss.store import Kind, parse_factory


class PackedIndex:
    """Packed rows of one codec under external 64-bit ids; the base of every index.

    Args:
        codec: a fitted `bitcodec.BitCodec`, or anything with the same `Codec` attributes.
        factory: `"Flat"`, `"IVF<lists>"` or `"HNSW<links>"`.

    Raises:
        ConfigError: an unknown factory, or a codec whose rows are too short.
        NotFittedError: the codec is not fitted.
        MissingExtraError: FAISS is not installed, or too old.
    """

    metric: ScoreMetric
    """What scores of a search without rescoring measure."""

    _splits_side: ClassVar[bool] = False
    """Whether FAISS holds the bits alone, and a table beside it the side bytes."""

    def __init__(self, codec: Codec, *, factory: str = "Flat") -> None:
        require_faiss()
        check_rows(codec)
        self.codec = codec
        self.factory = factory
        self.fingerprint = codec.fingerprint_
        self.n_bits = codec.n_bits_
        self.row_bytes = codec.row_bytes_
        self._read_only = False
        self._rows = Rows.empty(
            self._kind(factory), row_bytes=self.row_bytes, stored_bytes=self._stored_bytes
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}(factory={self.factory!r}, n_bits={self.n_bits}, n_rows={len(self)})"

    @property
    def ids(self) -> np.ndarray:
        """(n,) int64, the ids in row order: the order of a filter mask.

        Rows come in the order of addition; FAISS's IVF forgets it, there ids ascend.
        """
        ids = self._rows.store.ids
        return ids.copy() if self._rows.store.keeps_order else np.sort(ids)

    @property
    def bytes_per_vector(self) -> float:
        """Bytes of the saved index over its rows: codes, ids, side bytes, graph links, centroids.

        Raises:
            ValueRangeError: the index is empty.
        """
        self._refuse_empty()
        return self._rows.n_bytes / len(self)

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
            self._rows.train([rows])

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
        self._rows.remove(ids)
        self._forget_derived()

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
        return self._rows.packed(ids)

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
            next_id=self._rows.next_id,
            ids_ascending=self._rows.ids_ascending,
            metric=self.metric,
        )
        self._rows.write(folder, header, overwrite=overwrite)

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
        check_rows(codec)
        check_codec(header, codec, where=folder)
        try:
            index = cls._like(header, codec)
        except ConfigError as error:
            raise FormatError(f"{Path(folder)} is damaged or foreign: {error}") from error
        index._rows = Rows.read(
            folder,
            header,
            index._kind(header.factory),
            stored_bytes=index._stored_bytes,
            mmap=mmap,
        )
        index._read_only = mmap
        return index

    def __getstate__(self) -> dict[str, Any]:
        """Give what `save` writes, for workers; FAISS's own objects cannot be pickled."""
        files = saved_files(self.save)
        return {"codec": self.codec, "files": files, "read_only": self._read_only}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a state as `load` takes a folder, with the same checks."""
        with restored_folder(state["files"]) as folder:
            loaded = type(self).load(folder, state["codec"])
        self.__dict__.update(loaded.__dict__)
        self._read_only = state["read_only"]

    @classmethod
    def _like(cls, header: IndexHeader, codec: Codec) -> Self:
        """Make an empty index of the kind that a header describes.

        Raises:
            ConfigError: there is no such kind of this class.
        """
        raise NotImplementedError

    @staticmethod
    def _kind(factory: Any) -> Kind:
        """Say which store a factory string asks for."""
        return parse_factory(factory)

    @property
    def _stored_bytes(self) -> int:
        """Bytes of a row that FAISS holds."""
        return (self.n_bits + 7) // 8 if self._splits_side else self.row_bytes

    def _append(self, blocks: list[np.ndarray], ids: Any, n_threads: int | None) -> np.ndarray:
        try:
            return self._rows.append(blocks, ids, n_threads=n_threads)
        finally:
            self._forget_derived()

    def _forget_derived(self) -> None:
        """Drop what was computed from the rows: they have changed."""

    def _check_queries(self, packed: Any) -> np.ndarray:
        self._refuse_empty()
        return check_packed(packed, n_bits=self.n_bits, row_bytes=self.row_bytes)

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
