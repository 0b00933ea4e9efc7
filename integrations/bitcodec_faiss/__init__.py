"""Search bitcodec's packed codes with FAISS, without decoding them.

>>> from bitcodec_faiss import HammingIndex
>>> HammingIndex.__name__
'HammingIndex'

Modules are imported on first use, and so is FAISS: a missing one names the extra that installs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitcodec.protocol import Codec, ScoringCodec
    from bitcodec.search_results import MISSING_ID, MISSING_SCORE, RangeResult, SearchResult
    from bitcodec_faiss.asymmetric import AsymmetricIndex
    from bitcodec_faiss.hamming import HammingIndex
    from bitcodec_faiss.index_files import IndexHeader
    from bitcodec_faiss.opening import load_index, read_index_header
    from bitcodec_faiss.packed_index import PackedIndex

__all__ = [
    "MISSING_ID",
    "MISSING_SCORE",
    "AsymmetricIndex",
    "Codec",
    "HammingIndex",
    "IndexHeader",
    "PackedIndex",
    "RangeResult",
    "ScoringCodec",
    "SearchResult",
    "load_index",
    "read_index_header",
]

_HOMES = {
    "bitcodec.protocol": ("Codec", "ScoringCodec"),
    "bitcodec.search_results": ("MISSING_ID", "MISSING_SCORE", "RangeResult", "SearchResult"),
    "bitcodec_faiss.asymmetric": ("AsymmetricIndex",),
    "bitcodec_faiss.hamming": ("HammingIndex",),
    "bitcodec_faiss.index_files": ("IndexHeader",),
    "bitcodec_faiss.opening": ("load_index", "read_index_header"),
    "bitcodec_faiss.packed_index": ("PackedIndex",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
