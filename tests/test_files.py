"""Files appear whole or not at all; disk full, missing parents and existing names are reported."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bitcodec.errors import FileError, FormatError, ShapeError
from bitcodec.files import NpyWriter, atomic_path, open_npy, read_json, write_json

UINT8 = np.dtype(np.uint8)


def names(folder: Path) -> list[str]:
    """List everything in a folder, hidden names too."""
    return sorted(path.name for path in folder.iterdir())


def write_file(path: Path) -> None:
    path.write_text("new")


def write_folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("new")


def write_and_fail(target: Path, write: Callable[[Path], None]) -> None:
    with atomic_path(target, overwrite=True) as temporary:
        write(temporary)
        raise KeyError("midway")


def content(path: Path) -> str:
    return (path / "inside" if path.is_dir() else path).read_text()


WRITERS = pytest.mark.parametrize("write", [write_file, write_folder])


@WRITERS
def test_the_target_appears_only_when_the_block_ends(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    target = tmp_path / "out"
    with atomic_path(target) as temporary:
        write(temporary)
        assert not target.exists()
    assert content(target) == "new"
    assert names(tmp_path) == ["out"]


@WRITERS
def test_an_exception_leaves_nothing_behind(tmp_path: Path, write: Callable[[Path], None]) -> None:
    with pytest.raises(KeyError, match="midway"):
        write_and_fail(tmp_path / "out", write)
    assert names(tmp_path) == []


@WRITERS
def test_an_exception_leaves_the_old_target_as_it_was(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    target = tmp_path / "out"
    write(target)
    (target / "inside" if target.is_dir() else target).write_text("old")
    with pytest.raises(KeyError, match="midway"):
        write_and_fail(target, write)
    assert content(target) == "old"
    assert names(tmp_path) == ["out"]


@WRITERS
def test_overwriting_replaces_the_old_target_and_leaves_no_trace_of_it(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    target = tmp_path / "out"
    write(target)
    if target.is_dir():
        (target / "older").write_text("x")
    with atomic_path(target, overwrite=True) as temporary:
        write(temporary)
    assert content(target) == "new"
    assert names(tmp_path) == ["out"]
    assert not (target / "older").exists()


@WRITERS
def test_an_existing_target_is_refused_before_anything_is_written(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path / "out")
    with (
        pytest.raises(FileError, match=r"out exists: choose another name or allow overwriting it"),
        atomic_path(tmp_path / "out"),
    ):
        pytest.fail("the block must not run")


def test_a_target_that_appears_while_the_block_runs_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out"

    def write_while_another_does() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("new")
            target.write_text("somebody else's")

    with pytest.raises(FileError, match="out exists"):
        write_while_another_does()
    assert target.read_text() == "somebody else's"
    assert names(tmp_path) == ["out"]


def test_a_dangling_link_counts_as_an_existing_target(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileError, match="out exists"):
        write_json(tmp_path / "out", {})


def test_a_folder_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "out.npy").mkdir()
    (tmp_path / "out.npy" / "precious").write_text("x")
    with pytest.raises(FileError, match=r"out\.npy is a folder"):
        write_json(tmp_path / "out.npy", {}, overwrite=True)
    assert (tmp_path / "out.npy" / "precious").read_text() == "x"


def test_a_file_is_never_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    with (
        pytest.raises(FileError, match="out is a file"),
        atomic_path(tmp_path / "out", overwrite=True) as temporary,
    ):
        write_folder(temporary)
    assert (tmp_path / "out").read_text() == "precious"
    assert names(tmp_path) == ["out"]


def test_a_folder_name_is_refused_before_rows_are_written(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is a folder: name a file"):
        NpyWriter(tmp_path, n_columns=2, dtype=UINT8, overwrite=True)


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "out")
    rename = Path.rename

    def refuse_new(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr("bitcodec.files.swap_folders", lambda first, second: False)
    monkeypatch.setattr(Path, "rename", refuse_new)
    with (
        pytest.raises(FileError, match="no space left on the device"),
        atomic_path(tmp_path / "out", overwrite=True) as temporary,
    ):
        temporary.mkdir()
    assert content(tmp_path / "out") == "new"
    assert names(tmp_path) == ["out"]


def test_a_missing_parent_is_named_as_the_cause(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="its parent folder does not exist: create it first"):
        write_json(tmp_path / "missing" / "out.json", {})


def test_a_parent_that_is_a_file_is_named_as_the_cause(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="its parent is a file, not a folder"):
        write_json(tmp_path / "file" / "out.json", {})


def test_a_name_that_is_too_long_is_named_as_the_cause(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="its name is too long: choose a shorter one"):
        write_json(tmp_path / ("x" * 300), {})


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "no space left on the device: free some space or choose another place"),
        (errno.EDQUOT, "the disk quota is used up: free some space"),
        (errno.EROFS, "the file system is read-only: choose another place"),
        (errno.EACCES, "permission denied: choose a place you may write to"),
    ],
)
def test_a_refused_write_says_what_to_do_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, advice: str
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(FileError, match=advice) as raised:
        write_json(tmp_path / "out.json", {})
    assert "\n" not in str(raised.value)
    assert names(tmp_path) == []


def test_an_error_that_is_not_of_the_disk_passes_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="slow"), atomic_path(tmp_path / "out"):
        raise TimeoutError(errno.ETIMEDOUT, "slow")


def test_an_input_that_a_block_does_not_find_is_not_taken_for_the_target(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No such file.*input\.npy"), atomic_path(tmp_path / "out"):
        (tmp_path / "input.npy").read_bytes()


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from bitcodec.errors import FileError
from bitcodec.files import NpyWriter, write_json

folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    with NpyWriter(folder / "old.npy", n_columns=100, dtype=np.dtype("u1"), overwrite=True) as out:
        for _ in range(100):
            out.append(np.ones((10, 100), np.uint8))
except FileError as error:
    print(error)
try:
    write_json(folder / "new.json", {"text": "x" * 60_000})
except FileError as error:
    print(error)
"""


