"""Rows to archives and Parquet by workers: the bytes of one process, through kills and restarts."""

from __future__ import annotations

import copy
import errno
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zarr

from bitcodec import BitCodec
from bitcodec.errors import (
    ConfigError,
    FileError,
    FormatError,
    MismatchError,
    MissingExtraError,
    ShapeError,
    ValueRangeError,
)
from bitcodec_ray import (
    Output,
    PackedParquet,
    Workers,
    encode_rows,
    open_packed_parquet,
    open_rows,
    require_package,
    shards,
)
from bitcodec_ray.journal import Journal, Shard
from bitcodec_zarr import PackedArchive, open_archive

pytestmark = pytest.mark.usefixtures("cluster")
SHARD_ROWS = 512


def archive_of(folder: Path, codec: BitCodec) -> PackedArchive:
    return PackedArchive.create(folder, codec, chunk_rows=64, shard_rows=SHARD_ROWS)


@dataclass
class Faulty:
    """An output whose worker meets a fault at one shard, the first time."""

    inner: Any
    folder: Path
    fault: str
    at: int = 3

    @property
    def n_rows(self) -> int:
        return int(self.inner.n_rows)

    @property
    def shard_rows(self) -> int:
        return int(self.inner.shard_rows)

    @property
    def fingerprint(self) -> str:
        return str(self.inner.fingerprint)

    def alone(self) -> AbstractContextManager[None]:
        held: AbstractContextManager[None] = self.inner.alone()
        return held

    def write_shard(self, index: int, packed: np.ndarray) -> Any:
        self.log(f"shard {index}")
        met = self.folder / "met"
        if index == self.at and not met.exists():
            met.touch()
            if self.fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.inner.write_shard(index, packed)

    def commit(self, written: Iterable[Any]) -> Any:
        return self.inner.commit(written)

    def log(self, line: str) -> None:
        with (self.folder / "log").open("a") as file:
            file.write(line + "\n")

    @property
    def logged(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do shards in this process: what is asked of them does not depend on who does them."""

    def run(missing: list[int], arguments: dict[str, Any], workers: Workers) -> Iterator[Shard]:
        encoder = shards._Encoder(**arguments)
        for index in missing:
            done = encoder({"index": np.array([index])})
            yield Shard(index, int(done["n_rows"][0]))

    monkeypatch.setattr(shards, "_run", run)
    monkeypatch.setattr(torch, "set_num_threads", lambda n_threads: None)


# the bytes of one process


def test_two_workers_write_the_archive_of_one_process_though_one_is_killed(
    harvest_folder: Path, hidden: np.ndarray, codec: BitCodec, tmp_path: Path
) -> None:
    alone, together = (archive_of(tmp_path / name, codec) for name in ("alone", "together"))
    alone.append(codec.encode(hidden))
    output = Faulty(together, tmp_path, "killed")
    assert encode_rows(harvest_folder, codec, output, workers=Workers(count=2)) == 4096
    assert output.logged.count("shard 3") == 2
    assert len(output.logged) <= 8 + 2  # the other worker's shard may have been given to both
    for shard in range(8):
        files = (tmp_path / name / f"c/{shard}/0" for name in ("alone", "together"))
        one, two = (file.read_bytes() for file in files)
        assert one == two
    np.testing.assert_array_equal(open_archive(tmp_path / "together")[:], codec.encode(hidden))


@pytest.mark.usefixtures("in_process")
def test_shards_may_end_where_no_batch_does(
    hidden: np.ndarray, codec: BitCodec, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", hidden[:1000])
    np.save(tmp_path / "b.npy", hidden[1000:1001])
    np.save(tmp_path / "c.npy", hidden[1001:1700].astype(np.float16))
    output = PackedParquet(tmp_path / "codes", codec, shard_rows=611)
    files = [tmp_path / name for name in ("a.npy", "b.npy", "c.npy")]
    assert encode_rows(files, codec, output) == 1700
    codes = open_packed_parquet(tmp_path / "codes")
    rows = np.concatenate([hidden[:1001], hidden[1001:1700].astype(np.float16).astype("f4")])
    np.testing.assert_array_equal(codes[:], codec.encode(rows))


@pytest.mark.usefixtures("in_process")
def test_workers_search_as_long_as_the_codec_would_here(
    hidden: np.ndarray, codec: BitCodec, tmp_path: Path
) -> None:
    searching = copy.deepcopy(codec).set_params(refine="fast")
    encode_rows(hidden[:600], searching, PackedParquet(tmp_path / "codes", codec))
    found = open_packed_parquet(tmp_path / "codes")[:]
    np.testing.assert_array_equal(found, searching.encode(hidden[:600]))
    assert (found != codec.encode(hidden[:600])).any()


@pytest.mark.usefixtures("in_process")
def test_an_archive_with_rows_gets_the_new_ones_behind_them(
    hidden: np.ndarray, codec: BitCodec, tmp_path: Path
) -> None:
    packed = codec.encode(hidden[:2000])
    archive = archive_of(tmp_path / "a.zarr", codec).append(packed[:1024])
    encode_rows(hidden[1024:2000], codec, archive)
    np.testing.assert_array_equal(open_archive(tmp_path / "a.zarr")[:], packed)
    with pytest.raises(ConfigError, match="no multiple of 512"):
        encode_rows(hidden[:9], codec, open_archive(tmp_path / "a.zarr", mode="r+"))


# what is read


def test_parquet_and_zarr_are_read_in_slices_across_their_borders(
    hidden: np.ndarray, tmp_path: Path
) -> None:
    lists = pa.array(list(hidden[:300]))
    pq.write_table(pa.table({"hidden": lists}), tmp_path / "a.parquet", row_group_size=70)
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(hidden[300:400].reshape(-1)), 576)
    pq.write_table(pa.table({"hidden": fixed}), tmp_path / "b.parquet")
    zarr.create_array(tmp_path / "a.zarr", data=hidden[:400])
    for source in (tmp_path, tmp_path / "a.zarr"):
        rows = open_rows(source)
        assert len(rows) == 400
        np.testing.assert_array_equal(np.asarray(rows[65:310]), hidden[65:310])
        assert np.shape(rows[400:500])[0] == 0


def test_sources_that_are_none_are_named(hidden: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no file"):
        open_rows(tmp_path / "none")
    (tmp_path / "half.parquet").write_bytes(b"PAR1")
    with pytest.raises(FormatError, match="not a whole Parquet"):
        open_rows(tmp_path / "half.parquet")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    with pytest.raises(ShapeError, match=r"no column 'hidden': the columns are \['text'\]"):
        open_rows(tmp_path / "text.parquet")
    np.save(tmp_path / "a.npy", hidden[:2])
    np.save(tmp_path / "b.npy", hidden[:2, :9])
    with pytest.raises(ShapeError, match="one width"):
        open_rows([tmp_path / "a.npy", tmp_path / "b.npy"])


# faults


def test_a_full_disk_is_told_and_leaves_nothing_visible(
    hidden: np.ndarray, codec: BitCodec, tmp_path: Path
) -> None:
    output = Faulty(archive_of(tmp_path / "a.zarr", codec), tmp_path, "full", at=1)
    with pytest.raises(FileError, match=r"shard 1 cannot be written.*No space") as raised:
        encode_rows(hidden[:1024], codec, output)
    assert type(raised.value) is FileError
    assert len(open_archive(tmp_path / "a.zarr")) == 0


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", ["archive", "parquet"])
def test_a_rerun_goes_on_behind_what_is_done(
    hidden: np.ndarray, codec: BitCodec, tmp_path: Path, kind: str
) -> None:
    journal = tmp_path / "journal"
    inner: Output = PackedParquet(tmp_path / "codes", codec, shard_rows=SHARD_ROWS)
    if kind == "archive":
        inner = archive_of(tmp_path / "codes", codec)
    output = Faulty(inner, tmp_path, "full", at=5)
    with pytest.raises(FileError, match="No space"):
        encode_rows(hidden, codec, output, journal=journal)
    with journal.open("a") as file:
        file.write('{"index": 5, "n_r')  # the disk was full here too
    n_tried = len(output.logged)
    encode_rows(hidden, codec, output, journal=journal)
    assert output.logged[n_tried:] == ["shard 5", "shard 6", "shard 7"]
    archive = kind == "archive"
    codes: Any = (open_archive if archive else open_packed_parquet)(tmp_path / "codes")
    np.testing.assert_array_equal(codes[:], codec.encode(hidden))
    assert not journal.exists()


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("n_rows", [1024, 1000])
def test_a_run_that_was_stopped_after_its_commit_is_not_done_twice(
    hidden: np.ndarray,
    codec: BitCodec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    n_rows: int,
) -> None:
    journal, archive = tmp_path / "journal", archive_of(tmp_path / "a.zarr", codec)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "remove", lambda self: None)
        encode_rows(hidden[:n_rows], codec, archive, journal=journal)
    assert encode_rows(hidden[:n_rows], codec, archive, journal=journal) == n_rows
    assert len(open_archive(tmp_path / "a.zarr")) == n_rows
    assert not journal.exists()


@pytest.mark.usefixtures("in_process")
def test_the_documented_lines_run(
    hidden: np.ndarray, codec: BitCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parent.parent / "docs" / "scale.md").read_text(encoding="utf-8")
    block = page.split("## Ray")[1].split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    np.save("hidden.npy", hidden[:600])
    codec.save("codec")
    exec(compile(block, "docs/scale.md", "exec"), {})
    np.testing.assert_array_equal(open_archive("codes.zarr")[:], codec.encode(hidden[:600]))
    assert not (tmp_path / "encode.journal").exists()


@pytest.mark.usefixtures("in_process")
def test_a_bad_row_is_named_by_the_rows_around_it(
    hidden: np.ndarray, codec: BitCodec, tmp_path: Path
) -> None:
    bad = hidden[:1200].copy()
    bad[700, 3] = np.nan
    output = PackedParquet(tmp_path / "codes", codec, shard_rows=SHARD_ROWS)
    with pytest.raises(ValueRangeError, match=r"rows 512 to 1024 of the source: row 188 holds NaN"):
        encode_rows(bad, codec, output)
    assert not (tmp_path / "codes").exists()


def test_a_worker_without_the_package_is_named_before_the_work(tmp_path: Path) -> None:
    # Python runs this file when it starts, and here it makes the package one that is not there.
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['bitcodec_ray'] = None")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    require_package()
    with pytest.raises(MissingExtraError, match=r"cannot import bitcodec_ray .*bitcodec\[ray\]"):
        require_package(runtime_env={"env_vars": {"PYTHONPATH": paths}})


def test_ray_is_started_before_its_nodes_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda: calls.append("init"))

    def nodes() -> list[str]:
        calls.append("nodes")
        return []

    monkeypatch.setattr("ray.nodes", nodes)
    require_package()
    assert "init" in calls[: calls.index("nodes")]


# refusals


def test_an_output_of_another_codec_is_refused(
    hidden: np.ndarray, codec: BitCodec, tmp_path: Path
) -> None:
    other = codec.recenter(hidden[:100])
    for output in (archive_of(tmp_path / "a", other), PackedParquet(tmp_path / "b", other)):
        with pytest.raises(MismatchError, match=f"not of {codec.fingerprint_[:12]}"):
            encode_rows(hidden, codec, output)


@pytest.mark.usefixtures("in_process")
def test_a_journal_of_another_job_is_refused(
    hidden: np.ndarray, codec: BitCodec, tmp_path: Path
) -> None:
    output = Faulty(
        PackedParquet(tmp_path / "codes", codec, shard_rows=SHARD_ROWS), tmp_path, "full"
    )
    journal = tmp_path / "journal"
    with pytest.raises(FileError, match="No space"):
        encode_rows(hidden, codec, output, journal=journal)
    with pytest.raises(MismatchError, match=r"another job \(n_rows, source differ\)"):
        encode_rows(hidden[:4000], codec, output, journal=journal)
    journal.write_text("no journal\n")
    with pytest.raises(FormatError, match="no journal"):
        encode_rows(hidden, codec, output, journal=journal)


def test_sources_of_another_width_or_without_rows_are_refused(
    hidden: np.ndarray, codec: BitCodec, tmp_path: Path
) -> None:
    output = PackedParquet(tmp_path / "codes", codec)
    with pytest.raises(ShapeError, match=r"\(n, 576\), got rows of \(9,\)"):
        encode_rows(hidden[:, :9], codec, output)
    with pytest.raises(ShapeError, match="no rows"):
        encode_rows(hidden[:0], codec, output)


@pytest.mark.parametrize(
    "numbers", [{"count": 0}, {"num_cpus": 0}, {"num_gpus": -1}, {"batch_rows": 0}]
)
def test_workers_of_nothing_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Workers(**numbers)
