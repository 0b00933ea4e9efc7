"""One writer at a time; what a killed writer leaves is cleared by the next one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bitcodec import BitCodec
from bitcodec.block_coder import BlockCoder
from bitcodec.checkpoints import Checkpoint
from bitcodec.errors import FileError
from bitcodec.files import atomic_pair, atomic_path
from bitcodec.locks import nobody_writes_into, writing_alone, writing_into
from bitcodec.renaming import hidden_name, rename_together, settle, swap_folders
from bitcodec.storage import PackedWriter, open_packed, packed_header_path
from bitcodec_cli.main import main
from bitcodec_faiss import HammingIndex, load_index
from bitcodec_ray import PackedParquet
from bitcodec_transformers import LanguageModel, harvest
from bitcodec_zarr import PackedArchive, open_archive

BUSY = "is being written by another process: wait until it has ended"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def written_by_another(target: Path) -> Iterator[None]:
    """Have another thread hold the lock: to us it is as another process."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with writing_alone(target):
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_of_two_writers_of_a_file_one_is_told(tmp_path: Path) -> None:
    with written_by_another(tmp_path / "out"):
        with pytest.raises(FileError, match=BUSY), atomic_path(tmp_path / "out"):
            pytest.fail("the block must not run")
        with atomic_path(tmp_path / "other") as temporary:
            temporary.write_text("of another name")
    assert names(tmp_path) == ["other"]


