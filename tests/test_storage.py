"""Codec folders and packed codes: read back as written, and refused when damaged or foreign."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from bitcodec import BitCodec, storage
from bitcodec.bits import pack
from bitcodec.errors import (
    BitcodecError,
    ConfigError,
    FileError,
    FormatError,
    MismatchError,
    NotFittedError,
    ShapeError,
)
from bitcodec.storage import PackedWriter, fingerprint, open_packed, packed_header_path
from tests.edited import edit_json


@pytest.fixture
def saved(codec: BitCodec, tmp_path: Path) -> Path:
    codec.save(tmp_path / "codec")
    return tmp_path / "codec"


def edit_header(folder: Path, **changes: Any) -> None:
    """Change keys of a codec's config.json; "-" removes one."""
    edit_json(folder / "config.json", **changes)


def rewrite_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Change a codec's tensors and give the header their fingerprint."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    edit_header(folder, fingerprint=fingerprint(tensors))


def refused(folder: Path) -> str:
    """Return the one-line message with which a folder is refused."""
    with pytest.raises(BitcodecError, match="codec") as raised:
        BitCodec.load(folder)
    assert isinstance(raised.value, (FormatError, FileError))
    assert "\n" not in str(raised.value)
    return str(raised.value)


# codec folders


def test_a_loaded_codec_does_what_the_saved_one_did(
    codec: BitCodec, saved: Path, hidden: np.ndarray
) -> None:
    loaded = BitCodec.load(saved)
    assert loaded.fingerprint_ == codec.fingerprint_
    assert loaded.get_params() == codec.get_params()
    packed = codec.encode(hidden[:100])
    np.testing.assert_array_equal(loaded.encode(hidden[:100]), packed)
    np.testing.assert_array_equal(loaded.decode(packed), codec.decode(packed))
    np.testing.assert_array_equal(loaded.burstiness(packed), codec.burstiness(packed))


