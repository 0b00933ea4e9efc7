"""A report as one HTML page that needs no server and no network.

>>> from bitcodec_html import write_page
>>> write_page(report, "report.html")  # doctest: +SKIP

The page holds the whole report: an overview with plots, a list of the features, a view of each with
its contexts, and texts that were encoded when it was made. jinja2 fills its template, matplotlib
draws its plots, and its list is the DataTables that comes in itables; all three are imported on
first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitcodec_html.effects import TokenEffects
    from bitcodec_html.names import FeatureNames
    from bitcodec_html.page import check_page, page_html, write_page
    from bitcodec_html.texts import EncodedText, encoded_texts

__all__ = [
    "EncodedText",
    "FeatureNames",
    "TokenEffects",
    "check_page",
    "encoded_texts",
    "page_html",
    "write_page",
]

_HOME_OF = {
    "EncodedText": "texts",
    "FeatureNames": "names",
    "TokenEffects": "effects",
    "check_page": "page",
    "encoded_texts": "texts",
    "page_html": "page",
    "write_page": "page",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
