"""A harvest folder as it is written.

hidden/harvest.json                    the manifest, rewritten after every shard
hidden/documents.jsonl                 {"id", "text"} a line, in the order they were read
hidden/layer-15/00000.safetensors      "hidden" (n, d); or 00000.npy and 00000.npy.json
hidden/rows/00000.safetensors          "document" int64; "token_id", "position", "start", "end"
                                       int32, each (n,)

The files of tensors hold checksums of their rows, see `bitcodec.checksums`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from bitcodec.checksums import checksums_file, metadata_of, write_checksums
from bitcodec.errors import FileError, FormatError, MismatchError
from bitcodec.files import atomic_path
from bitcodec.locks import writing_alone
from bitcodec_transformers.documents import Document
from bitcodec_transformers.manifest import MANIFEST_FILE, Counts, Manifest, Shard, load_manifest
from bitcodec_transformers.windows import RowTable

DOCUMENTS_FILE = "documents.jsonl"
ROWS_FOLDER = "rows"


def layer_folder(folder: Path, layer: int) -> Path:
    """Give the folder of one layer's shards."""
    return folder / f"layer-{layer}"


def rows_file(folder: Path, number: int) -> Path:
    """Give the file with the row table of one shard."""
    return folder / ROWS_FOLDER / f"{number:05d}.safetensors"


class HarvestFolder:
    """The output of a harvest: started, found half-done, or found complete.

    Nothing is created before the first unit is saved.

    Args:
        folder: the output folder; its parent must exist.
        wanted: a manifest without shards, of the harvest that is asked for.

    Raises:
        FileError: `folder` holds something else, or a complete harvest of another kind.
        MismatchError: `folder` holds an unfinished harvest of another kind.
        FormatError: `folder` holds a damaged harvest.
    """

    def __init__(self, folder: Path, wanted: Manifest) -> None:
        self.folder = folder
        self._wanted = wanted
        self.manifest = self._find(wanted)

    @contextlib.contextmanager
    def writing_alone(self) -> Iterator[None]:
        """Keep other processes from this harvest, and look again at what there is of it.

        Raises:
            FileError: another process is at it, or the folder cannot be written to.
        """
        with contextlib.ExitStack() as stack:
            with _writing(self.folder):
                stack.enter_context(writing_alone(self.folder))
                self.manifest = self._find(self._wanted)
                _remove_leavings(self.folder)
            yield

    def _find(self, wanted: Manifest) -> Manifest:
        folder = self.folder
        if not folder.parent.is_dir():
            raise FileError(f"the folder {folder.parent} does not exist: create it first")
        if (folder / MANIFEST_FILE).is_file():
            manifest = load_manifest(folder)
            _check_same_harvest(folder, manifest, wanted)
            _check_files(folder, manifest)
            return manifest
        if folder.exists() and (not folder.is_dir() or _holds_something(folder)):
            raise FileError(
                f"{folder} exists and is no harvest: choose another output folder or remove it"
            )
        return wanted

    def save_unit(
        self,
        hidden: dict[int, torch.Tensor],
        rows: RowTable,
        *,
        counts: Counts,
        documents: Sequence[Document],
        documents_sha256: str,
        median_norms: dict[int, float],
    ) -> None:
        """Write one unit and then the manifest that knows it.

        Args:
            hidden: for each layer (n, d), finite.
            rows: n rows.
            counts: the unit's counts.
            documents: the documents first read for this unit.
            documents_sha256: digest of all documents so far.
            median_norms: of the first unit.
        """
        number = len(self.manifest.shards)
        if number == 0:
            self._begin()
        for layer, states in hidden.items():
            self._save_states(layer, number, states)
        columns = {name: torch.from_numpy(column) for name, column in rows.columns().items()}
        _save_tensors(rows_file(self.folder, number), columns)
        shard = Shard(number, len(rows), documents_sha256)
        self._record(
            counts,
            documents,
            documents_sha256=documents_sha256,
            median_norms=median_norms,
            shards=(*self.manifest.shards, shard),
        )

    def finish(
        self, *, counts: Counts, documents: Sequence[Document], documents_sha256: str
    ) -> None:
        """Record documents that gave no rows and mark the harvest complete."""
        self._record(counts, documents, documents_sha256=documents_sha256, complete=True)

    def _begin(self) -> None:
        folders = [layer_folder(self.folder, i) for i in self.manifest.settings.layers]
        with _writing(self.folder):
            self.folder.mkdir(exist_ok=True)
            self.manifest.save(self.folder)  # first: a folder without it is no harvest
            for folder in [*folders, self.folder / ROWS_FOLDER]:
                folder.mkdir(exist_ok=True)

    def _save_states(self, layer: int, number: int, states: torch.Tensor) -> None:
        kind = self.manifest.settings.file_format
        path = layer_folder(self.folder, layer) / f"{number:05d}.{kind}"
        if kind == "safetensors":
            _save_tensors(path, {"hidden": states})
            return
        with atomic_path(path, overwrite=True) as temporary, temporary.open("wb") as file:
            np.save(file, states.numpy())
            # Old checksums must not be found beside new rows if we are stopped here.
            checksums_file(path).unlink(missing_ok=True)
        write_checksums(path, states)

    def _record(self, counts: Counts, documents: Sequence[Document], **changes: object) -> None:
        n_bytes, crc32 = self._append_documents(documents)
        self.manifest = dataclasses.replace(
            self.manifest,
            counts=self.manifest.counts + counts,
            documents_bytes=n_bytes,
            documents_crc32=crc32,
            **changes,  # type: ignore[arg-type]
        )
        self.manifest.save(self.folder)

    def _append_documents(self, documents: Sequence[Document]) -> tuple[int, int | None]:
        """Append lines after the last recorded one, over what an interruption left there.

        Returns:
            The length of the file, and its CRC-32; None where the harvest began without one.
        """
        path = self.folder / DOCUMENTS_FILE
        crc32 = self.manifest.documents_crc32 if self.manifest.documents_bytes else 0
        with _writing(path), _opened_in_place(path) as file:
            file.truncate(self.manifest.documents_bytes)
            file.seek(0, os.SEEK_END)
            for document in documents:
                line = json.dumps(document._asdict(), ensure_ascii=False).encode("utf-8") + b"\n"
                file.write(line)
                crc32 = None if crc32 is None else zlib.crc32(line, crc32)
            return file.tell(), crc32


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"cannot write {path}: {error.strerror}") from error


