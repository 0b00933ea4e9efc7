"""What every kind of index can be asked, and how a kind is named."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bitcodec.errors import ConfigError, ValueRangeError
from bitcodec.ranking import Hits, RangeHits

PARAMETER_KINDS = {"nprobe": "IVF", "ef_search": "HNSW"}
"""Search parameters and the kind that takes each."""

_FACTORY = re.compile(r"(Flat)|(IVF)([1-9]\d{0,8})|(HNSW)([1-9]\d{0,3})")


class Store(Protocol):
    """One kind of FAISS index; rows are numbered in the order of `ids`."""

    kind: str
    """Flat, IVF or HNSW."""

    faiss_index: Any
    """What FAISS writes to a file."""

    keeps_order: bool
    """Whether `ids` come in the order of addition."""

    @property
    def ids(self) -> np.ndarray:
        """(n,) int64; valid until the index changes."""

    @property
    def is_trained(self) -> bool:
        """Whether rows can be added."""

    @property
    def training_rows(self) -> int:
        """Rows that training can use; 0 where none is needed."""

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """Copy the packed rows of (m,) row numbers."""

    def train(self, packed: np.ndarray) -> None:
        """Learn the lists from (n, row_bytes) rows."""

    def add(self, packed: np.ndarray, ids: np.ndarray) -> None:
        """Add rows whose ids were checked."""

    def remove(self, ids: np.ndarray) -> None:
        """Remove rows whose ids were checked."""

    def nearest(
        self, queries: np.ndarray, *, k: int, allowed: np.ndarray | None, effort: int | None
    ) -> Hits:
        """Find the k nearest allowed rows; `effort` is the kind's search parameter."""

    def within(
        self, queries: np.ndarray, *, radius: int, allowed: np.ndarray | None, effort: int | None
    ) -> RangeHits:
        """Find the allowed rows at a distance of at most `radius`."""


@dataclass(frozen=True)
class Kind:
    """A parsed factory string."""

    name: str
    """Flat, IVF or HNSW."""

    size: int
    """Lists of an IVF, links of an HNSW, 0 for Flat."""


def parse_factory(factory: Any) -> Kind:
    """Read `"Flat"`, `"IVF<lists>"` or `"HNSW<links>"`.

    Raises:
        ConfigError: the string is none of these.

    >>> parse_factory("IVF1024")
    Kind(name='IVF', size=1024)
    """
    match = _FACTORY.fullmatch(factory) if isinstance(factory, str) else None
    if match is None:
        raise ConfigError(
            f'factory must be "Flat", "IVF<lists>" or "HNSW<links>", for example "IVF1024" or '
            f'"HNSW32", got {factory!r}'
        )
    flat, ivf, lists, hnsw, links = match.groups()
    if links == "1":
        raise ConfigError('an HNSW needs at least 2 links, got "HNSW1": "HNSW32" is usual')
    return Kind(name=flat or ivf or hnsw, size=int(lists or links or 0))


def choose_effort(kind: str, *, nprobe: Any, ef_search: Any) -> Any:
    """Return the search parameter of a kind, or None for its default.

    Raises:
        ConfigError: a parameter is given that belongs to another kind.
    """
    given = {"nprobe": nprobe, "ef_search": ef_search}
    for name, value in given.items():
        owner = PARAMETER_KINDS[name]
        if value is not None and owner != kind:
            raise ConfigError(f"{name} is a parameter of {owner}, this index is {kind}: leave it")
    return next((value for value in given.values() if value is not None), None)


def rows_of(wanted: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Find the row number of every wanted id.

    Args:
        wanted: (m,) int64.
        ids: (n,) int64, distinct.

    Returns:
        (m,) int64.

    Raises:
        ValueRangeError: an id is not among `ids`; the message names the first.
    """
    order = None if (ids[1:] > ids[:-1]).all() else np.argsort(ids)
    places = np.searchsorted(ids, wanted, sorter=order)
    inside = np.minimum(places, max(len(ids) - 1, 0))
    rows: np.ndarray = inside if order is None else order[inside]
    known = ids[rows] == wanted if len(ids) else np.zeros(len(wanted), dtype=bool)
    if not known.all():
        raise ValueRangeError(
            f"the index holds no id {wanted[~known][0]} ({np.count_nonzero(~known)} of "
            f"{len(wanted)} ids are unknown): `ids` lists those it holds"
        )
    return rows
