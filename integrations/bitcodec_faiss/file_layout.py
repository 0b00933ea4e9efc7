"""What a file of FAISS says of its own sizes, held against its bytes before FAISS reads it.

FAISS believes what a file says: a length that lies makes it take memory, a link of a graph that
leads outside makes a later search read outside. So the file is walked here first. Only the three
kinds that bitcodec writes are known; everything else is refused. Little-endian throughout:

    header   4s class, i32 bits, i32 row_bytes, i64 rows, u8 is_trained, i32 metric
    vector   u64 length, its values

    Flat     header "IBMp", then header "IBxF", vector of bytes; vector of i64 ids
    HNSW     header "IBMp", then header "IBHf", vectors of f64 probabilities, i32 first link of each
             level, i32 levels of each row, u64 first link of each row, i32 links; i32 entry point,
             top level, two efforts and a zero, then header "IBxF", vector of bytes; vector of ids
    IVF      header "IBwF", u64 lists, u64 probed, then header "IBxF", vector of bytes (centroids);
             u8 0, an empty vector; "ilar", u64 lists, u64 row_bytes, then "full" and a vector of
             u64 sizes, or "sprs" and a vector of u64 pairs of list and size; the lists that are not
             empty, each its rows and then its i64 ids
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from bitcodec.errors import FormatError
from bitcodec_faiss.store import Kind

_HEADER = struct.Struct("<4siiqBi")
_ROWS_AT_ONCE = 2**16


def check_layout(path: Path, kind: Kind, *, n_rows: int, row_bytes: int) -> None:
    """Refuse a file whose parts are not those of an index of a kind and size.

    Args:
        path: FAISS's file.
        kind: what it must hold.
        n_rows: the rows it must hold.
        row_bytes: bytes of a row.

    Raises:
        FormatError: a part is of another class or size, leads outside, or bytes are left over.
    """
    walk = _Walk(path)
    if kind.name == "IVF":
        _walk_lists(walk, kind.size, n_rows=n_rows, row_bytes=row_bytes)
    else:
        walk.header("IBMp", n_rows=n_rows, row_bytes=row_bytes)
        if kind.name == "HNSW":
            walk.header("IBHf", n_rows=n_rows, row_bytes=row_bytes)
            _walk_graph(walk, n_rows)
        _walk_flat(walk, n_rows=n_rows, row_bytes=row_bytes)
        walk.vector(np.int64, n_rows, "ids")
    walk.require(walk.place == len(walk.content), "bytes are left over")


class _Walk:
    """A place in a file that is mapped, not read."""

    def __init__(self, path: Path) -> None:
        self._path, self.place = path, 0
        self.content = np.empty(0, dtype=np.uint8)
        if path.stat().st_size:
            self.content = np.memmap(path, dtype=np.uint8, mode="r")

    def require(self, holds: bool, problem: str) -> None:
        if not holds:
            raise FormatError(f"{self._path} is damaged or foreign: {problem}, build it anew")

    def take(self, dtype: Any, n: int, name: str) -> np.ndarray:
        """Return the next n values, where there are so many bytes."""
        size = np.dtype(dtype).itemsize * n
        self.require(0 <= size <= len(self.content) - self.place, f"it ends before its {name}")
        self.place += size
        return np.frombuffer(self.content, dtype, n, self.place - size) if n else np.empty(0, dtype)

    def number(self, dtype: Any, name: str) -> int:
        """Return the next number."""
        return int(self.take(dtype, 1, name)[0])

    def vector(self, dtype: Any, n: int, name: str) -> np.ndarray:
        """Return the next vector, which must have n values."""
        length = self.number(np.uint64, name)
        self.require(length == n, f"it says {length} {name} where there are {n}")
        return self.take(dtype, n, name)

    def any_vector(self, dtype: Any, name: str) -> np.ndarray:
        """Return the next vector, of any length that the file has bytes for."""
        return self.take(dtype, self.number(np.uint64, name), name)

    def header(self, name: str, *, n_rows: int, row_bytes: int) -> bool:
        """Check the next header; return whether it says that it is trained."""
        found = _HEADER.unpack(self.take(np.uint8, _HEADER.size, "header").tobytes())
        told, metric, trained = found[:4], found[5], found[4]
        expected = (name.encode(), 8 * row_bytes, row_bytes, n_rows)
        self.require(told == expected, f"it says {told} where {expected} was expected")
        self.require(metric == 1 and trained in (0, 1), "its metric or state is impossible")
        return bool(trained)


def _walk_flat(walk: _Walk, *, n_rows: int, row_bytes: int) -> None:
    walk.header("IBxF", n_rows=n_rows, row_bytes=row_bytes)
    walk.vector(np.uint8, n_rows * row_bytes, "bytes of rows")


def _walk_lists(walk: _Walk, n_lists: int, *, n_rows: int, row_bytes: int) -> None:
    trained = walk.header("IBwF", n_rows=n_rows, row_bytes=row_bytes)
    walk.require(walk.number(np.uint64, "lists") == n_lists, "it has another number of lists")
    walk.number(np.uint64, "lists to probe")  # set anew by every search
    walk.require(trained or n_rows == 0, "it has rows in lists that are not trained")
    _walk_flat(walk, n_rows=n_lists if trained else 0, row_bytes=row_bytes)
    walk.require(walk.number(np.uint8, "map") == 0, "it has a map of ids")
    walk.vector(np.int64, 0, "mapped ids")
    head = walk.take(np.uint8, 4, "lists").tobytes(), walk.number(np.uint64, "lists")
    walk.require(head == (b"ilar", n_lists), "its lists are of another kind or number")
    walk.require(walk.number(np.uint64, "row bytes") == row_bytes, "its lists have other rows")
    sizes = _list_sizes(walk, n_lists)
    walk.require(int(sizes.sum(dtype=object)) == n_rows, "its lists have other rows in all")
    walk.take(np.uint8, n_rows * (row_bytes + 8), "lists' rows and ids")


def _list_sizes(walk: _Walk, n_lists: int) -> np.ndarray:
    if walk.take(np.uint8, 4, "sizes").tobytes() == b"full":
        return walk.vector(np.uint64, n_lists, "sizes")
    pairs = walk.any_vector(np.uint64, "sizes")
    walk.require(len(pairs) % 2 == 0, "a list has no size")
    numbers, sizes = pairs[::2], pairs[1::2]
    ascending = bool((numbers[1:] > numbers[:-1]).all()) and not (numbers >= n_lists).any()
    walk.require(ascending, "its lists are numbered wrongly")
    return sizes


def _walk_graph(walk: _Walk, n_rows: int) -> None:
    n_levels = len(walk.any_vector(np.float64, "probabilities"))
    first = walk.vector(np.int32, n_levels + 1, "levels").astype(np.int64)
    walk.require(first[0] == 0 and bool((np.diff(first) >= 0).all()), "its levels are disordered")
    levels = walk.vector(np.int32, n_rows, "levels of rows")
    inside = not n_rows or 1 <= levels.min() <= levels.max() <= n_levels
    walk.require(bool(inside), "a row has more levels than there are")
    offsets = walk.vector(np.uint64, n_rows + 1, "offsets")
    links = walk.any_vector(np.int32, "links")
    begins = np.concatenate([[0], first[levels].cumsum()]).astype(np.uint64)
    walk.require(bool((offsets == begins).all()), "its rows' links overlap")
    walk.require(len(links) == int(offsets[-1]), "it has another number of links")
    entry, top, *_ = walk.take(np.int32, 5, "entry point").tolist()
    highest = int(levels.max()) - 1 if n_rows else -1
    known = top == highest and (0 <= entry < n_rows and levels[entry] > top if n_rows else True)
    walk.require(
        bool(known) and (n_rows > 0 or entry == -1), "its entry point is no row of the top"
    )
    for start in range(0, n_rows, _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        _check_links(walk, links[int(offsets[start]) :], levels[some], levels, first)


def _check_links(
    walk: _Walk, links: np.ndarray, some: np.ndarray, levels: np.ndarray, first: np.ndarray
) -> None:
    """Require the links of some rows to lead to rows that have the link's level.

    Args:
        walk: names the file.
        links: of the rows, and of those after them.
        some: (m,) levels of the rows.
        levels: (n,) levels of all rows.
        first: (l + 1,) first link of each level.
    """
    sizes = first[some]
    found = links[: int(sizes.sum())]
    walk.require(bool(((found >= -1) & (found < len(levels))).all()), "a link leads outside")
    places = np.arange(len(found)) - np.repeat(sizes.cumsum() - sizes, sizes)
    level = np.searchsorted(first, places, side="right") - 1
    known = found >= 0
    walk.require(bool((levels[found[known]] > level[known]).all()), "a link leads below its level")
