"""Features as sets of rows, against numpy on unpacked bits."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from bitarray import bitarray
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcodec import BitCodec, FeatureSets, feature_sets
from bitcodec.bits import pack
from bitcodec.errors import (
    ConfigError,
    FileError,
    FormatError,
    MismatchError,
    NotFittedError,
    ShapeError,
    ValueRangeError,
)
from tests.test_statistics import random_bits

GOLDEN = "f8c04677204b4aaa3318067a77cd264e"


@settings(max_examples=60)
@given(
    n_rows=st.sampled_from([0, 1, 7, 8, 9, 63, 64, 65, 512, 513]),
    n_bits=st.integers(2, 17),
    seed=st.integers(0, 9),
)
def test_sets_answer_as_the_bits_do(n_rows: int, n_bits: int, seed: int) -> None:
    bits = random_bits(n_rows, n_bits, seed=seed).astype(bool)
    sets = FeatureSets.from_packed(pack(bits), n_bits=n_bits)
    a, b, x, y = sets[0], sets[n_bits - 1], bits[:, 0], bits[:, -1]
    answers = [
        (a & b, x & y),
        (a | b, x | y),
        (a ^ b, x ^ y),
        (a - b, x & ~y),
        (~a, ~x),
        (a & ~b | ~a, (x & ~y) | ~x),
    ]
    for found, expected in answers:
        rows = np.flatnonzero(expected)
        np.testing.assert_array_equal(found.rows(), rows)
        np.testing.assert_array_equal(found.first(3), rows[:3])
        assert list(found) == rows.tolist()
        assert (len(found), bool(found)) == (len(rows), len(rows) > 0)
        assert found.to_bitarray() == bitarray(expected.tolist(), endian="little")
    np.testing.assert_array_equal(sets.counts, bits.sum(axis=0))


def test_features_of_real_codes_are_their_columns(codec: BitCodec, hidden: np.ndarray) -> None:
    packed, bits = codec.encode(hidden), codec.encode_bits(hidden)
    sets = codec.feature_sets(packed)
    assert (len(sets), sets.n_rows, sets.fingerprint) == (67, len(hidden), codec.fingerprint_)
    for feature, rows in enumerate(sets):
        np.testing.assert_array_equal(rows.rows(), np.flatnonzero(bits[:, feature]))
    assert (sets.counts == bits.sum(axis=0)).all()
    sets.check()


def test_side_bytes_are_no_features(hidden: np.ndarray) -> None:
    codec = BitCodec.preset("search", n_bits=20, n_steps=3, batch_size=64).fit(hidden[:600])
    sets = codec.feature_sets(codec.encode(hidden[:600]))
    np.testing.assert_array_equal(sets.counts, codec.encode_bits(hidden[:600]).sum(axis=0))


def test_all_and_none_are_each_others_opposite() -> None:
    sets = FeatureSets.from_packed(pack(random_bits(77, 3)), n_bits=3)
    assert (len(sets.all()), len(sets.none())) == (77, 0)
    assert ~sets.all() == sets.none()
    assert sets[1] | ~sets[1] == sets.all()


def test_a_row_is_asked_for_by_its_number() -> None:
    rows = FeatureSets.from_packed(np.array([[0], [1]], np.uint8), n_bits=1)[0]
    assert [row in rows for row in (-1, 0, 1, 2)] == [False, False, True, False]
    assert repr(rows) == "RowSet(1 of 2 rows)"


@pytest.mark.parametrize("cuts", [[], [3], [1, 8, 8, 77]])
def test_a_file_written_as_a_stream_is_mapped_back(
    cuts: list[int],
    codec: BitCodec,
    hidden: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feature_sets, "BLOCK_ROWS", 64)
    packed = codec.encode(hidden[:1000])
    batches = np.split(packed, cuts)
    written = FeatureSets.write(
        tmp_path / "f.bits", iter(batches), n_bits=67, n_rows=1000, fingerprint=codec.fingerprint_
    )
    opened = FeatureSets.open(tmp_path / "f.bits", fingerprint=codec.fingerprint_)
    expected = codec.feature_sets(packed)
    assert list(written) == list(opened) == list(expected)
    assert opened.counts.tolist() == expected.counts.tolist()
    opened.check()


def test_saving_and_writing_give_the_same_bytes(tmp_path: Path) -> None:
    packed = pack(random_bits(100, 5))
    FeatureSets.write(tmp_path / "written.bits", packed, n_bits=5)
    FeatureSets.from_packed(packed, n_bits=5).save(tmp_path / "saved.bits")
    assert (tmp_path / "written.bits").read_bytes() == (tmp_path / "saved.bits").read_bytes()


def test_the_format_stays_what_it_was(tmp_path: Path) -> None:
    bits = (np.arange(700)[:, None] % [2, 3, 50] == 0).astype(np.uint8)
    sets = FeatureSets.from_packed(pack(bits), n_bits=3, fingerprint="ab" * 32)
    sets.save(tmp_path / "golden.bits")
    content = (tmp_path / "golden.bits").read_bytes()
    assert len(content) == 128 + 3 * 128
    assert content[128:130] == b"\x55\x55"  # every second row
    assert content[128 + 2 * 128 + 6] == 4  # row 50
    assert hashlib.blake2b(content, digest_size=16).hexdigest() == GOLDEN


def test_sets_of_no_rows_are_saved_and_opened(tmp_path: Path) -> None:
    FeatureSets.write(tmp_path / "f.bits", np.zeros((0, 1), np.uint8), n_bits=8)
    opened = FeatureSets.open(tmp_path / "f.bits")
    assert (len(opened), opened.n_rows, opened[3].rows().tolist()) == (8, 0, [])


def test_mapped_sets_cannot_be_changed(tmp_path: Path) -> None:
    sets = FeatureSets.write(tmp_path / "f.bits", pack(random_bits(9, 2)), n_bits=2)
    with pytest.raises(TypeError, match="read-only"):
        sets[0]._bits[0] = 1


def test_an_existing_file_is_not_overwritten_unasked(tmp_path: Path) -> None:
    packed = pack(random_bits(9, 2))
    FeatureSets.write(tmp_path / "f.bits", packed, n_bits=2)
    with pytest.raises(FileError, match=r"f.bits exists: choose another name"):
        FeatureSets.write(tmp_path / "f.bits", packed, n_bits=2)
    FeatureSets.write(tmp_path / "f.bits", packed[:5], n_bits=2, overwrite=True)
    assert FeatureSets.open(tmp_path / "f.bits").n_rows == 5


@pytest.mark.parametrize("n_rows", [8, 10])
def test_a_stream_of_another_number_of_rows_leaves_no_file(n_rows: int, tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=f"expected {n_rows} rows, got"):
        FeatureSets.write(tmp_path / "f.bits", [pack(random_bits(9, 2))], n_bits=2, n_rows=n_rows)
    assert list(tmp_path.iterdir()) == []


def test_a_stream_needs_its_number_of_rows(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="pass n_rows beside a stream"):
        FeatureSets.write(tmp_path / "f.bits", [pack(random_bits(9, 2))], n_bits=2)


def changed(content: bytes, place: int, value: int) -> bytes:
    return content[:place] + bytes([value]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "is no file of feature sets"),
        (lambda content: b"x" * 500, "is no file of feature sets"),
        (lambda content: changed(content, 8, 9), "is of version 9, this bitcodec reads 2"),
        (lambda content: content[:-1], "must have 256 bytes, got 255: truncated"),
        (lambda content: content + b"x", "must have 256 bytes, got 257: truncated"),
        (lambda content: changed(content, 19, 255), "must have .* bytes, got 256: truncated"),
        (lambda content: changed(content, 12, 0), "has no features"),
        (lambda content: changed(content, 56, 7), "has a damaged header: build it again"),
        (lambda content: changed(content, 30, 7), "has a damaged header: build it again"),
    ],
    ids=["empty", "foreign", "newer", "short", "long", "rows", "features", "counts", "codec"],
)
def test_a_damaged_file_is_refused(damage: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "f.bits"
    FeatureSets.write(path, pack(random_bits(9, 2)), n_bits=2)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(FormatError, match=message):
        FeatureSets.open(path)


@pytest.mark.parametrize("place", [0, 63], ids=["row", "pad"])
def test_a_damaged_bitmap_is_found_by_check(place: int, tmp_path: Path) -> None:
    path = tmp_path / "f.bits"
    FeatureSets.write(path, np.zeros((9, 1), np.uint8), n_bits=2)
    path.write_bytes(changed(path.read_bytes(), 128 + 64 + place, 128))
    with pytest.raises(FormatError, match="the bitmap of feature 1 is damaged"):
        FeatureSets.open(path).check()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"there is no file .*nothing.bits"):
        FeatureSets.open(tmp_path / "nothing.bits")


def test_the_sets_of_another_codec_are_refused(codec: BitCodec, tmp_path: Path) -> None:
    FeatureSets.write(tmp_path / "f.bits", pack(random_bits(9, 2)), n_bits=2)
    with pytest.raises(MismatchError, match="holds features of codec unknown, not of"):
        FeatureSets.open(tmp_path / "f.bits", fingerprint=codec.fingerprint_)


@pytest.mark.parametrize("feature", [-1, 2])
def test_a_feature_that_is_not_there_is_refused(feature: int) -> None:
    sets = FeatureSets.from_packed(pack(random_bits(9, 2)), n_bits=2)
    with pytest.raises(ValueRangeError, match=f"feature must be between 0 and 1, got {feature}"):
        sets[feature]


def test_sets_of_other_rows_do_not_combine() -> None:
    one, two = (FeatureSets.from_packed(pack(random_bits(n, 1)), n_bits=1)[0] for n in (9, 10))
    with pytest.raises(ShapeError, match="cannot combine sets of 9 and 10 rows"):
        _ = one & two
    with pytest.raises(TypeError, match="expected a set of rows, got set"):
        _ = one & {1, 2}  # type: ignore[operator]


def test_codes_of_another_width_are_refused(codec: BitCodec) -> None:
    with pytest.raises(ShapeError, match=r"packed must be \(n, 2\) for 9 bits, got \(4, 1\)"):
        FeatureSets.from_packed(np.zeros((4, 1), np.uint8), n_bits=9)
    with pytest.raises(ShapeError, match=r"packed must be \(n, 9\), got \(4, 1\)"):
        codec.feature_sets(np.zeros((4, 1), np.uint8))


def test_a_codec_that_was_not_fitted_has_no_sets() -> None:
    with pytest.raises(NotFittedError, match="this codec was not fitted: call fit"):
        BitCodec().feature_sets(np.zeros((4, 1), np.uint8))


def test_a_fingerprint_of_another_length_is_refused() -> None:
    with pytest.raises(ConfigError, match="a fingerprint has 64 digits, got 'abc'"):
        FeatureSets.from_packed(np.zeros((4, 1), np.uint8), n_bits=8, fingerprint="abc")


def test_the_whole_file_is_reserved_before_it_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int, offset: int, size: int) -> None:
        del handle, offset, size
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(FileError, match="no space left on the device: free some space"):
        FeatureSets.write(tmp_path / "f.bits", pack(random_bits(9, 2)), n_bits=2)
    assert list(tmp_path.iterdir()) == []
