"""Optional dependencies, imported on first use."""

from __future__ import annotations

import importlib
from types import ModuleType

from bitcodec.errors import MissingExtraError


def import_extra(module: str, *, extra: str) -> ModuleType:
    """Import a module that belongs to an optional extra.

    Args:
        module: the module's import name, for example `"faiss"`.
        extra: the bitcodec extra that installs it, for example `"faiss"`.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: the module is not installed; the message names the fix.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise MissingExtraError(
            f"{module} is not installed: run `pip install 'bitcodec[{extra}]'`"
        ) from error
