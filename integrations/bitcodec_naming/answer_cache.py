"""Replies of an endpoint on disk, so that a question is paid for once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from bitcodec.errors import FormatError
from bitcodec.files import PathLike, read_json, write_json


class AnswerCache:
    """A folder with a JSON file for each reply, named by the SHA-256 of its request.

    Args:
        folder: is made where it is missing.
    """

    def __init__(self, folder: PathLike) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)

    def get(self, request: dict[str, Any]) -> str | None:
        """Return the reply to a request, None if it is not kept.

        Args:
            request: everything that the reply depends on, as JSON.

        Raises:
            FormatError: the file is damaged or holds another request.
        """
        path = self._path(request)
        if not path.is_file():
            return None
        content = read_json(path)
        reply = content.get("reply")
        if content.get("request") != request or not isinstance(reply, str):
            raise FormatError(f"{path} is no reply to this request: remove it to ask again")
        return reply

    def put(self, request: dict[str, Any], reply: str) -> None:
        """Keep the reply to a request; the file appears whole or not at all."""
        write_json(self._path(request), {"request": request, "reply": reply}, overwrite=True)

    def _path(self, request: dict[str, Any]) -> Path:
        text = json.dumps(request, sort_keys=True, ensure_ascii=False)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
