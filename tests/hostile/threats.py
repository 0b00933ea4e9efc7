"""Hostile files, one a threat: how each is made of a valid artefact, and how it is refused.

`python -m tests.hostile.threats FOLDER` makes the files of `tests/hostile/files`, with right
checksums wherever an attacker could give them.
"""

from __future__ import annotations

import base64
import json
import pickle
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.numpy import load, save

from bitcodec.probability import digest_of
from tests.artefacts import ARTEFACTS, N_BITS
from tests.fuzz.mutations import Files
from tests.fuzz.sealing import seal
from tests.fuzz.trial import put, take


@dataclass(frozen=True)
class Threat:
    """A way to attack a reader."""

    artefact: str
    """The format, a key of `ARTEFACTS`."""
    change: Callable[[Files], None]
    """Makes a valid artefact hostile."""
    refusal: str
    """What its refusal says, a pattern."""


def _json(files: Files, name: str, **changes: Any) -> None:
    files[name] = json.dumps(json.loads(files[name]) | changes).encode()


def _text(files: Files, name: str, old: bytes, new: bytes) -> None:
    assert old in files[name]
    files[name] = files[name].replace(old, new, 1)


def _tensor(files: Files, name: str, value: float) -> None:
    tensors = load(files["model.safetensors"])
    tensors[name].flat[0] = value
    files["model.safetensors"] = save(tensors)


def _npy(files: Files, descr: str, shape: str, content: bytes = b"") -> None:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}"
    text = header.encode().ljust(117) + b"\n"
    files["codes.npy"] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def _put(files: Files, name: str, place: int, form: str, value: int) -> None:
    content = bytearray(files[name])
    struct.pack_into(form, content, place % len(content), value)
    files[name] = bytes(content)


def _pickle(files: Files) -> None:
    _npy(files, "|O", "(24, 2)", pickle.dumps([print] * 48))


def _shard_index(files: Files) -> None:
    # The length of the first chunk of the first shard; the sealer gives the index its CRC.
    _put(files, "c/0/0", -(2 * 16 + 4) + 8, "<Q", 2**62)


def _bomb(files: Files) -> None:
    size = 2 * N_BITS * (N_BITS + 1)
    zeros = zlib.compress(bytes(size) + bytes(2**26), 9)
    body = struct.pack("<4sHHI", b"bptc", 1, 0, N_BITS) + zeros
    table = body + digest_of(body)
    content = bytearray(files[""])
    (old,) = struct.unpack_from("<I", content, 20)
    content[48 : 48 + old] = table
    struct.pack_into("<I", content, 20, len(table))
    files[""] = bytes(content)


def _zero_probability(files: Files) -> None:
    # The weight of the first profile, and the level of its first bit, which ends at 254.
    _put(files, "", 48 + 12, "<H", 0)
    _put(files, "", 48 + 14, "<B", 255)


def _zarr(files: Files, change: Callable[[dict[str, Any]], None]) -> None:
    header = json.loads(files["zarr.json"])
    change(header)
    files["zarr.json"] = json.dumps(header).encode()


def _zarr_table(header: dict[str, Any]) -> None:
    inner = header["codecs"][0]["configuration"]["codecs"][0]["configuration"]
    inner["table"] = base64.b64encode(b"bptb" + struct.pack("<HHI", 1, 256, 2**32 - 1)).decode()


def _zarr_codec(header: dict[str, Any]) -> None:
    inner = header["codecs"][0]["configuration"]["codecs"]
    inner[0] = {"name": "numcodecs.pickle", "configuration": {"protocol": 5}}


