"""Right checksums on wrong files, so that a fuzzer gets past them as an attacker would."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import zlib
from typing import Any

import google_crc32c
import numpy as np
from safetensors.numpy import load
from safetensors.torch import load as load_torch
from safetensors.torch import save as save_torch

from bitcodec import checkpoints, feature_set_file, range_coding
from bitcodec.block_hashes import BlockHasher
from bitcodec.checksums import BlockChecksums, metadata_of
from bitcodec.errors import BitcodecError
from bitcodec.probability import DIGEST_BYTES, digest_of
from bitcodec.sealed_json import SEAL, sealed
from bitcodec.storage import fingerprint
from bitcodec.tables import read_table
from bitcodec_zarr.metadata import ArchiveHeader
from tests.fuzz.mutations import Files

_INDEX_BYTES = 16 * 2 + 4  # of a shard of two chunks, as `tests.artefacts` writes them


def seal(name: str, files: Files) -> Files:
    """Give the files of an artefact the checksums that fit them, where they can be told."""
    kind = name.split("-")[0]
    sealer = _SEALERS.get(kind)
    sealed = dict(files)
    try:
        if sealer is not None:
            sealer(sealed)
    except Exception:  # too broken to have a checksum
        return files
    return sealed


def _sealed(content: dict[str, Any]) -> bytes:
    # Without looking at the version: an attacker would not either.
    content = {key: value for key, value in content.items() if key != SEAL}
    return json.dumps(sealed(content)).encode()


def _seal_codec(files: Files) -> None:
    header = json.loads(files["config.json"])
    header["fingerprint"] = fingerprint(load(files["model.safetensors"]))
    files["config.json"] = _sealed(header)


def _seal_packed(files: Files) -> None:
    header = json.loads(files["codes.npy.json"])
    hasher = BlockHasher(header["block_rows"])
    hasher.update(np.load(io.BytesIO(files["codes.npy"])))
    header["block_sha256"] = hasher.finish().digits
    files["codes.npy.json"] = _sealed(header)


def _seal_index(files: Files) -> None:
    header = json.loads(files["index.json"])
    content = files["index.faiss"]
    header |= {"file_bytes": len(content), "file_sha256": _sha256(content)}
    if "side.npy" in files:
        side = files["side.npy"]
        header |= {"side_file_bytes": len(side), "side_sha256": _sha256(side)}
    files["index.json"] = _sealed(header)


def _seal_checkpoint(files: Files) -> None:
    tensors = load_torch(files[""])
    (size,) = struct.unpack_from("<Q", files[""])
    inside = json.loads(files[""][8 : 8 + size])["__metadata__"]["bitcodec_training"]
    header = json.loads(inside) | {"tensors_sha256": checkpoints._sha256_of(tensors)}
    files[""] = save_torch(tensors, {"bitcodec_training": _sealed(header).decode()})


def _seal_harvest(files: Files) -> None:
    for path, content in list(files.items()):
        if path.endswith(".safetensors"):
            tensors = load_torch(content)
            files[path] = save_torch(tensors, metadata_of(tensors))
        elif path.endswith(".npy"):
            beside = json.loads(files[path + ".json"])
            beside["crc32"]["hidden"] = BlockChecksums.of(np.load(io.BytesIO(content))).digits
            files[path + ".json"] = _sealed(beside)
    header = json.loads(files["harvest.json"])
    header["documents_crc32"] = zlib.crc32(files["documents.jsonl"][: header["documents_bytes"]])
    files["harvest.json"] = _sealed(header)


def _seal_report(files: Files) -> None:
    files[""] = _sealed(json.loads(files[""]))


def _seal_archive(files: Files) -> None:
    for path, content in files.items():
        if path.startswith("c/") and len(content) >= _INDEX_BYTES:
            index = content[-_INDEX_BYTES:-4]
            files[path] = content[:-4] + struct.pack("<I", google_crc32c.value(index))
    header = json.loads(files["zarr.json"])
    header["attributes"]["bitcodec"]["seal"] = _archive_seal(header)
    files["zarr.json"] = json.dumps(header).encode()


def _archive_seal(header: dict[str, Any]) -> str:
    sharding = header["codecs"][0]["configuration"]
    inner = sharding["codecs"][0]["configuration"]
    table = read_table(base64.b64decode(inner["table"]))
    return ArchiveHeader(
        n_rows=header["shape"][0],
        n_bits=table.n_bits,
        side_bytes=inner.get("side_bytes", 0),
        chunk_rows=sharding["chunk_shape"][0],
        shard_rows=header["chunk_grid"]["configuration"]["chunk_shape"][0],
        fingerprint=str(header["attributes"]["bitcodec"]["fingerprint"]),
        table_digest=table.digest.hex(),
        compute=header["attributes"]["bitcodec"].get("compute"),
    ).seal


def _seal_compressed(files: Files) -> None:
    content, head = bytearray(files[""]), range_coding._HEADER
    *_, block_rows, table_size, n_rows, _ = head.unpack_from(content)
    table_end = head.size + table_size
    table = content[head.size : table_end - DIGEST_BYTES]
    content[table_end - DIGEST_BYTES : table_end] = digest_of(table)
    try:
        digest = read_table(bytes(content[head.size : table_end])).digest
        content[head.size - DIGEST_BYTES : head.size] = digest
    except BitcodecError:
        pass
    end = table_end + 4 * -(-n_rows // block_rows)
    content[end : end + DIGEST_BYTES] = digest_of(content[:end])
    files[""] = bytes(content)


def _seal_features(files: Files) -> None:
    content = bytearray(files[""])
    header = feature_set_file._read_header(bytes(content[:52]), "")
    place = header.layout
    for feature in range(min(header.n_bits, len(content)) if header.version > 1 else 0):
        start = place.bitmaps + feature * place.stride
        checksum = zlib.crc32(content[start : start + place.stride])
        struct.pack_into("<I", content, place.checksums + 4 * feature, checksum)
    digest = feature_set_file._digest(bytes(content[: place.digest]))
    content[place.digest : place.digest + len(digest)] = digest
    files[""] = bytes(content)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


_SEALERS = {
    "codec": _seal_codec,
    "packed": _seal_packed,
    "checkpoint": _seal_checkpoint,
    "harvest": _seal_harvest,
    "report": _seal_report,
    "names": _seal_report,
    "index": _seal_index,
    "archive": _seal_archive,
    "compressed": _seal_compressed,
    "features": _seal_features,
}
