"""Golden files of every version of every format are read, and say what they said when written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bitcodec import BitCodec
from bitcodec.errors import FormatError
from bitcodec.storage import open_packed
from bitcodec_faiss import load_index
from tests.artefacts import (
    ARTEFACTS,
    VERSIONS,
    hidden_rows,
    packed_rows,
    read_checkpoint,
)

FORMATS = Path(__file__).parent / "golden" / "formats"
OLD_CODES = FORMATS / "packed_v1" / "codes.npy"
READABLE = sorted(path.name for path in FORMATS.iterdir())


FIRST = {"codec-weighed": 4, "index-asymmetric": 2, "index-asymmetric-ivf": 4}
"""The first version of a format that had such an artefact."""


def version_of(name: str) -> int:
    return int(name.rpartition("_v")[2])


@pytest.mark.parametrize("name", sorted(VERSIONS))
def test_there_is_a_golden_file_of_every_version(name: str) -> None:
    first = FIRST.get(name, 1)
    expected = {f"{name}_v{version}" for version in range(first, VERSIONS[name] + 1)}
    assert expected <= set(READABLE)


@pytest.mark.parametrize("name", sorted(set(VERSIONS) - {"codec", "packed", "checkpoint"}))
def test_every_version_of_a_format_says_the_same(name: str) -> None:
    """Of version 1, codec, packed and index are of another codec, and checkpoints are refused."""
    artefact = ARTEFACTS[name]
    first = max(FIRST.get(name, 1), 2 if name.startswith("index") else 1)
    newest = json.dumps(_comparable(artefact.read(FORMATS / f"{name}_v{VERSIONS[name]}")))
    for version in range(first, VERSIONS[name]):
        found = artefact.read(FORMATS / f"{name}_v{version}")
        assert json.dumps(_comparable(found)) == newest


@pytest.mark.parametrize("version", [2, 3, 4])
def test_codecs_encode_as_they_did(version: int) -> None:
    codec = BitCodec.load(FORMATS / f"codec_v{version}", device="cpu")
    np.testing.assert_array_equal(codec.encode(hidden_rows()[:24]), packed_rows())


@pytest.mark.parametrize("version", [2, 3, 4])
def test_codes_of_every_version_say_the_same(version: int) -> None:
    _, packed = open_packed(FORMATS / f"packed_v{version}" / "codes.npy")
    np.testing.assert_array_equal(packed, packed_rows())


def test_a_weighed_codec_searches_as_it_did() -> None:
    codec = BitCodec.load(FORMATS / "codec-weighed_v4", device="cpu")
    codes = codec.encode(hidden_rows()[:24], refine="fast")
    assert codes.tobytes().hex() == (
        "14002306dc00d4000304d400d40023072307dc00010023072306"
        "2a03dc013b0722060104dc00310223069c0030079c01"
    )


def test_the_first_codecs_codes_and_indexes_are_read() -> None:
    codec = BitCodec.load(FORMATS / "codec_v1", device="cpu")
    header, packed = open_packed(OLD_CODES, fingerprint=codec.fingerprint_)
    assert (header.n_rows, header.side_bytes, header.block_sha256) == (9, 0, "")
    np.testing.assert_array_equal(codec.encode(hidden_rows()[:9]), packed)
    for kind in ("flat", "ivf", "hnsw"):
        index = load_index(FORMATS / f"index-{kind}_v1", codec)
        found = index.reconstruct_packed(np.arange(9) * 3 + 5)
        np.testing.assert_array_equal(found, packed)


@pytest.mark.parametrize("version", [1, 2])
def test_an_old_checkpoint_is_refused_with_what_to_do(version: int, tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes((FORMATS / f"checkpoint_v{version}").read_bytes())
    with pytest.raises(FormatError, match=rf"format version {version}, .* or name another file"):
        read_checkpoint(tmp_path / "run")


def _comparable(value: object) -> object:
    """Drop what tells one writing from another: times, hashes of the file, versions."""
    if isinstance(value, dict):
        dropped = ("records", "format_version", "version", "seal", "documents_crc32")
        return {key: _comparable(item) for key, item in value.items() if key not in dropped}
    if isinstance(value, (list, tuple)):
        return [_comparable(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value
