"""Which store a factory string makes, and which a file holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bitcodec.errors import FormatError
from bitcodec.files import PathLike
from bitcodec_faiss.backend import load_faiss
from bitcodec_faiss.flat import FlatStore
from bitcodec_faiss.hnsw import HnswStore
from bitcodec_faiss.ivf import IvfStore
from bitcodec_faiss.store import Kind, Store

_STORES: dict[str, Callable[[Any], Store]] = {
    "Flat": FlatStore,
    "IVF": IvfStore,
    "HNSW": HnswStore,
}
_OUTER_CLASSES = {"Flat": "IndexBinaryIDMap", "IVF": "IndexBinaryIVF", "HNSW": "IndexBinaryIDMap"}
_INNER_CLASSES = {"Flat": "IndexBinaryFlat", "HNSW": "IndexBinaryHNSW"}


def make_store(kind: Kind, *, row_bytes: int) -> Store:
    """Make an empty store for rows of `row_bytes` bytes."""
    if kind.name == "IVF":
        return IvfStore.empty(row_bytes, n_lists=kind.size)
    if kind.name == "HNSW":
        return HnswStore.empty(row_bytes, n_links=kind.size)
    return FlatStore.empty(row_bytes)


def open_store(kind: Kind, faiss_index: Any, *, where: PathLike) -> Store:
    """Make a store of an index that FAISS has read.

    Raises:
        FormatError: the index is of another class or size than the factory says.
    """
    classes = [type(faiss_index).__name__]
    expected = [_OUTER_CLASSES[kind.name]]
    if classes == expected and kind.name in _INNER_CLASSES:
        inner = load_faiss().downcast_IndexBinary(faiss_index.index)
        classes.append(type(inner).__name__)
        expected.append(_INNER_CLASSES[kind.name])
    if classes != expected or (kind.name == "IVF" and faiss_index.nlist != kind.size):
        raise FormatError(
            f"{where} must hold {' of '.join(expected)} as index.json says, got "
            f"{' of '.join(classes)}: build the index anew"
        )
    return _STORES[kind.name](faiss_index)