def test_saving_a_loaded_codec_writes_the_same_files(saved: Path, tmp_path: Path) -> None:
    BitCodec.load(saved).save(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_the_header_tells_what_the_codec_is_and_where_it_came_from(
    hidden: np.ndarray, tmp_path: Path
) -> None:
    provenance = {"model": "SmolLM2-135M", "layer": 15}
    codec = BitCodec(n_bits=9, n_steps=3, batch_size=64, seed=5)
    codec.fit(hidden[:200], provenance=provenance).save(tmp_path / "codec")
    header = storage.read_codec_header(tmp_path / "codec")
    assert (header.n_dims, header.n_bits, header.n_rows) == (576, 9, 200)
    assert header.parameters.seed == 5
    assert header.provenance == provenance == BitCodec.load(tmp_path / "codec").provenance_
    assert header.training == dataclasses.asdict(codec.history_[-1])
    assert header.libraries["torch"] == metadata.version("torch")


def test_a_codec_folder_has_two_files_that_other_tools_read(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
    content = json.loads((saved / "config.json").read_text())
    assert (content["format"], content["format_version"]) == ("bitcodec-codec", 4)
    assert load_file(saved / "model.safetensors")["encoder_weight"].shape == (67, 576)


def test_the_fingerprint_changes_with_every_value_name_shape_and_dtype() -> None:
    base: dict[str, np.ndarray] = {"a": np.zeros((2, 3), np.float32), "b": np.arange(3)}
    others = [
        base | {"a": np.full((2, 3), 1e-40, np.float32)},
        base | {"a": np.zeros((3, 2), np.float32)},
        base | {"a": np.zeros((2, 3), np.int32)},
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"]},
    ]
    assert len({fingerprint(tensors) for tensors in [base, *others]}) == 6


def test_the_fingerprint_does_not_depend_on_order_or_layout() -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.arange(3)
    expected = fingerprint({"a": a, "b": b})
    for layout in (np.asfortranarray(a), a.astype(">f8"), np.repeat(a, 2, axis=0)[::2]):
        assert fingerprint({"b": b, "a": layout}) == expected


def test_the_fingerprint_is_sha256_of_a_fixed_text() -> None:
    found = fingerprint({"x": np.array([1, 2], dtype=np.uint8)})
    assert found == "4909aea5e4e719e33bcd1153df0c2f34c36db8505a5a4490d1b8fa7623ad91ac"


def test_an_existing_folder_is_refused_and_stays(saved: Path, codec: BitCodec) -> None:
    before = (saved / "config.json").read_bytes()
    with pytest.raises(FileError, match="codec exists: choose another name or allow overwriting"):
        codec.save(saved)
    assert (saved / "config.json").read_bytes() == before


def test_overwriting_replaces_a_codec(saved: Path, hidden: np.ndarray) -> None:
    other = BitCodec(n_bits=9, n_steps=3, batch_size=64).fit(hidden[:200])
    other.save(saved, overwrite=True)
    assert BitCodec.load(saved).fingerprint_ == other.fingerprint_


@pytest.mark.parametrize("config", [None, '{"model_type": "llama"}', "not json"])
def test_overwriting_never_replaces_a_folder_of_something_else(
    codec: BitCodec, tmp_path: Path, config: str | None
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_text("precious")
    if config is not None:
        (folder / "config.json").write_text(config)
    with pytest.raises((FileError, FormatError), match=r"will not be replaced|is not"):
        codec.save(folder, overwrite=True)
    assert (folder / "model.safetensors").read_text() == "precious"


def test_overwriting_never_takes_other_files_with_it(saved: Path, codec: BitCodec) -> None:
    (saved / "notes.txt").write_text("precious")
    with pytest.raises(
        FileError, match=r"is not a folder of only config.json and model.safetensors"
    ):
        codec.save(saved, overwrite=True)
    assert (saved / "notes.txt").read_text() == "precious"


def test_saving_into_a_missing_folder_says_to_create_it(codec: BitCodec, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="its parent folder does not exist: create it first"):
        codec.save(tmp_path / "missing" / "codec")


def test_a_codec_that_was_not_fitted_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError, match="was not fitted: call fit"):
        BitCodec().save(tmp_path / "codec")
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, sys
from bitcodec import BitCodec
from bitcodec.errors import FileError

codec = BitCodec.load(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for folder in sys.argv[1:]:
    try:
        codec.save(folder, overwrite=True)
    except FileError as error:
        print(error)
"""


def test_a_full_disk_is_reported_and_leaves_only_the_old_codec(
    saved: Path, codec: BitCodec, tmp_path: Path
) -> None:
    folders = [str(saved), str(tmp_path / "new")]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *folders], capture_output=True, text=True, check=True
    )
    reason = "the file would exceed the size limit of this process or file system"
    assert done.stdout.splitlines() == [f"cannot write {folder}: {reason}" for folder in folders]
    assert [path.name for path in tmp_path.iterdir()] == ["codec"]
    assert BitCodec.load(saved).fingerprint_ == codec.fingerprint_


def test_updating_the_statistics_does_not_spoil_what_is_saved(
    hidden: np.ndarray, tmp_path: Path
) -> None:
    codec = BitCodec(n_bits=9, n_steps=3, batch_size=64).fit(hidden[:200])
    codec.statistics_.update(codec.encode(hidden[200:300]))
    codec.save(tmp_path / "codec")
    assert BitCodec.load(tmp_path / "codec").fingerprint_ == codec.fingerprint_


def test_parameters_of_numpy_are_saved_as_numbers(hidden: np.ndarray, tmp_path: Path) -> None:
    codec = BitCodec(
        n_bits=np.int64(9),  # type: ignore[arg-type]
        n_steps=np.int32(3),  # type: ignore[arg-type]
        batch_size=64,
        temperature=np.float32(0.5),  # type: ignore[arg-type]
    )
    codec.fit(hidden[:200]).save(tmp_path / "codec")
    assert BitCodec.load(tmp_path / "codec").get_params()["n_bits"] == 9


# damaged and foreign codec folders


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert "missing-codec is not a codec folder" in refused(tmp_path / "missing-codec")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_without_one_of_its_files_names_it(saved: Path, name: str) -> None:
    (saved / name).unlink()
    assert f"it has no {name}" in refused(saved)


def test_a_codec_of_a_newer_format_asks_for_an_upgrade(saved: Path) -> None:
    edit_header(saved, format_version=5)
    assert "is of format 5, this version reads up to 4: upgrade bitcodec" in refused(saved)


@pytest.mark.parametrize("version", ["-", "1", 0, -1, None, 1.0])
def test_a_codec_without_a_valid_format_version_is_refused(saved: Path, version: Any) -> None:
    edit_header(saved, format_version=version)
    assert "has no valid format_version" in refused(saved)


@pytest.mark.parametrize("kind", ["-", "bitcodec-packed", None])
def test_a_config_of_something_else_is_refused(saved: Path, kind: Any) -> None:
    edit_header(saved, format=kind)
    assert "is not a bitcodec-codec header" in refused(saved)


def test_an_unknown_key_of_the_header_is_refused_with_the_known_ones(saved: Path) -> None:
    edit_header(saved, colour="red")
    assert "'colour' is unknown, expected n_dims, n_bits" in refused(saved)


@pytest.mark.parametrize("key", ["n_dims", "fingerprint", "parameters", "provenance"])
def test_a_missing_key_of_the_header_is_refused(saved: Path, key: str) -> None:
    edit_header(saved, **{key: "-"})
    assert "config.json" in refused(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_rows", "many"),
        ("n_rows", -1),
        ("n_rows", True),
        ("n_bits", 66),
        ("n_bits", 10**15),
        ("n_dims", 577),
        ("n_dims", 0),
        ("n_dims", -1),
        ("n_dims", 10**12),
        ("entropy_bits", None),
        ("training", []),
        ("parameters", []),
        ("parameters", 5),
        ("parameters", {"colour": "red"}),
        ("parameters", {"n_steps": -1}),
        ("parameters", {"n_bits": "many"}),
    ],
)
def test_a_wrong_value_in_the_header_is_refused(saved: Path, key: str, value: Any) -> None:
    edit_header(saved, **{key: value})
    refused(saved)


@pytest.mark.parametrize("place", [0, 9, 500, 5000, -1])
def test_a_flipped_bit_in_the_tensors_is_found(saved: Path, place: int) -> None:
    content = bytearray((saved / "model.safetensors").read_bytes())
    content[place] ^= 4
    (saved / "model.safetensors").write_bytes(content)
    refused(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("cut", [0, 5, 100, -1, -10])
def test_a_truncated_file_is_refused(saved: Path, name: str, cut: int) -> None:
    content = (saved / name).read_bytes()
    if content.endswith(b"\n"):
        content = content[:-1]
    (saved / name).write_bytes(content[:cut])
    refused(saved)


def test_weights_of_a_dtype_that_numpy_lacks_are_refused(saved: Path) -> None:
    from safetensors.torch import save_file as save_torch

    save_torch({"a": torch.zeros(2, dtype=torch.bfloat16)}, saved / "model.safetensors")
    refused(saved)


def spoil_weight(tensors: dict[str, np.ndarray]) -> None:
    tensors["encoder_weight"][3, 5] = np.nan


def spoil_dtype(tensors: dict[str, np.ndarray]) -> None:
    tensors["decoder_bias"] = tensors["decoder_bias"].astype(np.float64)


def spoil_shape(tensors: dict[str, np.ndarray]) -> None:
    tensors["mean"] = tensors["mean"][:-1].copy()


def spoil_counts(tensors: dict[str, np.ndarray]) -> None:
    tensors["counts"][2] = 10**9


def drop_tensor(tensors: dict[str, np.ndarray]) -> None:
    del tensors["encoder_weight"]


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (spoil_weight, "encoder_weight must be finite float32"),
        (spoil_dtype, "decoder_bias must be finite float32"),
        (spoil_shape, "must hold tensors"),
        (spoil_counts, "holds bit counts outside 0 to"),
        (drop_tensor, "encoder_weight must be (67, 576), got None"),
    ],
)
def test_tensors_that_make_no_codec_are_refused_though_their_fingerprint_fits(
    saved: Path, spoil: Callable[[dict[str, np.ndarray]], None], fault: str
) -> None:
    rewrite_tensors(saved, spoil)
    assert fault in refused(saved)


# packed codes


@pytest.fixture
def codes() -> np.ndarray:
    return pack(np.random.default_rng(0).random((50, 13)) < 0.3)


def write(path: Path, *batches: np.ndarray, **options: Any) -> None:
    with PackedWriter(path, n_bits=13, fingerprint="abc", **options) as writer:
        for batch in batches:
            writer.append(batch)


@pytest.mark.parametrize("cuts", [[], [1, 7, 7, 40]])
def test_packed_codes_read_back_as_they_were_written(
    tmp_path: Path, codes: np.ndarray, cuts: list[int]
) -> None:
    write(tmp_path / "codes.npy", *np.split(codes, cuts))
    header, packed = open_packed(tmp_path / "codes.npy", fingerprint="abc")
    assert isinstance(packed[:], np.memmap)
    np.testing.assert_array_equal(packed, codes)
    digest = hashlib.sha256(codes.tobytes()).hexdigest()[:16]
    said = (50, 13, 2, "abc", 0, "little", 2**19, digest, "float32")
    assert dataclasses.astuple(header) == said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codes.npy", "codes.npy.json"]


def test_no_codes_at_all_are_a_valid_file(tmp_path: Path) -> None:
    write(tmp_path / "codes.npy")
    assert open_packed(tmp_path / "codes.npy")[1].shape == (0, 2)


def test_a_failed_batch_leaves_neither_codes_nor_header(tmp_path: Path, codes: np.ndarray) -> None:
    with pytest.raises(ShapeError, match=r"rows must be \(n, 2\) uint8"):
        write(tmp_path / "codes.npy", codes, codes[:, :1])
    assert list(tmp_path.iterdir()) == []


def test_a_header_that_cannot_be_written_leaves_no_codes_and_keeps_the_old(
    tmp_path: Path, codes: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "codes.npy", codes)

    def refuse(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", refuse)
    for name in ("codes.npy", "new.npy"):
        with pytest.raises(FileError, match="no space left on the device"):
            write(tmp_path / name, codes[:3], overwrite=True)
    np.testing.assert_array_equal(open_packed(tmp_path / "codes.npy")[1], codes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codes.npy", "codes.npy.json"]


@pytest.mark.parametrize("name", ["codes.npy", "codes.npy.json"])
def test_existing_codes_or_headers_are_refused(
    tmp_path: Path, codes: np.ndarray, name: str
) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(FileError, match=f"{name} exists: choose another name or allow"):
        write(tmp_path / "codes.npy", codes)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_overwriting_replaces_codes_and_header(tmp_path: Path, codes: np.ndarray) -> None:
    write(tmp_path / "codes.npy", codes)
    write(tmp_path / "codes.npy", codes[:3], overwrite=True)
    np.testing.assert_array_equal(open_packed(tmp_path / "codes.npy")[1], codes[:3])


def test_codes_are_named_npy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"packed codes are written as \.npy, got .*codes\.bin"):
        write(tmp_path / "codes.bin")


def test_codes_of_another_codec_are_refused(tmp_path: Path, codes: np.ndarray) -> None:
    write(tmp_path / "codes.npy", codes)
    with pytest.raises(MismatchError, match="made by codec abc, not by xyz: use the codec that"):
        open_packed(tmp_path / "codes.npy", fingerprint="xyz")


@pytest.mark.parametrize(
    ("key", "value"),
    [("n_rows", 49), ("n_bits", 17), ("n_bits", 8), ("row_bytes", 3), ("row_bytes", 1)],
)
def test_a_header_that_contradicts_its_codes_is_refused(
    tmp_path: Path, codes: np.ndarray, key: str, value: int
) -> None:
    write(tmp_path / "codes.npy", codes)
    edit_json(packed_header_path(tmp_path / "codes.npy"), **{key: value})
    with pytest.raises(FormatError, match="belong to different codes"):
        open_packed(tmp_path / "codes.npy")


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("bit_order", "big", "says bit order 'big', expected 'little'"),
        ("format", "bitcodec-codec", "is not a bitcodec-packed header"),
        ("format_version", 5, "is of format 5, this version reads up to 4: upgrade bitcodec"),
        ("colour", "red", "'colour' is unknown"),
        ("fingerprint", "-", "'fingerprint' is missing"),
        ("n_bits", "many", "'n_bits' must be int, got 'many'"),
    ],
)
def test_a_foreign_header_of_codes_is_refused(
    tmp_path: Path, codes: np.ndarray, key: str, value: Any, fault: str
) -> None:
    write(tmp_path / "codes.npy", codes)
    edit_json(packed_header_path(tmp_path / "codes.npy"), **{key: value})
    with pytest.raises(FormatError, match=fault):
        open_packed(tmp_path / "codes.npy")


@pytest.mark.parametrize("name", ["codes.npy", "codes.npy.json"])
def test_a_missing_file_of_codes_is_named(tmp_path: Path, codes: np.ndarray, name: str) -> None:
    write(tmp_path / "codes.npy", codes)
    (tmp_path / name).unlink()
    with pytest.raises(FileError, match=f"{name} is not there|there is no file .*{name}"):
        open_packed(tmp_path / "codes.npy")


def test_truncated_codes_are_refused(tmp_path: Path, codes: np.ndarray) -> None:
    write(tmp_path / "codes.npy", codes)
    content = (tmp_path / "codes.npy").read_bytes()
    (tmp_path / "codes.npy").write_bytes(content[:-1])
    with pytest.raises(FormatError, match=r"codes\.npy is not a whole \.npy file"):
        open_packed(tmp_path / "codes.npy")


def test_an_archive_under_the_name_of_codes_is_refused(tmp_path: Path, codes: np.ndarray) -> None:
    write(tmp_path / "codes.npy", codes)
    np.savez(tmp_path / "archive.npz", codes)
    shutil.move(tmp_path / "archive.npz", tmp_path / "codes.npy")
    with pytest.raises(FormatError, match=r"codes\.npy is not a whole \.npy file"):
        open_packed(tmp_path / "codes.npy")
