"""FAISS itself: its import and its thread count."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from bitcodec.errors import MissingExtraError
from bitcodec.extras import import_extra

_OLDEST = (1, 14, 2)
"""Before it, HNSW over bits takes no search parameters, and older ones map no files."""


def load_faiss() -> ModuleType:
    """Import FAISS on first use.

    Raises:
        MissingExtraError: it is not installed; the message names the fix.
    """
    return import_extra("faiss", extra="faiss")


def require_faiss() -> ModuleType:
    """Import FAISS and check its version.

    Raises:
        MissingExtraError: it is not installed, or too old; the message names the fix.
    """
    faiss = load_faiss()
    version = tuple(map(int, re.findall(r"\d+", faiss.__version__)[:3]))
    if version < _OLDEST:
        raise MissingExtraError(
            f"faiss must be {'.'.join(map(str, _OLDEST))} or newer, got {faiss.__version__}: run "
            f"`pip install --upgrade 'bitcodec[faiss]'`"
        )
    return faiss


@contextlib.contextmanager
def limit_threads(n_threads: int | None) -> Iterator[None]:
    """Give FAISS a number of threads inside the block and the former number after it.

    FAISS's thread count belongs to the process, so it is restored also when the block raises.

    Args:
        n_threads: at least 1; None leaves FAISS as it is.

    Raises:
        ConfigError: `n_threads` is not a positive integer.
    """
    if n_threads is None:
        yield
        return
    from bitcodec.arguments import check_count  # it imports torch

    wanted = check_count(n_threads, name="n_threads")
    faiss = load_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(wanted)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def view(pointer: object, n_values: int, *, dtype: type[np.generic]) -> np.ndarray:
    """Look at FAISS's own memory without copying it.

    The view is valid only until the index changes: use it within one call.

    Args:
        pointer: a SWIG pointer to the values; may be null when `n_values` is 0.
        n_values: how many values it points to.
        dtype: their type, for the empty case.

    Returns:
        (n_values,) array.
    """
    if n_values == 0:
        return np.empty(0, dtype=dtype)
    values: np.ndarray = load_faiss().rev_swig_ptr(pointer, n_values)
    return values


def mapped_ids(id_map: Any) -> np.ndarray:
    """Look at the (n,) int64 ids of an `IndexBinaryIDMap`."""
    return view(id_map.id_map.data(), id_map.ntotal, dtype=np.int64)


def flat_codes(flat: Any) -> np.ndarray:
    """Look at the (n, row_bytes) uint8 rows of an `IndexBinaryFlat`."""
    n_bytes = flat.ntotal * flat.code_size
    return view(flat.xb.data(), n_bytes, dtype=np.uint8).reshape(-1, flat.code_size)
