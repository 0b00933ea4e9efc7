"""DataTables, the table library of the page, as it comes in the Python package itables."""

from __future__ import annotations

import re
from importlib import resources

from bitcodec.errors import FormatError
from bitcodec.extras import import_extra

_EXPORTS = re.compile(r"export\{[^}]*\bas default\b[^}]*\}")


def table_library() -> str:
    """Return the JavaScript module whose default export is DataTables, licence notices included.

    Raises:
        MissingExtraError: itables is not installed.
        FormatError: this itables ships it in another way.
    """
    itables = import_extra("itables", extra="report")
    file = resources.files(itables) / "html" / "dt_bundle.js"
    source = file.read_text(encoding="utf-8") if file.is_file() else ""
    if "DataTables" not in source or not _EXPORTS.search(source):
        raise FormatError(
            f"itables {itables.__version__} does not ship DataTables as html/dt_bundle.js: "
            "install itables 2.9"
        )
    return source


def licence_notices(source: str) -> str:
    """Return the licence notices that stand in the library's source."""
    notices = re.findall(r"/\*!.*?\*/", source, flags=re.DOTALL)
    return "\n\n".join(notice.strip("/*! \n") for notice in notices)
