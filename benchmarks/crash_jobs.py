"""What `benchmarks.crashes` kills: five jobs, each with an old state and a new one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitcodec import BitCodec
from bitcodec.storage import PackedWriter, open_packed
from bitcodec_faiss import HammingIndex, load_index
from bitcodec_transformers import LanguageModel, harvest
from bitcodec_zarr import PackedArchive, open_archive

N_OLD = 300
"""Rows that are there before a job begins."""
DOCUMENTS = [f"Document {number}: the {number}th text of some words." for number in range(12)]


@dataclass(frozen=True)
class Material:
    """What jobs work on, made before anything is killed."""

    hidden: np.ndarray
    """(n, d) float32, real hidden states."""
    codec: BitCodec
    """Fitted on them."""
    other: BitCodec
    """Another codec of the same size, whose files are there before."""
    model: LanguageModel | None
    """For the harvest."""


@dataclass(frozen=True)
class Job:
    """Work on a folder that may be stopped anywhere, and done again."""

    name: str
    """Of the job."""
    prepare: Callable[[Material, Path], None]
    """Makes the old state."""
    run: Callable[[Material, Path], None]
    """Does the work, from the old state or from what a stop left."""
    state: Callable[[Material, Path], str]
    """What a reader finds, as a digest."""


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of all files by name, without what tells the time.

    The state of a training is left out: it says how many seconds each step took.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name != "fit.state":
            found[name] = _timeless(path)
        elif path.is_dir():
            found[name] = b""
    return found


def _timeless(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name == "config.json":
        told = json.loads(content)
        told["training"].pop("seconds")
        told.pop("seal")  # of all of it
        content = json.dumps(told).encode()
    return content


def _digest(*parts: object) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else str(part).encode())
    return digest.hexdigest()


# fit


def _save_other(material: Material, folder: Path) -> None:
    material.other.save(folder / "codec")


def _fit(material: Material, folder: Path) -> None:
    codec = BitCodec(n_bits=32, n_steps=40, batch_size=128, refine="none", device="cpu")
    codec.fit(material.hidden[:1200], checkpoint=folder / "fit.state", checkpoint_every=5)
    codec.save(folder / "codec", overwrite=True)


def _codec_state(material: Material, folder: Path) -> str:
    return BitCodec.load(folder / "codec").fingerprint_


# encode


def _write_codes(codec: BitCodec, hidden: np.ndarray, folder: Path) -> None:
    with PackedWriter(
        folder / "codes.npy", n_bits=codec.n_bits_, fingerprint=codec.fingerprint_, overwrite=True
    ) as writer:
        for packed in codec.encode_batches(hidden, batch_size=100):
            writer.append(packed)


def _encode_old(material: Material, folder: Path) -> None:
    _write_codes(material.other, material.hidden, folder)


def _encode(material: Material, folder: Path) -> None:
    _write_codes(material.codec, material.hidden, folder)


def _codes_state(material: Material, folder: Path) -> str:
    header, packed = open_packed(folder / "codes.npy")
    maker = {codec.fingerprint_: codec for codec in (material.codec, material.other)}
    # Codes that are not those of the codec their header names would be neither old nor new.
    wanted = maker[header.fingerprint].encode(material.hidden[:50])
    assert np.array_equal(packed[:50], wanted), "the header is another codec's"
    return _digest(header, packed[:])


# archive


def _create_archive(material: Material, folder: Path) -> None:
    archive = PackedArchive.create(
        folder / "codes.zarr", material.codec, chunk_rows=16, shard_rows=128
    )
    archive.append(material.codec.encode(material.hidden[:N_OLD]))


def _append(material: Material, folder: Path) -> None:
    archive = open_archive(folder / "codes.zarr", mode="r+")
    missing = material.hidden[len(archive) :]
    archive.append(material.codec.encode_batches(missing, batch_size=100))


def _archive_state(material: Material, folder: Path) -> str:
    archive = open_archive(folder / "codes.zarr")
    return _digest(len(archive), archive[0 : len(archive)])


# index


def _save_index(material: Material, folder: Path) -> None:
    index = HammingIndex(material.codec)
    index.add(material.hidden[:N_OLD])
    index.save(folder / "index")


def _grow_index(material: Material, folder: Path) -> None:
    index = load_index(folder / "index", material.codec)
    index.add(material.hidden[len(index) :])
    index.save(folder / "index", overwrite=True)


def _index_state(material: Material, folder: Path) -> str:
    index = load_index(folder / "index", material.codec)
    return _digest(index.ids, index.reconstruct_packed(index.ids))


# harvest


def _nothing(material: Material, folder: Path) -> None:
    """Begin with an empty folder."""


def _harvest(material: Material, folder: Path) -> None:
    assert material.model is not None
    harvest(
        DOCUMENTS,
        model=material.model,
        layers=[2, 5],
        output=folder / "hidden",
        context_length=16,
        shard_rows=40,
        batch_tokens=64,
    )


def _harvest_state(material: Material, folder: Path) -> str:
    manifest = folder / "hidden" / "harvest.json"
    told: dict[str, Any] = json.loads(manifest.read_text()) if manifest.is_file() else {}
    if not told.get("complete"):
        return "incomplete"
    hidden = files_of(folder)  # a lock of a dead process is no file that a reader looks at
    return _digest(*(item for item in hidden.items() if not Path(item[0]).name.startswith(".")))


JOBS = (
    Job("fit", _save_other, _fit, _codec_state),
    Job("encode", _encode_old, _encode, _codes_state),
    Job("archive append", _create_archive, _append, _archive_state),
    Job("index save", _save_index, _grow_index, _index_state),
    Job("harvest", _nothing, _harvest, _harvest_state),
)
