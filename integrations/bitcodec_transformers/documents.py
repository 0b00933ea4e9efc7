"""Texts to harvest: from strings, from files, or from Python's own manual."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bitcodec.errors import ConfigError, FileError, FormatError, ValueRangeError
from bitcodec.files import PathLike

_SUFFIXES = (".txt", ".jsonl")
_FORMS = "a str, an (id, text) pair or a dict with 'text' and perhaps 'id'"


class Document(NamedTuple):
    """One text and the name it goes by."""

    id: str
    text: str


def iterate_documents(documents: Iterable[Any]) -> Iterator[Document]:
    """Bring documents of any accepted form into one, lazily.

    Args:
        documents: each item is a str, an (id, text) pair, or a mapping with `text` and
            perhaps `id`. A document without an id is called by its number, from 0.

    Yields:
        The documents in order.

    Raises:
        ConfigError: `documents` is a single str, or an item has another form.
        ValueRangeError: a text cannot be written as UTF-8.
    """
    if isinstance(documents, str | bytes | Mapping):
        raise ConfigError(
            f"documents must be an iterable of documents, got one {type(documents).__name__}: "
            "put it in a list, or use read_documents(path) for files"
        )
    for number, item in enumerate(documents):
        document = _as_document(item, number)
        _check_encodable(document)
        yield document


def read_documents(path: PathLike) -> Iterator[Document]:
    """Read the documents of a file or of all files in a folder, one at a time.

    Args:
        path: a .txt file (one document, its name is the id), a .jsonl file (one object a line
            with `text` and perhaps `id` or `_id`), or a folder with such files at any depth;
            files of a folder are read in name order, other kinds are left out.

    Returns:
        An iterator over the documents.

    Raises:
        FileError: there is no such path, or a folder has no such file.
        FormatError: a file is of another kind, not UTF-8, or a line is not as described.
    """
    root = Path(path)
    if not root.exists():
        raise FileError(f"there is no file or folder {root}")
    files = _text_files(root) if root.is_dir() else [root]
    if not files:
        raise FileError(f"the folder {root} holds no .txt or .jsonl file")
    if files[0].suffix not in _SUFFIXES:
        raise FormatError(f"{root} must be a .txt or .jsonl file or a folder of them")
    base = root if root.is_dir() else root.parent
    return _documents_of(files, base)


def pydoc_topics() -> list[Document]:
    """Give the texts behind Python's own `help()`: about half a megabyte of English.

    Returns:
        The documents in order of their topic, which is their id.

    Raises:
        FileError: this Python was installed without `pydoc_data`.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise FileError(
            "this Python has no pydoc_data texts: give documents of your own, "
            "or install Python's full standard library"
        ) from error
    return [Document(name, text) for name, text in sorted(topics.items())]


def _as_document(item: Any, number: int) -> Document:
    if isinstance(item, str):
        return Document(str(number), item)
    if isinstance(item, Mapping):
        identity, text = item.get("id", number), item.get("text")
    elif isinstance(item, tuple | list) and len(item) == 2:
        identity, text = item
    else:
        raise ConfigError(f"document {number} must be {_FORMS}, got {type(item).__name__}")
    if not isinstance(text, str) or not isinstance(identity, str | int):
        raise ConfigError(
            f"document {number} must be {_FORMS}, got an id of type {type(identity).__name__} "
            f"and a text of type {type(text).__name__}"
        )
    return Document(str(identity), text)


def _check_encodable(document: Document) -> None:
    try:
        (document.id + document.text).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueRangeError(
            f"document {document.id!r} holds half a character (a lone surrogate) at "
            f"position {error.start}: clean it with text.encode('utf-8', 'replace').decode()"
        ) from error


def _text_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES and path.is_file())


def _documents_of(files: list[Path], base: Path) -> Iterator[Document]:
    for file in files:
        name = file.relative_to(base).as_posix()
        if file.suffix == ".txt":
            yield Document(name, _read_text(file))
        else:
            yield from _jsonl_documents(file, name)


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(file, error) from error


def _jsonl_documents(file: Path, name: str) -> Iterator[Document]:
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _jsonl_document(line, place=f"{name}:{number}")
    except UnicodeDecodeError as error:
        raise _not_utf8(file, error) from error


def _jsonl_document(line: str, *, place: str) -> Document:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise FormatError(f"{place} is not JSON ({error}): expected one object a line") from error
    if not isinstance(content, dict) or not isinstance(content.get("text"), str):
        raise FormatError(f"{place} must be a JSON object with a string 'text'")
    identity = content.get("id", content.get("_id", place))
    return Document(str(identity), content["text"])


def _not_utf8(file: Path, error: UnicodeDecodeError) -> FormatError:
    return FormatError(f"{file} is not UTF-8 text (byte {error.start}): convert it first")