_DEEP = b'{"format": ' + b"[" * 20_000
_LINK = -(len(b"IBxF") + 29 + 8 + 24 * 2 + 8 + 24 * 8 + 20 + 4)  # the last link of an HNSW
THREATS = {
    "npy-elements-without-size": Threat(
        "packed", partial(_npy, descr="<U0", shape="(-1,)", content=bytes(48)), "are no numbers"
    ),
    "npy-shape-that-overflows": Threat(
        "packed", partial(_npy, descr="|u1", shape=f"({2**62}, {2**62})"), "it must have"
    ),
    "npy-length-that-lies": Threat(
        "packed", partial(_npy, descr="|u1", shape=f"({10**10}, 2)"), "it must have"
    ),
    "npy-with-pickle": Threat("packed", _pickle, "are no numbers"),
    "npy-stream-without-size": Threat(
        "npy-stream", partial(_text, name="", old=b"'<f4'", new=b"'<U0'"), "are no numbers"
    ),
    "safetensors-length-that-lies": Threat(
        "codec",
        partial(_put, name="model.safetensors", place=0, form="<Q", value=2**60),
        "not a whole safetensors",
    ),
    "safetensors-offsets-beyond-the-end": Threat(
        "codec",
        partial(_text, name="model.safetensors", old=b"[0,", new=b"[9,"),
        "not a whole safetensors",
    ),
    "weights-not-a-number": Threat(
        "codec",
        partial(_tensor, name="encoder_weight", value=float("nan")),
        "encoder_weight must be finite",
    ),
    "negative-scale": Threat("codec", partial(_tensor, name="scale", value=-1.0), "negative scale"),
    "key-twice": Threat(
        "codec",
        partial(_text, name="config.json", old=b"{", new=b'{"n_bits": 99,'),
        "has a key twice",
    ),
    "deep-json": Threat("codec", lambda f: f.update({"config.json": _DEEP}), "not valid JSON"),
    "huge-integer": Threat(
        "codec",
        partial(_text, name="config.json", old=b'"n_bits": 11', new=b'"n_bits": ' + b"9" * 5000),
        "not valid JSON",
    ),
    "large-integer": Threat("codec", partial(_json, name="config.json", n_rows=10**400), "range"),
    "shape-that-overflows": Threat(
        "codec",
        partial(_json, name="config.json", n_bits=2**40, n_dims=2**40),
        "encoder_weight must be",
    ),
    "entropy-not-a-number": Threat(
        "codec", partial(_json, name="config.json", entropy_bits=float("inf")), "out of range"
    ),
    "probability-zero": Threat("compressed", _zero_probability, "table is invalid"),
    "rows-that-lie": Threat(
        "compressed", partial(_put, name="", place=24, form="<Q", value=2**40), "end within"
    ),
    "zlib-bomb": Threat("compressed-context", _bomb, "context table does not hold"),
    "feature-rows-that-lie": Threat(
        "features", partial(_put, name="", place=16, form="<Q", value=2**60), "must have"
    ),
    "features-that-lie": Threat(
        "features", partial(_put, name="", place=12, form="<I", value=2**32 - 1), "must have"
    ),
    "chunk-length-that-lies": Threat("archive", _shard_index, "chunks outside itself"),
    "archive-rows-that-lie": Threat(
        "archive", partial(_zarr, change=lambda z: z.update(shape=[2**50, 6])), "has lost"
    ),
    "archive-rows-that-overflow": Threat(
        "archive", partial(_zarr, change=lambda z: z.update(shape=[2**64, 6])), "n_rows must be"
    ),
    "archive-table-that-lies": Threat("archive", partial(_zarr, change=_zarr_table), "takes"),
    "archive-with-pickle": Threat("archive", partial(_zarr, change=_zarr_codec), "archive"),
    "faiss-length-that-lies": Threat(
        "index-flat", partial(_put, name="index.faiss", place=50, form="<Q", value=2**40), "says"
    ),
    "faiss-link-outside": Threat(
        "index-hnsw",
        partial(_put, name="index.faiss", place=_LINK - 25, form="<i", value=10**6),
        "damaged or foreign",
    ),
    "faiss-more-lists-than-centroids": Threat(
        "index-ivf",
        partial(_put, name="index.faiss", place=29, form="<Q", value=2**30),
        "number of lists",
    ),
    "shard-outside-the-folder": Threat(
        "harvest",
        partial(_text, name="harvest.json", old=b'"number": 1', new=b'"number": "../../x"'),
        "is damaged",
    ),
    "document-beyond-the-end": Threat(
        "harvest", partial(_json, name="harvest.json", documents_bytes=2**47), "must hold"
    ),
    "parameters-of-another-type": Threat(
        "checkpoint",
        partial(_text, name="", old=b'\\"n_bits\\": 11', new=b'\\"n_bits\\": []'),
        "n_bits must be a whole number",
    ),
    "report-number-that-overflows": Threat(
        "report",
        partial(_text, name="", old=b'"fvu":0.25', new=b'"fvu":' + b"9" * 400),
        "must be a number",
    ),
}


def hostile(name: str) -> Files:
    """Make the files of a threat."""
    threat = THREATS[name]
    with tempfile.TemporaryDirectory() as folder:
        ARTEFACTS[threat.artefact].write(Path(folder) / "artefact")
        files = take(Path(folder) / "artefact")
    threat.change(files)
    return seal(threat.artefact, files) if name != "key-twice" else files


def main(folder: Path) -> None:
    """Write the files of every threat."""
    for name in THREATS:
        put(folder / name, {f"artefact/{file}".rstrip("/"): x for file, x in hostile(name).items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