def test_a_full_disk_is_reported_and_leaves_only_the_old_file(tmp_path: Path) -> None:
    np.save(tmp_path / "old.npy", np.arange(5.0))
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    reason = "the file would exceed the size limit of this process or file system"
    assert lines == [
        f"cannot write {tmp_path / name}: {reason}" for name in ("old.npy", "new.json")
    ]
    assert names(tmp_path) == ["old.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "old.npy"), np.arange(5.0))


@pytest.mark.parametrize("batches", [[], [0], [3], [1, 0, 5000, 7]])
@pytest.mark.parametrize("dtype", ["u1", "<f2", "<f4"])
def test_numpy_reads_the_rows_that_were_appended(
    tmp_path: Path, batches: list[int], dtype: str
) -> None:
    rows = np.random.default_rng(0).integers(0, 99, (sum(batches), 5)).astype(dtype)
    with NpyWriter(tmp_path / "out.npy", n_columns=5, dtype=np.dtype(dtype)) as writer:
        for batch in np.split(rows, np.cumsum(batches)[:-1]) if batches else []:
            writer.append(batch)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), rows, strict=True)


def test_rows_that_are_not_contiguous_are_written_in_their_order(tmp_path: Path) -> None:
    rows = np.arange(24, dtype=np.uint8).reshape(4, 6)
    with NpyWriter(tmp_path / "out.npy", n_columns=4, dtype=UINT8) as writer:
        writer.append(rows.T)
        writer.append(rows.T[::-2])
    expected = np.concatenate([rows.T, rows.T[::-2]])
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected, strict=True)


def test_a_npy_file_with_a_failed_batch_never_appears(tmp_path: Path) -> None:
    def write_batches(*widths: int) -> None:
        with NpyWriter(tmp_path / "out.npy", n_columns=2, dtype=UINT8) as writer:
            for width in widths:
                writer.append(np.zeros((3, width), np.uint8))

    with pytest.raises(ShapeError, match=r"rows must be \(n, 2\) uint8, got \(3, 3\) uint8"):
        write_batches(2, 3)
    assert names(tmp_path) == []