def test_a_lock_holds_against_another_process_and_dies_with_it(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom bitcodec.locks import writing_alone\n"
        "with writing_alone(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(FileError, match=BUSY), writing_alone(tmp_path / "out"):
            pytest.fail("the block must not run")
        other.kill()
        other.wait()
    assert names(tmp_path) == [".out.lock"]
    with atomic_path(tmp_path / "out") as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == ["out"]


def test_a_forked_child_does_not_hold_the_locks_of_its_parent(tmp_path: Path) -> None:
    with writing_alone(tmp_path / "out"):
        child = os.fork()
        if not child:
            status = 1
            try:
                with writing_alone(tmp_path / "out"):
                    pass
            except FileError:
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0


def test_a_thread_may_write_what_it_has_locked(tmp_path: Path) -> None:
    with writing_alone(tmp_path / "out"):
        with atomic_path(tmp_path / "out") as temporary:
            temporary.write_text("new")
        assert names(tmp_path) == [".out.lock", "out"]
    assert names(tmp_path) == ["out"]


def test_a_file_system_without_locks_is_written_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr("bitcodec.locks.fcntl.flock", refuse)
    leaving = hidden_name(tmp_path / "out", "partial")
    leaving.write_text("of a writer that may be alive")
    with atomic_path(tmp_path / "out") as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == sorted([leaving.name, "out"])


def test_the_next_writer_clears_what_killed_ones_left_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "codes.npy"
    for ending in ("partial", "staged"):
        hidden_name(target, ending).write_text("half")
        hidden_name(hidden_name(target, ending), "partial").write_text("half")
    hidden_name(target, "partial").mkdir()
    others = [hidden_name(tmp_path / "other.npy", "partial"), tmp_path / ".codes.npy.partial"]
    for other in others:
        other.write_text("not ours")
    with atomic_path(target) as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == sorted([*(other.name for other in others), "codes.npy"])


def test_a_folder_that_was_set_aside_when_its_writer_died_comes_back(tmp_path: Path) -> None:
    aside = hidden_name(tmp_path / "out", "old")
    aside.mkdir()
    (aside / "inside").write_text("old")
    with pytest.raises(FileError, match="out exists"), atomic_path(tmp_path / "out") as temporary:
        temporary.mkdir()
    assert (tmp_path / "out" / "inside").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_folders_swap_in_one_step(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not swap_folders(tmp_path / "first", tmp_path / "second"):
        pytest.skip("this system cannot")
    assert names(tmp_path / "first") == ["second"]
    with pytest.raises(OSError, match="No such file"):
        swap_folders(tmp_path / "first", tmp_path / "missing")


def staged_pair(folder: Path) -> dict[Path, Path]:
    """Old files a and b, and new ones under hidden names."""
    renames = {}
    for name in ("a", "b"):
        (folder / name).write_text("old")
        temporary = hidden_name(folder / name, "staged")
        temporary.write_text("new")
        renames[temporary] = folder / name
    return renames


@pytest.mark.parametrize("n_done", [0, 1, 2])
def test_a_pair_whose_writer_died_between_its_renames_is_finished_by_who_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_done: int
) -> None:
    renames, replace = staged_pair(tmp_path), Path.replace
    calls = 0

    def die_after_some(path: Path, target: Path) -> Path:
        nonlocal calls
        if calls == n_done:
            raise KeyboardInterrupt
        calls += 1
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", die_after_some)
    if n_done < 2:
        with pytest.raises(KeyboardInterrupt):
            rename_together(renames)
    else:
        rename_together(renames)
    monkeypatch.undo()
    settle(tmp_path / "b")
    assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["new", "new"]
    assert names(tmp_path) == ["a", "b"]


def test_a_pair_whose_writer_died_is_finished_before_the_next_writer_fails(tmp_path: Path) -> None:
    renames = staged_pair(tmp_path)
    journal = hidden_name(tmp_path / "b", "commit")
    journal.write_text(json.dumps({new.name: final.name for new, final in renames.items()}))
    pair = atomic_pair(tmp_path / "a", tmp_path / "b", overwrite=True)
    with pytest.raises(KeyError, match="midway"), pair:
        raise KeyError("midway")
    assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["new", "new"]
    assert names(tmp_path) == ["a", "b"]


def test_a_pair_one_of_which_cannot_be_put_in_place_leaves_both_old_ones(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").mkdir()
    pair = atomic_pair(tmp_path / "a", tmp_path / "b", overwrite=True)
    with pytest.raises(FileError, match="b is a folder and no file will replace it"), pair as new:
        for path in new:
            path.write_text("new")
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a", "b"]


def test_a_pair_that_fails_before_it_is_whole_leaves_the_old_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("old")

    def write_half() -> None:
        with atomic_pair(tmp_path / "a", tmp_path / "b", overwrite=True) as (first, _):
            first.write_text("new")
            raise KeyError("midway")

    with pytest.raises(KeyError, match="midway"):
        write_half()
    assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["old", "old"]
    assert names(tmp_path) == ["a", "b"]


def test_packed_codes_and_their_header_change_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replace = tmp_path / "codes.npy", Path.replace

    def write(value: int) -> None:
        with PackedWriter(path, n_bits=8, fingerprint=f"{value}", overwrite=True) as writer:
            writer.append(np.full((2, 1), value, np.uint8))

    def die_before_the_header(present: Path, final: Path) -> Path:
        if final == packed_header_path(path):
            raise KeyboardInterrupt
        return replace(present, final)

    write(1)
    monkeypatch.setattr(Path, "replace", die_before_the_header)
    monkeypatch.setattr("bitcodec.files.remove", lambda path: None)  # as the dead do not
    with pytest.raises(KeyboardInterrupt):
        write(2)
    monkeypatch.undo()
    header, packed = open_packed(path)
    assert (header.fingerprint, packed[:].tolist()) == ("2", [[2], [2]])


def test_of_two_commands_that_change_an_index_one_is_told(
    codec: BitCodec, hidden: np.ndarray, tmp_path: Path
) -> None:
    codec.save(tmp_path / "codec")
    index = HammingIndex(codec)
    index.add(hidden[:10])
    index.save(tmp_path / "index")
    np.save(tmp_path / "more.npy", hidden[10:20])
    where = [str(tmp_path / name) for name in ("codec", "index")]
    for command in (["add", *where, str(tmp_path / "more.npy")], ["remove", *where, "-"]):
        with written_by_another(tmp_path / "index"):
            result = CliRunner().invoke(main, ["index", *command], input="3\n")
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")
        assert BUSY in result.stderr
    assert len(load_index(tmp_path / "index", codec)) == 10


def test_of_two_appends_to_an_archive_one_is_told_before_it_writes(
    codec: BitCodec, hidden: np.ndarray, tmp_path: Path
) -> None:
    packed = codec.encode(hidden[:40])
    archive = PackedArchive.create(tmp_path / "codes.zarr", codec, chunk_rows=8, shard_rows=32)
    archive.append(packed[:20])
    with written_by_another(tmp_path / "codes.zarr"), pytest.raises(FileError, match=BUSY):
        archive.append(packed[20:])
    np.testing.assert_array_equal(open_archive(tmp_path / "codes.zarr")[0:20], packed[:20])
    archive.append(packed[20:])
    np.testing.assert_array_equal(open_archive(tmp_path / "codes.zarr")[0:40], packed)


def test_what_others_are_writing_into_an_archive_is_left_alone(
    codec: BitCodec, hidden: np.ndarray, tmp_path: Path
) -> None:
    archive = PackedArchive.create(tmp_path / "codes.zarr", codec, chunk_rows=8, shard_rows=32)
    unfinished = tmp_path / "codes.zarr" / "c" / "5" / "0.1.partial"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(b"half a shard")
    with writing_into(tmp_path / "codes.zarr"):  # as `write_shard` does
        archive.append(codec.encode(hidden[:20]))
    assert unfinished.exists()
    archive.append(codec.encode(hidden[20:40]))
    assert not unfinished.exists()


def test_writers_of_shards_say_so(
    codec: BitCodec, hidden: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, seen = PackedArchive.create(tmp_path / "codes.zarr", codec, shard_rows=256), []
    encode = BlockCoder.encode

    def look(coder: BlockCoder, packed: np.ndarray, **more: int) -> bytes:
        with nobody_writes_into(tmp_path / "codes.zarr") as is_alone:
            seen.append(is_alone)
        return encode(coder, packed, **more)

    monkeypatch.setattr(BlockCoder, "encode", look)
    archive.write_shard(0, codec.encode(hidden[:20]))
    assert seen == [False]
    with nobody_writes_into(tmp_path / "codes.zarr") as is_alone:
        assert is_alone


def test_of_two_jobs_that_write_shards_one_is_told(codec: BitCodec, tmp_path: Path) -> None:
    archive = PackedArchive.create(tmp_path / "codes.zarr", codec)
    parquet = PackedParquet(tmp_path / "codes", codec)
    for output, folder in ((archive, "codes.zarr"), (parquet, "codes")):
        with (
            written_by_another(tmp_path / folder),
            pytest.raises(FileError, match=BUSY),
            output.alone(),
        ):
            pytest.fail("the block must not run")
        with output.alone():
            pass
    assert names(tmp_path) == ["codes.zarr"]


def test_of_two_fits_with_one_checkpoint_one_is_told(hidden: np.ndarray, tmp_path: Path) -> None:
    codec = BitCodec(n_bits=8, n_steps=2, batch_size=64)
    with (
        written_by_another(tmp_path / "fit.state"),
        pytest.raises(FileError, match=BUSY),
    ):
        codec.fit(hidden[:200], checkpoint=tmp_path / "fit.state")
    with Checkpoint(tmp_path / "fit.state", every=1).alone():
        pass
    assert names(tmp_path) == []


def test_of_two_harvests_into_one_folder_one_is_told(
    language_model: LanguageModel, tmp_path: Path
) -> None:
    with written_by_another(tmp_path / "hidden"), pytest.raises(FileError, match=BUSY):
        harvest(["A text."], model=language_model, layers=[1], output=tmp_path / "hidden")
    harvest(["A text."], model=language_model, layers=[1], output=tmp_path / "hidden")
    assert names(tmp_path) == ["hidden"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_told_to_stop_says_so_and_leaves_the_old_file(
    codec: BitCodec, hidden: np.ndarray, tmp_path: Path, number: signal.Signals
) -> None:
    codec.save(tmp_path / "codec")
    (tmp_path / "codes.npy").write_text("old")
    np.save(tmp_path / "hidden.npy", hidden)
    command = [sys.executable, "-m", "bitcodec_cli", "encode", "codec", "-", "-o", "codes.npy"]
    with subprocess.Popen(
        [*command, "--overwrite"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # In the background of a shell SIGINT is ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdin is not None
        process.stdin.write((tmp_path / "hidden.npy").read_bytes()[:100_000])
        process.stdin.flush()
        while not list(tmp_path.glob("*staged*")):  # it waits for the other rows
            assert process.poll() is None
        process.send_signal(number)
        told = process.communicate()[1].decode()
    assert process.returncode == 128 + number
    assert told.rstrip().splitlines()[-1].startswith(f"error: stopped by {number.name}: files are")
    assert "Traceback" not in told
    assert (tmp_path / "codes.npy").read_text() == "old"
    assert names(tmp_path) == ["codec", "codes.npy", "hidden.npy"]
