"""Archives on an S3-compatible server of this machine, and several archives in one group."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zarr.storage import FsspecStore

from bitcodec import BitCodec
from bitcodec.errors import FileError, FormatError, MismatchError
from bitcodec_zarr import (
    PackedArchive,
    consolidate_archives,
    continue_archive,
    open_archive,
    open_archives,
)

SIZES: dict[str, Any] = {"chunk_rows": 64, "shard_rows": 512}


@dataclass
class Bucket:
    """A bucket and what is needed to reach it."""

    server: Any
    url: str
    options: dict[str, Any]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = {"endpoint_url": f"http://{host}:{port}", "region_name": "eu-west-1"}
    options = {"key": "any", "secret": "any", "client_kwargs": endpoint}
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"codes-{port}"  # moto's servers in one process share their buckets
    s3fs.S3FileSystem(**options).mkdir(name)
    yield Bucket(server, f"s3://{name}", options)
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


@dataclass
class Reads:
    """What is fetched from a store: names, and bytes."""

    names: list[str] = field(default_factory=list)
    n_bytes: int = 0


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    seen, get = Reads(), FsspecStore.get

    async def counted(self: FsspecStore, key: str, *rest: Any, **named: Any) -> Any:
        found = await get(self, key, *rest, **named)
        seen.names.append(key)
        seen.n_bytes += 0 if found is None else len(found)
        return found

    monkeypatch.setattr(FsspecStore, "get", counted)
    return seen


def test_shards_go_to_an_object_store_and_rows_come_back_by_ranges(
    bucket: Bucket, reads: Reads, hidden: np.ndarray, codec: BitCodec
) -> None:
    packed = codec.encode(hidden)
    url, options = f"{bucket.url}/a.zarr", bucket.options
    archive = PackedArchive.create(url, codec, storage_options=options, **SIZES)
    workers = [pickle.loads(pickle.dumps(archive)) for _ in range(2)]
    written = [
        workers[index % 2].write_shard(index, packed[index * 512 : (index + 1) * 512])
        for index in (7, 2, 0, 5, 1, 3, 6, 4)
    ]
    assert len(open_archive(url, storage_options=options)) == 0
    archive.commit(written)
    there = open_archive(url, storage_options=options)
    reads.names, reads.n_bytes = [], 0
    np.testing.assert_array_equal(there[1000:1010], packed[1000:1010])
    assert set(reads.names) == {"c/1/0"}
    assert reads.n_bytes < there.bytes_stored / 30  # one chunk of 64, and the shard's index
    np.testing.assert_array_equal(there[:], packed)


def test_a_server_that_went_away_is_no_damage(
    bucket: Bucket, hidden: np.ndarray, codec: BitCodec
) -> None:
    packed = codec.encode(hidden[:512])
    url, options = f"{bucket.url}/a.zarr", bucket.options
    options["config_kwargs"] = {"connect_timeout": 1, "retries": {"max_attempts": 1}}
    archive = PackedArchive.create(url, codec, storage_options=options, **SIZES).append(packed)
    bucket.server.stop()
    with pytest.raises(FileError, match="cannot read rows 0 to 9"):
        archive[:9]
    with pytest.raises(FileError, match="cannot write"):
        archive.write_shard(1, packed)


def test_several_archives_are_opened_by_one_read(
    reads: Reads, hidden: np.ndarray, codec: BitCodec, tmp_path: Path
) -> None:
    packed = codec.encode(hidden[:700])
    root = f"memory://{tmp_path.name}"
    for layer in (3, 1, 2):
        url = f"{root}/layer-{layer}"
        PackedArchive.create(url, codec, **SIZES).append(packed[: 100 * layer])
    consolidate_archives(root)
    reads.names = []
    archives = open_archives(root)
    assert reads.names == ["zarr.json"]
    assert {name: len(archive) for name, archive in archives.items()} == {
        "layer-1": 100,
        "layer-2": 200,
        "layer-3": 300,
    }
    open_archive(f"{root}/layer-1", mode="r+").append(packed[100:700])
    assert len(open_archives(root)["layer-1"]) == 100
    consolidate_archives(root)
    np.testing.assert_array_equal(open_archives(root)["layer-1"][:], packed)


def test_a_group_that_is_not_consolidated_or_not_there_is_named(
    codec: BitCodec, tmp_path: Path
) -> None:
    with pytest.raises(FileError, match="cannot read the group"):
        open_archives(tmp_path / "none")
    import zarr

    zarr.create_group(tmp_path / "group")
    with pytest.raises(FormatError, match="call consolidate_archives"):
        open_archives(tmp_path / "group")


def test_a_job_goes_on_with_its_own_archive_only(
    hidden: np.ndarray, codec: BitCodec, tmp_path: Path
) -> None:
    packed, folder = codec.encode(hidden[:600]), tmp_path / "a.zarr"
    continue_archive(folder, codec, **SIZES).append(packed[:512])
    continue_archive(folder, codec, **SIZES).append(packed[512:])
    np.testing.assert_array_equal(open_archive(folder)[:], packed)
    with pytest.raises(MismatchError, match="use the codec that encoded it"):
        continue_archive(folder, codec.recenter(hidden[:100]), **SIZES)
    with pytest.raises(MismatchError, match="chunks of 64 rows, shards of 512"):
        continue_archive(folder, codec, chunk_rows=128)


def test_a_job_that_asks_for_no_sizes_takes_those_of_the_archive(
    hidden: np.ndarray, codec: BitCodec, tmp_path: Path
) -> None:
    packed, folder = codec.encode(hidden[:300]), tmp_path / "a.zarr"
    PackedArchive.create(folder, codec, chunk_rows=128).append(packed[:200])  # not the default
    archive = continue_archive(folder, codec).append(packed[200:])
    assert archive.chunk_rows == 128
    np.testing.assert_array_equal(open_archive(folder)[:], packed)
    assert continue_archive(tmp_path / "new.zarr", codec).chunk_rows == 256


def test_a_job_does_not_go_on_in_another_precision(
    hidden: np.ndarray, codec: BitCodec, tmp_path: Path
) -> None:
    fast = copy.deepcopy(codec).set_params(compute="bfloat16")
    continue_archive(tmp_path / "a.zarr", fast, **SIZES).append(fast.encode(hidden[:600]))
    assert open_archive(tmp_path / "a.zarr").compute == "bfloat16"
    with pytest.raises(MismatchError, match=r"computed in bfloat16, .* in float32"):
        continue_archive(tmp_path / "a.zarr", codec, **SIZES)
