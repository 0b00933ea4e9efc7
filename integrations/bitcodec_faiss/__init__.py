"""Search bitcodec's packed codes with FAISS, without decoding them.

>>> from bitcodec_faiss import HammingIndex
>>> HammingIndex.__name__
'HammingIndex'

FAISS itself is imported on first use, and a missing one names the extra that installs it.
"""

from bitcodec_faiss.hamming import HammingIndex
from bitcodec_faiss.protocol import Codec
from bitcodec_faiss.results import MISSING_ID, MISSING_SCORE, RangeResult, SearchResult

__all__ = [
    "MISSING_ID",
    "MISSING_SCORE",
    "Codec",
    "HammingIndex",
    "RangeResult",
    "SearchResult",
]