@pytest.mark.parametrize("rows", [np.zeros((3, 2)), np.zeros(2, np.uint8)])
def test_rows_of_another_dtype_or_rank_are_not_written(tmp_path: Path, rows: np.ndarray) -> None:
    with (
        pytest.raises(ShapeError, match=r"rows must be \(n, 2\) uint8, got"),
        NpyWriter(tmp_path / "out.npy", n_columns=2, dtype=UINT8) as writer,
    ):
        writer.append(rows)


def test_a_npy_file_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(FileError, match="its parent folder does not exist"),
        NpyWriter(tmp_path / "missing" / "out.npy", n_columns=2, dtype=UINT8),
    ):
        pytest.fail("the block must not run")


def test_an_opened_npy_file_is_mapped_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6.0).reshape(2, 3))
    array = open_npy(tmp_path / "x.npy")
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable
    np.testing.assert_array_equal(array, np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("name", ["missing.npy", "folder.npy", "file.txt/x.npy"])
def test_opening_what_is_no_file_says_so(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(FileError, match="there is no file"):
        open_npy(tmp_path / name)


def npy_bytes() -> bytes:
    header = b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3), }"
    return header.ljust(127) + b"\n" + np.arange(12, dtype="<f4").tobytes()


BAD_NPY = {
    "empty": b"",
    "no magic": b"some text",
    "pickle": b"\x80\x04K\x01.",
    "zip": b"PK\x03\x04" + b"\0" * 60,
    "only magic": npy_bytes()[:6],
    "half a header": npy_bytes()[:60],
    "half the rows": npy_bytes()[:-24],
    "one byte less": npy_bytes()[:-1],
    "negative": npy_bytes().replace(b"(4, 3)", b"(-4, 3)").replace(b"  \n", b" \n"),
    "huge": npy_bytes().replace(b"(4, 3), }          ", b"(4000000000, 30), }"),
    "no dict": npy_bytes().replace(b"{'descr'", b"['descr'"),
    "large header": b"\x93NUMPY\x02\x00\x20\x4e\x00\x00".ljust(21000),
}


def test_the_bytes_that_are_spoilt_below_are_a_npy_file_before(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(npy_bytes())
    np.testing.assert_array_equal(open_npy(tmp_path / "x.npy"), np.arange(12.0).reshape(4, 3))


@pytest.mark.parametrize("name", BAD_NPY)
def test_a_truncated_or_foreign_npy_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    assert BAD_NPY[name] != npy_bytes()
    (tmp_path / "x.npy").write_bytes(BAD_NPY[name])
    with pytest.raises(FormatError, match=r"x\.npy is not a whole \.npy file") as raised:
        open_npy(tmp_path / "x.npy")
    assert "\n" not in str(raised.value)


def test_a_npy_file_of_python_objects_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[None]], dtype=object), allow_pickle=True)
    with pytest.raises(FormatError, match=r"object of shape .* are no numbers"):
        open_npy(tmp_path / "x.npy")


def test_json_reads_back_as_it_was_written(tmp_path: Path) -> None:
    written = {"name": "Wörter\n", "list": [1, 2.5, None], "nested": {"a": True}}
    write_json(tmp_path / "x.json", written)
    assert read_json(tmp_path / "x.json") == written


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "is not valid JSON"),
        (b'{"a": 1', "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[1, 2]", "must hold a JSON object, got list"),
    ],
)
def test_a_damaged_json_file_is_refused(tmp_path: Path, text: bytes, fault: str) -> None:
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(FormatError, match=fault) as raised:
        read_json(tmp_path / "x.json")
    assert "\n" not in str(raised.value)


def test_a_missing_json_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"there is no file .*x\.json"):
        read_json(tmp_path / "x.json")
