"""Packed rows are checked block by block, where they are read, and nowhere else."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitcodec import BitCodec, block_hashes, packed_files
from bitcodec.block_hashes import BlockHasher, BlockHashes, block_rows_of
from bitcodec.errors import ConfigError, FileError, FormatError, ShapeError
from bitcodec.packed_rows import PackedRows
from bitcodec.range_coding import learn_context
from bitcodec.storage import PackedWriter, open_packed, packed_header_path
from bitcodec_zarr import PackedArchive
from tests.edited import edit_json

BLOCK_ROWS = 16


def random_rows(n_rows: int, row_bytes: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n_rows, row_bytes), dtype=np.uint8)


def hashes_of(rows: np.ndarray, block_rows: int = BLOCK_ROWS) -> BlockHashes:
    hasher = BlockHasher(block_rows)
    hasher.update(rows)
    return hasher.finish()


def damaged(rows: np.ndarray, *numbers: int) -> PackedRows:
    """Make rows that were changed after their hashes were taken."""
    changed = rows.copy()
    changed[list(numbers), -1] ^= 1
    return PackedRows(changed, hashes_of(rows), where="codes.npy")


@pytest.fixture
def long_file(codec: BitCodec, hidden: np.ndarray, tmp_path: Path) -> Path:
    """Write the codes of real hidden states, several blocks of them."""
    path, packed = tmp_path / "codes.npy", codec.encode(hidden)
    with PackedWriter(path, n_bits=codec.n_bits_, fingerprint=codec.fingerprint_) as writer:
        while writer.n_rows * packed.shape[1] < 2.5 * block_hashes.BLOCK_BYTES:
            writer.append(packed)
    return path


@pytest.mark.parametrize("n_rows", [0, 1, 15, 16, 17, 50])
@pytest.mark.parametrize("cut", [0, 1, 7, 16, 33])
def test_hashes_do_not_depend_on_how_rows_came(n_rows: int, cut: int) -> None:
    rows, hasher = random_rows(n_rows), BlockHasher(BLOCK_ROWS)
    hasher.update(rows[:cut])
    hasher.update(rows[cut:])
    found = hasher.finish()
    assert found == hashes_of(rows)
    found.require_blocks_of(n_rows, where="codes.npy")
    assert len(found.digits) == 16 * -(-n_rows // BLOCK_ROWS)


@pytest.mark.parametrize(
    "part",
    [slice(None), slice(0, 0), slice(3, 9), slice(-9, None), slice(40, 5, -7), slice(60, 99)],
)
def test_slices_are_those_of_an_array(part: slice) -> None:
    rows = random_rows(50)
    packed = PackedRows(rows, hashes_of(rows), where="codes.npy")
    np.testing.assert_array_equal(packed[part], rows[part])
    np.testing.assert_array_equal(packed[-1], rows[-1])
    np.testing.assert_array_equal(packed, rows)
    assert (packed.shape, len(packed), packed.nbytes) == ((50, 3), 50, 150)
    assert packed.dtype == rows.dtype
    with pytest.raises(IndexError, match="out of range"):
        packed[50]


@pytest.mark.parametrize("row", range(50))
def test_every_slice_that_touches_a_damaged_block_is_refused(row: int) -> None:
    rows = random_rows(50)
    first = row - row % BLOCK_ROWS
    stop = min(first + BLOCK_ROWS, 50)
    for start in range(0, 50, 5):
        for end in range(start + 1, 51, 6):
            packed = damaged(rows, row)
            if start < stop and end > first:
                with pytest.raises(FormatError, match=f"rows {first} to {stop} are not those"):
                    packed[start:end]
            else:
                np.testing.assert_array_equal(packed[start:end], rows[start:end])


def test_a_row_and_all_rows_are_checked_too() -> None:
    packed = damaged(random_rows(50), 20)
    found = "rows 16 to 32 are not those that were written"
    with pytest.raises(FormatError, match=found):
        packed[31]
    with pytest.raises(FormatError, match=found):
        packed[:]
    with pytest.raises(FormatError, match=found):
        np.asarray(packed)
    assert packed[32] is not None


def test_blocks_that_change_places_are_found() -> None:
    rows = random_rows(32)
    packed = PackedRows(np.roll(rows, 16, axis=0), hashes_of(rows), where="codes.npy")
    with pytest.raises(FormatError, match="rows 0 to 16 are not those"):
        packed[0]


def test_a_block_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, seen, check = random_rows(50), [], BlockHashes.check

    def noted(hashes: BlockHashes, block: int, rows: np.ndarray, *, where: str) -> None:
        seen.append(block)
        check(hashes, block, rows, where=where)

    monkeypatch.setattr(BlockHashes, "check", noted)
    packed = PackedRows(rows, hashes_of(rows), where="codes.npy")
    for part in (slice(20, 30), slice(10, 20), slice(None), slice(None)):
        packed[part]
    assert seen == [1, 0, 2, 3]


def test_threads_share_rows() -> None:
    rows = random_rows(5000)
    packed = PackedRows(rows, hashes_of(rows), where="codes.npy")
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda i: packed[7 * i : 7 * i + 20], range(700)))
    for number, part in enumerate(parts):
        np.testing.assert_array_equal(part, rows[7 * number : 7 * number + 20])


def test_rows_travel_by_pickle_with_their_hashes() -> None:
    packed = pickle.loads(pickle.dumps(damaged(random_rows(50), 3)))
    np.testing.assert_array_equal(packed[16:], random_rows(50)[16:])
    with pytest.raises(FormatError, match="rows 0 to 16"):
        packed[0]


def test_a_file_of_many_blocks_is_read_where_it_is_whole(long_file: Path) -> None:
    header, packed = open_packed(long_file)
    size = header.block_rows
    assert size == block_hashes.BLOCK_BYTES // header.row_bytes
    assert len(header.block_sha256) == 16 * 3
    before = packed[:].copy()
    content = bytearray(long_file.read_bytes())
    content[-len(before) * header.row_bytes + size * header.row_bytes] ^= 4  # in the second block
    long_file.write_bytes(content)
    _, again = open_packed(long_file)
    np.testing.assert_array_equal(again[:size], before[:size])
    np.testing.assert_array_equal(again[2 * size :], before[2 * size :])
    with pytest.raises(FormatError, match=rf"codes\.npy is damaged: rows {size} to {2 * size}"):
        again[size]


def test_opening_reads_no_codes(long_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("codes were read")

    monkeypatch.setattr(BlockHashes, "check", refuse)
    _, packed = open_packed(long_file)
    assert len(packed) > 0
    with pytest.raises(AssertionError, match="codes were read"):
        packed[0]


@pytest.mark.parametrize(
    "change",
    [
        *({"block_rows": size} for size in (0, -1, 7, 2**62)),
        *({"block_sha256": digits} for digits in ("", "0" * 64)),
    ],
)
def test_hashes_that_are_not_of_these_rows_are_refused(
    long_file: Path, change: dict[str, object]
) -> None:
    edit_json(packed_header_path(long_file), **change)
    with pytest.raises(FormatError, match=r"which are not those of .* rows: it is damaged"):
        open_packed(long_file)


def test_a_file_that_grew_too_long_is_refused_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_files, "MAX_BLOCKS", 2)
    rows = random_rows(2 * block_rows_of(2**19), 2**19)
    with PackedWriter(tmp_path / "a.npy", n_bits=2**22, fingerprint="") as writer:
        writer.append(rows)
        with pytest.raises(FileError, match="write several files, or an archive"):
            writer.append(rows)


@pytest.mark.parametrize(("row_bytes", "expected"), [(1, 2**20), (288, 3640), (2**21, 1)])
def test_a_block_is_a_mebibyte_of_whole_rows(row_bytes: int, expected: int) -> None:
    assert block_rows_of(row_bytes) == expected


def test_rows_of_a_file_go_where_arrays_go(
    hidden: np.ndarray, codec: BitCodec, tmp_path: Path
) -> None:
    packed = codec.encode(hidden[:300])
    path = tmp_path / "codes.npy"
    with PackedWriter(path, n_bits=codec.n_bits_, fingerprint=codec.fingerprint_) as writer:
        writer.append(packed)
    rows = open_packed(tmp_path / "codes.npy")[1]
    archive = PackedArchive.create(tmp_path / "codes.zarr", codec).append(rows)
    np.testing.assert_array_equal(archive[:], packed)
    assert learn_context(rows, n_bits=67, n_steps=2) == learn_context(packed, n_bits=67, n_steps=2)
    np.testing.assert_array_equal(codec.decode(rows[:]), codec.decode(packed))


@pytest.mark.parametrize("wrong", [[1, 2], (slice(None), slice(2)), None, np.ones(4, bool)])
def test_rows_are_read_by_slices_and_numbers_alone(wrong: Any) -> None:
    packed = PackedRows(np.zeros((4, 2), np.uint8), None, where="codes.npy")
    with pytest.raises(ShapeError, match=r"by a slice or a number, got .* packed\[:\] for all"):
        packed[wrong]


@pytest.mark.parametrize("block_rows", [0, -1, 1.0, None, True])
def test_blocks_have_a_row_or_more(block_rows: Any) -> None:
    with pytest.raises(ConfigError, match="block_rows must be an integer of at least 1"):
        BlockHasher(block_rows)


def test_a_header_of_version_3_with_words_of_version_4_is_refused(
    long_file: Path, codec: BitCodec
) -> None:
    edit_json(packed_header_path(long_file), format_version=3)
    with pytest.raises(FormatError, match="'block_rows' is unknown in version 3"):
        open_packed(long_file)