def _opened_in_place(path: Path) -> BinaryIO:
    """Open a file to be changed, or a new one; a link may lead to what is not ours."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    return os.fdopen(descriptor, "r+b")


def _save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with atomic_path(path, overwrite=True) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(tensors, temporary, metadata=metadata_of(tensors))
        except SafetensorError as error:
            raise FileError(f"cannot write {path}: {error}") from error
        # safetensors makes files that only their owner may read.
        temporary.chmod(mode)


def _check_same_harvest(folder: Path, found: Manifest, wanted: Manifest) -> None:
    difference = _difference(found, wanted)
    if difference and found.complete:
        raise FileError(
            f"{folder} exists and holds a harvest with another {difference}: choose another "
            "output folder or remove it"
        )
    if difference:
        raise MismatchError(
            f"{folder} holds an unfinished harvest with another {difference}: repeat the same "
            "call to resume it, or remove the folder"
        )


def _difference(found: Manifest, wanted: Manifest) -> str | None:
    """Name the first thing in which two harvests differ."""
    theirs, ours = found.settings.to_json(), wanted.settings.to_json()
    for key in ours:
        if theirs[key] != ours[key]:
            return f"{key} ({theirs[key]}, not {ours[key]})"
    if found.model.get("digest") != wanted.model["digest"]:
        return f"model ({found.model.get('name')}, not {wanted.model['name']}, or changed)"
    return None


_LEAVINGS = (".*.partial", ".*.lock")
"""Names of files that a killed process leaves."""


def _holds_something(folder: Path) -> bool:
    """Say whether a folder holds more than what a process leaves that is killed as it begins."""
    return any(not any(map(path.match, _LEAVINGS)) for path in folder.iterdir())


def _remove_leavings(folder: Path) -> None:
    """Remove temporary files that a killed process could not."""
    for pattern in _LEAVINGS:
        for leaving in folder.rglob(pattern):
            leaving.unlink(missing_ok=True)


def _check_files(folder: Path, manifest: Manifest) -> None:
    kind = manifest.settings.file_format
    layers = [layer_folder(folder, layer) for layer in manifest.settings.layers]
    for shard in manifest.shards:
        hidden = [layer / f"{shard.number:05d}.{kind}" for layer in layers]
        for file in [rows_file(folder, shard.number), *hidden]:
            if not file.is_file():
                raise FormatError(
                    f"{file} is missing from the harvest: remove {folder} and harvest again"
                )
    documents = folder / DOCUMENTS_FILE
    size = documents.stat().st_size if documents.is_file() else 0
    if size < manifest.documents_bytes:
        raise FormatError(f"{documents} is truncated: remove {folder} and harvest again")
