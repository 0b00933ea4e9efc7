from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.buffer.cpu import Buffer
from zarr.registry import get_codec_class
from zarr.storage import MemoryStore

from bitcodec import BitCodec, BitStatistics
from bitcodec.bits import pack, row_bytes
from bitcodec.errors import (
    BitcodecError,
    ConfigError,
    FileError,
    FormatError,
    MismatchError,
    ShapeError,
    ValueRangeError,
)
from bitcodec.probability import ProbabilityTable
from bitcodec_zarr import BernoulliCodec, PackedArchive, WrittenShard, open_archive

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class StandIn:
    """The part of a codec that an archive uses."""

    n_bits_: int
    statistics_: BitStatistics
    fingerprint_: str = "a" * 64
    side_bytes_: int = 0
    compute: Any = "float32"

    def decode(self, packed: np.ndarray) -> np.ndarray:
        return packed.astype(np.float32)


def random_rows(n_rows: int, n_bits: int, seed: int = 0, side_bytes: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    codes = pack(generator.random((n_rows, n_bits)) < generator.random(n_bits) ** 2)
    numbers = generator.normal(1.1, 0.2, (n_rows, side_bytes // 2)).clip(0).astype("<f2")
    return np.concatenate([codes, numbers.view(np.uint8).reshape(n_rows, side_bytes)], axis=1)


def stand_in(packed: np.ndarray, n_bits: int) -> StandIn:
    width = row_bytes(n_bits)
    statistics = BitStatistics.empty(n_bits).update(packed[:, :width])
    return StandIn(n_bits, statistics, side_bytes_=packed.shape[1] - width)


def small_archive(store: Any, packed: np.ndarray, n_bits: int = 17) -> PackedArchive:
    codec = stand_in(packed, n_bits)
    return PackedArchive.create(store, codec, chunk_rows=4, shard_rows=8).append(packed)


def contents(store: MemoryStore) -> dict[str, bytes]:
    return {key: value.to_bytes() for key, value in store._store_dict.items()}


def store_of(files: dict[str, bytes]) -> MemoryStore:
    return MemoryStore({key: Buffer.from_bytes(value) for key, value in files.items()})


@pytest.fixture(params=["folder", "memory", "fsspec"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "fsspec":
        fsspec = pytest.importorskip("fsspec")
        yield "memory://archives/codes.zarr"
        fsspec.filesystem("memory").store.clear()
    else:
        yield MemoryStore() if request.param == "memory" else tmp_path / "codes.zarr"


# round trips


def test_an_archive_gives_back_its_rows_from_any_store(store: Any) -> None:
    packed = random_rows(21, 17)
    small_archive(store, packed[:5]).append(iter([packed[5:6], packed[6:6], packed[6:]]))
    archive = open_archive(store)
    assert len(archive) == archive.n_rows == 21
    assert archive.n_bits == 17
    assert np.array_equal(archive[:], packed)
    assert np.array_equal(np.concatenate(list(archive.batches(6))), packed)


@given(
    n_bits=st.sampled_from([*range(1, 18), 64]),
    side_bytes=st.sampled_from([0, 2, 4]),
    parts=st.lists(st.sampled_from([0, 1, 7, 8, 9, 33]), max_size=4),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_slices_are_those_of_the_array_after_any_appends(
    n_bits: int, side_bytes: int, parts: list[int], data: st.DataObject
) -> None:
    packed = random_rows(sum(parts), n_bits, side_bytes=side_bytes)
    store = MemoryStore()
    codec = stand_in(random_rows(9, n_bits, side_bytes=side_bytes), n_bits)
    archive = PackedArchive.create(store, codec, chunk_rows=4, shard_rows=16)
    for part in np.split(packed, np.cumsum(parts)[:-1]) if parts else []:
        archive.append(part)
    rows = data.draw(st.slices(len(packed)))
    assert np.array_equal(archive[rows], packed[rows])
    assert np.array_equal(open_archive(store)[rows], packed[rows])


def test_single_rows_are_numbered_as_in_a_list() -> None:
    packed = random_rows(9, 17)
    archive = small_archive(MemoryStore(), packed)
    assert np.array_equal(archive[8], packed[8])
    assert np.array_equal(archive[-9], packed[0])
    assert np.array_equal(archive[np.array(3)], packed[3])
    with pytest.raises(IndexError, match="out of range"):
        archive[9]


@given(numbers=st.lists(st.integers(-21, 20), max_size=30))
@settings(max_examples=40, deadline=None)
def test_rows_are_chosen_by_numbers_in_any_order(numbers: list[int]) -> None:
    packed = random_rows(21, 17)
    archive = small_archive(MemoryStore(), packed)
    assert np.array_equal(archive[numbers], packed[np.array(numbers, dtype=int)])


def test_rows_chosen_by_numbers_read_each_chunk_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = random_rows(40, 17)
    archive = small_archive(MemoryStore(), packed)
    read, reads = type(archive)._read, []

    def note(self: PackedArchive, start: int, stop: int) -> np.ndarray:
        reads.append((start // self.chunk_rows, (stop - 1) // self.chunk_rows))
        return read(self, start, stop)

    monkeypatch.setattr(type(archive), "_read", note)
    chosen = np.arange(39, -1, -1)
    assert np.array_equal(archive[chosen], packed[chosen])
    assert reads == [(chunk, chunk) for chunk in range(-(-40 // archive.chunk_rows))]


@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        ([0, 9], IndexError, "row 9 is out of range: the archive has 9 rows"),
        ([-10], IndexError, "row -10 is out of range"),
        ([0.5], ShapeError, r"\(n,\) whole numbers, got \[0.5\]"),
        (np.ones(9, bool), ShapeError, "of a mask take numpy.flatnonzero"),
        ([[1]], ShapeError, "whole numbers, got"),
        ("all", ShapeError, "got 'all'"),
        ((3, 0), ShapeError, r"got \(3, 0\)"),
        (np.array([2**64 - 1], np.uint64), IndexError, "row 18446744073709551615 is out of range"),
    ],
)
def test_rows_that_there_are_not_are_refused(rows: Any, error: type[Exception], words: str) -> None:
    archive = small_archive(MemoryStore(), random_rows(9, 17))
    with pytest.raises(error, match=words):
        archive[rows]


@pytest.mark.parametrize("value", [0, 1])
def test_rows_of_one_value_are_stored_and_kept(value: int) -> None:
    packed = pack(np.full((20, 17), value, dtype=np.uint8))
    store = MemoryStore()
    small_archive(store, packed)
    assert {"c/0/0", "c/1/0", "c/2/0"} <= set(contents(store))
    assert np.array_equal(open_archive(store)[:], packed)


@pytest.mark.parametrize("side_bytes", [0, 2, 4])
def test_rows_of_zeros_come_back_wherever_they_are(side_bytes: int) -> None:
    packed = random_rows(20, 17, side_bytes=side_bytes)
    packed[[0, 3, 6, 7, 12, 13, 14, 15, 19]] = 0
    store = MemoryStore()
    small_archive(store, packed)
    assert np.array_equal(open_archive(store)[:], packed)
    for row in range(20):
        assert np.array_equal(open_archive(store)[row], packed[row])


def test_rows_without_a_bit_on_keep_their_side_bytes() -> None:
    packed = random_rows(20, 17, side_bytes=2)
    packed[:, :3] = 0
    store = MemoryStore()
    small_archive(store, packed)
    assert np.array_equal(open_archive(store)[:], packed)
    assert packed[:, 3:].any(axis=1).all()


def test_bits_contrary_to_the_codecs_statistics_are_kept() -> None:
    codec = stand_in(pack(np.zeros((50, 9), dtype=np.uint8)), 9)
    packed = pack(np.ones((10, 9), dtype=np.uint8))
    archive = PackedArchive.create(MemoryStore(), codec).append(packed)
    assert np.array_equal(archive[:], packed)


def test_real_codes_come_back_as_floats_and_near_their_entropy(
    codec: BitCodec, hidden: np.ndarray, tmp_path: Path
) -> None:
    packed = codec.encode(hidden)
    PackedArchive.create(tmp_path / "a.zarr", codec, chunk_rows=1024).append(packed)
    archive = open_archive(tmp_path / "a.zarr")
    assert np.array_equal(archive[1000:1064], packed[1000:1064])
    assert np.array_equal(archive.decode(slice(1000, 1064), codec), codec.decode(packed[1000:1064]))
    assert np.array_equal(archive.decode(7, codec), codec.decode(packed[7]))
    entropy = BitStatistics.empty(codec.n_bits_).update(packed).entropy_bits
    assert archive.bytes_stored * 8 / 4096 < 1.02 * entropy + 8 * 3000 / 4096


@pytest.mark.parametrize("side_bytes", [2, 4])
def test_real_codes_with_side_bytes_come_back_as_floats(
    hidden: np.ndarray, tmp_path: Path, side_bytes: int
) -> None:
    parameters = {"n_bits": 67, "n_steps": 30, "batch_size": 256, "refine": "none"}
    codec = BitCodec.preset("search", side_bytes=side_bytes, **parameters).fit(hidden[:1024])
    packed = codec.encode(hidden[:1024])
    PackedArchive.create(tmp_path / "a.zarr", codec, shard_rows=512).append(packed)
    archive = open_archive(tmp_path / "a.zarr")
    assert (archive.side_bytes, archive.row_bytes) == (side_bytes, 9 + side_bytes)
    assert np.array_equal(archive[:], packed)
    assert np.array_equal(archive.decode(slice(250, 530), codec), codec.decode(packed[250:530]))
    assert np.array_equal(archive.decode(7, codec), codec.decode(packed[7]))
    metadata = (tmp_path / "a.zarr" / "zarr.json").stat().st_size
    bits = 8 * (archive.bytes_stored - metadata) / 1024 - codec.statistics_.entropy_bits
    assert bits < 0.9 * 8 * side_bytes


def test_learned_profiles_can_be_the_archives_table() -> None:
    packed = random_rows(60, 17)
    table = ProbabilityTable.learn(packed, n_bits=17, n_profiles=3)
    store = MemoryStore()
    PackedArchive.create(store, stand_in(packed, 17), table=table).append(packed)
    assert open_archive(store).table == table
    assert np.array_equal(open_archive(store)[:], packed)


def test_plain_zarr_reads_an_archive_once_the_package_is_imported() -> None:
    packed, store = random_rows(9, 17), MemoryStore()
    small_archive(store, packed)
    assert get_codec_class("bitcodec.bernoulli") is BernoulliCodec
    assert np.array_equal(zarr.open_array(store, mode="r")[:], packed)


def test_importing_the_package_does_not_import_zarr() -> None:
    code = "import sys, bitcodec_zarr; assert 'zarr' not in sys.modules; bitcodec_zarr.open_archive"
    path = {"PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=path)


def golden_rows(version: int) -> np.ndarray:
    codes, side = (np.load(GOLDEN / f"range_coding_{name}.npy") for name in ("rows", "side"))
    return codes if version == 1 else np.concatenate([codes, side], axis=1)


COMPUTED = {1: None, 2: None, 3: "bfloat16"}
"""What the golden archive of each version says its codes were computed in."""


@pytest.mark.parametrize("version", COMPUTED)
def test_the_golden_archives_are_read(version: int) -> None:
    packed = golden_rows(version)
    archive = open_archive(GOLDEN / f"archive_v{version}.zarr")
    assert np.array_equal(archive[:], packed)
    assert np.array_equal(archive[60:70], packed[60:70])
    assert archive.fingerprint == "f" * 64
    assert archive.side_bytes == packed.shape[1] - 9
    assert archive.compute == COMPUTED[version]


@pytest.mark.parametrize("version", COMPUTED)
def test_the_golden_archives_are_made_again(version: int, tmp_path: Path) -> None:
    golden, packed = GOLDEN / f"archive_v{version}.zarr", golden_rows(version)
    codec = replace(stand_in(packed, 67), fingerprint_="f" * 64, compute=COMPUTED[version])
    again = tmp_path / "a.zarr"
    PackedArchive.create(again, codec, chunk_rows=16, shard_rows=64).append(packed)
    for name in ("c/0/0", "c/1/0"):
        assert (again / name).read_bytes() == (golden / name).read_bytes()
    old, new = (json.loads((folder / "zarr.json").read_text()) for folder in (golden, again))
    assert (new["attributes"], new["codecs"]) == (old["attributes"], old["codecs"])


# visibility


def test_rows_are_invisible_until_the_append_ends() -> None:
    packed, store = random_rows(40, 17), MemoryStore()
    archive = small_archive(store, packed[:13])
    seen = []

    def batches() -> Iterator[np.ndarray]:
        for start in range(13, 40, 9):
            yield packed[start : start + 9]
            seen.append(open_archive(store)[:])

    archive.append(batches())
    assert all(np.array_equal(rows, packed[:13]) for rows in seen)
    assert len(seen) == 3
    assert np.array_equal(open_archive(store)[:], packed)


def test_an_append_that_dies_leaves_the_old_rows_and_can_be_done_again() -> None:
    packed, store = random_rows(40, 17), MemoryStore()
    archive = small_archive(store, packed[:13])

    def broken() -> Iterator[np.ndarray]:
        yield 255 - random_rows(20, 16, seed=9).repeat(2, axis=1)[:, :3] & 1
        raise RuntimeError("the power went out")

    with pytest.raises(RuntimeError, match="power"):
        archive.append(broken())
    assert np.array_equal(open_archive(store)[:], packed[:13])
    open_archive(store, mode="r+").append(packed[13:])
    assert np.array_equal(open_archive(store)[:], packed)


def test_a_second_appender_is_told() -> None:
    packed, store = random_rows(9, 17), MemoryStore()
    first = small_archive(store, packed)
    second = open_archive(store, mode="r+")
    first.append(packed)
    with pytest.raises(FileError, match="changed by another process"):
        second.append(packed)


def write_in_process(folder: str, index: int) -> WrittenShard:
    rows = random_rows(8 if index < 3 else 5, 17, seed=index)
    return open_archive(folder, mode="r+").write_shard(index, rows)


def test_processes_write_whole_shards_without_a_lock(tmp_path: Path) -> None:
    folder = str(tmp_path / "a.zarr")
    codec = stand_in(random_rows(50, 17), 17)
    archive = PackedArchive.create(folder, codec, chunk_rows=4, shard_rows=8)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        written = pool.starmap(write_in_process, [(folder, index) for index in (3, 0, 2, 1)])
    assert len(open_archive(folder)) == 0
    archive.commit(written)
    expected = [random_rows(8 if index < 3 else 5, 17, seed=index) for index in range(4)]
    assert np.array_equal(open_archive(folder)[:], np.concatenate(expected))


def test_a_commit_refuses_gaps_repeats_short_shards_and_what_was_not_written() -> None:
    codec = stand_in(random_rows(50, 17), 17)
    archive = PackedArchive.create(MemoryStore(), codec, chunk_rows=4, shard_rows=8)
    first = archive.write_shard(0, random_rows(8, 17))
    short = archive.write_shard(1, random_rows(3, 17))
    for shards in ([short], [first, first], [first, WrittenShard(2, 8)]):
        with pytest.raises(ConfigError, match="every shard from 0 on once"):
            archive.commit(shards)
    with pytest.raises(ConfigError, match="only the last"):
        archive.commit([first, short, WrittenShard(2, 8)])
    with pytest.raises(FormatError, match=r"lost .*c/2/0"):
        archive.commit([first, WrittenShard(1, 8), WrittenShard(2, 8)])
    archive.commit([first, short])
    assert len(archive) == 11
    with pytest.raises(ConfigError, match="visible"):
        archive.write_shard(1, random_rows(8, 17))
    with pytest.raises(ConfigError, match="use append"):
        archive.commit([WrittenShard(2, 8)])


# faults


@pytest.mark.parametrize("mask", [0x01, 0x80])
@pytest.mark.parametrize("side_bytes", [0, 2])
def test_a_flipped_byte_is_an_error_or_changes_nothing(mask: int, side_bytes: int) -> None:
    packed, store = random_rows(11, 17, side_bytes=side_bytes), MemoryStore()
    small_archive(store, packed)
    files = contents(store)
    refused = tried = 0
    for name, content in files.items():
        for index in range(0, len(content), 3 if name == "zarr.json" else 1):
            damaged = bytearray(content)
            damaged[index] ^= mask
            tried += 1
            try:
                archive = open_archive(store_of(files | {name: bytes(damaged)}))
                assert np.array_equal(archive[:], packed), (name, index)
                assert archive.fingerprint == "a" * 64
            except BitcodecError:
                refused += 1
    assert refused > 0.5 * tried


def test_a_damaged_shard_is_named_with_its_rows_and_what_to_do() -> None:
    packed, store = random_rows(30, 17), MemoryStore()
    small_archive(store, packed)  # chunks of 4 rows in shards of 8
    files = contents(store)
    shard = bytearray(files["c/2/0"])
    shard[6] ^= 1  # in its first chunk; the index is at the end
    archive = open_archive(store_of(files | {"c/2/0": bytes(shard)}))
    told = (
        r"c/2/0 is damaged: rows 16 to 20 are not those .* restore it from a copy, or encode anew"
    )
    for read in (slice(None), slice(17, 18), 19):
        with pytest.raises(FormatError, match=told):
            archive[read]
    np.testing.assert_array_equal(archive[20:30], packed[20:30])
    shard[-1] ^= 1  # of the index's checksum
    with pytest.raises(FormatError, match="c/2/0 is damaged: the checksum of its index"):
        open_archive(store_of(files | {"c/2/0": bytes(shard)}))[:]


@pytest.mark.parametrize("side_bytes", [0, 4])
def test_a_truncated_or_lost_file_is_an_error(side_bytes: int) -> None:
    packed, store = random_rows(11, 17, side_bytes=side_bytes), MemoryStore()
    small_archive(store, packed)
    files = contents(store)
    for name, content in files.items():
        for length in range(0, len(content), 16):
            with pytest.raises(BitcodecError, match=r"damaged|read|lost|truncated"):
                open_archive(store_of(files | {name: content[:length]}))[:]
        rest = {key: value for key, value in files.items() if key != name}
        with pytest.raises(BitcodecError, match=r"lost|read"):
            open_archive(store_of(rest))[:]


@pytest.mark.parametrize("side_bytes", [0, 4])
def test_a_chunk_that_lies_beyond_its_shard_is_not_read_as_zeros(side_bytes: int) -> None:
    packed, store = random_rows(32, 64, side_bytes=side_bytes), MemoryStore()
    codec = stand_in(packed, 64)
    PackedArchive.create(store, codec, chunk_rows=16, shard_rows=32).append(packed)
    files = contents(store)
    index = files["c/0/0"][-(2 * 16 + 4) :]
    archive = open_archive(store_of(files | {"c/0/0": index}))
    with pytest.raises(FormatError, match="has chunks outside itself"):
        archive[17]


@pytest.mark.parametrize("length", [2**33, 2**40, 2**62])
def test_a_length_that_lies_makes_no_room(tmp_path: Path, length: int) -> None:
    """In a folder: a store in memory gives no more than it has."""
    packed = random_rows(32, 64)
    codec = stand_in(packed, 64)
    PackedArchive.create(tmp_path / "a", codec, chunk_rows=16, shard_rows=32).append(packed)
    path = tmp_path / "a" / "c" / "0" / "0"
    data, n_index = path.read_bytes(), 2 * 16 + 4
    index = np.frombuffer(data[-n_index:-4], "<u8").copy()
    index[1] = length
    changed = index.astype("<u8").tobytes()
    path.write_bytes(data[:-n_index] + changed + google_crc32c.value(changed).to_bytes(4, "little"))
    with pytest.raises(FormatError, match="has chunks outside itself"):
        open_archive(tmp_path / "a")[:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [2**60, 3]}, "metadata are impossible"),
        ({"shape": [10, 3]}, "seal"),
        ({"shape": [11, 4]}, r"damaged|is \(n, 3\)"),
        ({"fill_value": 1}, "over 0"),
        ({"data_type": "int8"}, r"takes|over 0"),
        ({"attributes": {}}, "attributes"),
        ({"codecs": [{"name": "bytes"}]}, "sharded"),
        ({"chunk_key_encoding": {"name": "v2"}}, "lost"),
    ],
)
def test_metadata_that_lie_are_refused(change: dict[str, Any], message: str) -> None:
    packed, store = random_rows(11, 17), MemoryStore()
    small_archive(store, packed)
    files = contents(store)
    metadata = json.loads(files["zarr.json"]) | change
    with pytest.raises(FormatError, match=message):
        open_archive(store_of(files | {"zarr.json": json.dumps(metadata).encode()}))[:]


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ({"side_bytes": 0}, r"is \(n, 3\)|takes \(n, 3\)"),
        ({"side_bytes": 4}, r"is \(n, 7\)|takes \(n, 7\)"),
        ({"side_bytes": 3}, "side_bytes must be 0, 2 or 4, got 3"),
        ({"side_bytes": 2.0}, "side_bytes must be 0, 2 or 4, got 2.0"),
        ({"side_bytes": "2"}, "side_bytes must be 0, 2 or 4, got '2'"),
        ({"table": 5}, "not base64"),
        ({"rows": 5}, "takes"),
    ],
)
def test_a_codecs_configuration_that_lies_is_refused(
    configuration: dict[str, Any], message: str
) -> None:
    store = MemoryStore()
    small_archive(store, random_rows(11, 17, side_bytes=2))
    files = contents(store)
    metadata = json.loads(files["zarr.json"])
    metadata["codecs"][0]["configuration"]["codecs"][0]["configuration"] |= configuration
    with pytest.raises(FormatError, match=message):
        open_archive(store_of(files | {"zarr.json": json.dumps(metadata).encode()}))


def test_deep_json_is_a_format_error() -> None:
    with pytest.raises(FormatError, match="damaged"):
        open_archive(store_of({"zarr.json": b"[" * 100_000}))


def test_a_newer_archive_says_so() -> None:
    store = MemoryStore()
    small_archive(store, random_rows(11, 17))
    files = contents(store)
    for version, message in ((4, "format 4.*upgrade"), (2, "seal")):
        newer = files["zarr.json"].replace(
            b'"format_version": 3', f'"format_version": {version}'.encode()
        )
        assert newer != files["zarr.json"]
        with pytest.raises(FormatError, match=message):
            open_archive(store_of(files | {"zarr.json": newer}))


def test_another_codec_cannot_decode(codec: BitCodec) -> None:
    archive = small_archive(MemoryStore(), random_rows(9, 17))
    with pytest.raises(MismatchError, match="use the codec that encoded it"):
        archive.decode(slice(3), codec)


def test_an_existing_archive_is_not_replaced_unless_told(tmp_path: Path) -> None:
    packed = random_rows(9, 17)
    small_archive(tmp_path / "a.zarr", packed)
    with pytest.raises(FileError, match="exists"):
        small_archive(tmp_path / "a.zarr", packed)
    codec = stand_in(packed, 17)
    assert len(PackedArchive.create(tmp_path / "a.zarr", codec, overwrite=True)) == 0
    shutil.rmtree(tmp_path / "a.zarr")
    with pytest.raises(FileError, match="cannot read"):
        open_archive(tmp_path / "a.zarr")


def test_an_archive_opened_for_reading_is_not_written() -> None:
    store = MemoryStore()
    small_archive(store, random_rows(9, 17))
    with pytest.raises(FileError, match=r"read.only"):
        open_archive(store).append(random_rows(3, 17))
    assert len(open_archive(store)) == 9


def test_wrong_rows_and_sizes_are_named() -> None:
    packed = random_rows(9, 17)
    codec = stand_in(packed, 17)
    archive = PackedArchive.create(MemoryStore(), codec, chunk_rows=4, shard_rows=8)
    with pytest.raises(ShapeError, match="for 17 bits"):
        archive.append(packed[:, :2])
    with pytest.raises(ShapeError, match="for 17 bits and 0 side bytes"):
        archive.append(random_rows(9, 17, side_bytes=2))
    with pytest.raises(ValueRangeError, match="pad bit"):
        archive.append(np.full_like(packed, 255))
    with pytest.raises(ShapeError, match="1 to 8 rows"):
        archive.write_shard(0, packed)
    for sizes in ({"chunk_rows": 0}, {"chunk_rows": 3, "shard_rows": 8}, {"shard_rows": 2**40}):
        with pytest.raises(ConfigError, match=r"chunk_rows|shard_rows"):
            PackedArchive.create(MemoryStore(), codec, **sizes)  # type: ignore[arg-type]
    table = ProbabilityTable.learn(random_rows(9, 16), n_bits=16, n_profiles=1)
    with pytest.raises(ConfigError, match="16 bits, the codec 17"):
        PackedArchive.create(MemoryStore(), codec, table=table)
    with pytest.raises(ConfigError, match="side_bytes must be 0, 2 or 4, got 6"):
        PackedArchive.create(MemoryStore(), replace(codec, side_bytes_=6))
    wide = replace(codec, side_bytes_=4)
    PackedArchive.create(MemoryStore(), codec, chunk_rows=2**10, shard_rows=2**26)
    with pytest.raises(ConfigError, match="rows of 7: choose a smaller shard_rows"):
        PackedArchive.create(MemoryStore(), wide, chunk_rows=2**10, shard_rows=2**26)


def test_a_foreign_array_is_refused() -> None:
    store = MemoryStore()
    zarr.create_array(store, shape=(4, 3), dtype="uint8", chunks=(2, 3))
    with pytest.raises(FormatError, match="sharded"):
        open_archive(store)
