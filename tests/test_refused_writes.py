"""A full disk: every writer says so in one error, leaves the old file, and nothing beside it."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from bitcodec import BitCodec
from bitcodec.errors import FileError
from bitcodec.storage import PackedWriter, open_packed
from bitcodec_faiss import HammingIndex, load_index
from bitcodec_transformers import LanguageModel, harvest
from bitcodec_zarr import PackedArchive, open_archive


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """Have the system refuse to write longer files: it is to us as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def refused(folder: Path, write: Callable[[], object], *, n_bytes: int = 2000) -> None:
    before = everything(folder)
    with files_of_at_most(n_bytes), pytest.raises(FileError, match=r"cannot write [^ ]*/[^. ]"):
        write()
    assert everything(folder) == before


def test_a_codec_that_does_not_fit_leaves_the_old_one(codec: BitCodec, tmp_path: Path) -> None:
    codec.save(tmp_path / "codec")
    refused(tmp_path, lambda: codec.save(tmp_path / "codec", overwrite=True))
    assert BitCodec.load(tmp_path / "codec").fingerprint_ == codec.fingerprint_


def test_codes_that_do_not_fit_leave_the_old_ones(
    codec: BitCodec, hidden: np.ndarray, tmp_path: Path
) -> None:
    packed = codec.encode(hidden)

    def write(rows: np.ndarray) -> None:
        with PackedWriter(
            tmp_path / "codes.npy",
            n_bits=codec.n_bits_,
            fingerprint=codec.fingerprint_,
            overwrite=True,
        ) as writer:
            writer.append(rows)

    write(packed[:9])
    refused(tmp_path, lambda: write(packed))
    np.testing.assert_array_equal(open_packed(tmp_path / "codes.npy")[1], packed[:9])


def test_an_index_that_does_not_fit_leaves_the_old_one(
    codec: BitCodec, hidden: np.ndarray, tmp_path: Path
) -> None:
    index = HammingIndex(codec)
    index.add(hidden[:9])
    index.save(tmp_path / "index")
    index.add(hidden[9:1000])
    refused(tmp_path, lambda: index.save(tmp_path / "index", overwrite=True))
    assert len(load_index(tmp_path / "index", codec)) == 9


def test_an_append_that_does_not_fit_leaves_the_archives_rows(
    codec: BitCodec, hidden: np.ndarray, tmp_path: Path
) -> None:
    packed = codec.encode(hidden)
    archive = PackedArchive.create(tmp_path / "codes.zarr", codec, shard_rows=1024)
    archive.append(packed[:2048])
    with files_of_at_most(2000), pytest.raises(FileError, match="cannot write"):
        archive.append(packed[2048:])  # shards that are not visible yet may stay
    found = open_archive(tmp_path / "codes.zarr", mode="r+")
    np.testing.assert_array_equal(found[0 : len(found)], packed[:2048])
    found.append(packed[2048:])
    np.testing.assert_array_equal(found[0 : len(found)], packed)


def test_a_checkpoint_that_does_not_fit_stops_the_fit_and_leaves_the_one_before(
    hidden: np.ndarray, tmp_path: Path
) -> None:
    codec = BitCodec(n_bits=8, n_steps=4, batch_size=64, refine="none")
    state = tmp_path / "fit.state"
    codec.fit(hidden[:200], checkpoint=state, checkpoint_every=4)
    again = BitCodec(**codec.get_params())

    def fit() -> None:
        again.fit(hidden[:200], checkpoint=tmp_path / "other.state", checkpoint_every=1)

    refused(tmp_path, fit)
    assert again.fit(hidden[:200], checkpoint=state).fingerprint_ == codec.fingerprint_


def test_a_harvest_that_does_not_fit_goes_on_when_there_is_room(
    language_model: LanguageModel, tmp_path: Path
) -> None:
    def run(name: str) -> None:
        harvest(["Some words."] * 3, model=language_model, layers=[1], output=tmp_path / name)

    with (
        files_of_at_most(3000),
        pytest.raises(FileError, match=r"cannot write .*layer-1.*00000"),
    ):
        run("hidden")
    run("hidden")
    run("whole")
    assert everything(tmp_path / "hidden") == everything(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hidden", "whole"]
