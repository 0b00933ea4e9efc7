"""Learned binary codes for LLM hidden states: small, searchable where they lie, readable.

>>> from bitcodec import BitCodec
>>> codec = BitCodec(expansion=4)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bitcodec import errors
from bitcodec.errors import BitcodecError

if TYPE_CHECKING:
    from bitcodec.codec import BitCodec
    from bitcodec.feature_sets import FeatureSets
    from bitcodec.metrics import Evaluation
    from bitcodec.report import Report, ReportSettings
    from bitcodec.row_texts import TokenTexts
    from bitcodec.statistics import BitStatistics
    from bitcodec.training import TrainingRecord

__version__ = "0.1.0"
__all__ = [
    "BitCodec",
    "BitStatistics",
    "BitcodecError",
    "Evaluation",
    "FeatureSets",
    "Report",
    "ReportSettings",
    "TokenTexts",
    "TrainingRecord",
    "errors",
]

# Imported on first use: torch takes seconds, and `bitcodec info` does not need it.
_LAZY = {
    "BitCodec": "bitcodec.codec",
    "BitStatistics": "bitcodec.statistics",
    "Evaluation": "bitcodec.metrics",
    "FeatureSets": "bitcodec.feature_sets",
    "Report": "bitcodec.report",
    "ReportSettings": "bitcodec.report",
    "TokenTexts": "bitcodec.row_texts",
    "TrainingRecord": "bitcodec.training",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module 'bitcodec' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
