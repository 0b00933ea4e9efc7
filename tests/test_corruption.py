"""A flipped byte or a lost end: the same data come back, or an error, and never other data.

The long runs are `python -m tests.fuzz.damage NAME --flips 10000`.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches
from bitcodec.checksums import BLOCK_ROWS, METADATA_KEY, BlockChecksums
from bitcodec.errors import FormatError
from bitcodec.feature_sets import FeatureSets
from bitcodec.storage import PackedWriter, open_packed
from tests.artefacts import ARTEFACTS
from tests.fuzz.damage import damaged
from tests.fuzz.trial import Trial, take

CHECKED = [name for name in ARTEFACTS if name != "npy-stream"]  # which is no format of ours
N_FLIPS = {"archive": 30, "report": 60}


@pytest.mark.parametrize("name", CHECKED)
def test_damage_is_found_or_does_no_harm(name: str, tmp_path: Path) -> None:
    artefact, path = ARTEFACTS[name], tmp_path / "artefact"
    artefact.write(path)
    files, expected = take(path), repr(artefact.read(path))
    trial = Trial(path, artefact.read)
    ways = damaged(files, n_flips=N_FLIPS.get(name, 100), generator=random.Random(0), n_cuts=8)
    for what, changed in ways:
        outcome = trial.run(changed)
        assert outcome.kind != "fault", f"{what}: {outcome.what}"
        assert outcome.kind == "refused" or repr(outcome.value) == expected, what


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 16
    path.write_bytes(content)


def test_a_damaged_row_of_a_harvest_is_named(harvest_folder: Path, tmp_path: Path) -> None:
    shard = sorted((harvest_folder / "layer-15").glob("*.safetensors"))[1]
    copy = tmp_path / shard.name
    copy.write_bytes(shard.read_bytes())
    n_rows = HiddenBatches(copy).n_rows
    assert n_rows is not None
    flip(copy, -(n_rows - 1100) * 576 * 2)  # in row 1,100
    batches = HiddenBatches(copy).batches(100)
    for _ in range(10):
        next(batches)
    with pytest.raises(FormatError, match="is damaged: rows 1024 to 1280 are not those"):
        next(batches)
    with pytest.raises(FormatError, match="is damaged: rows 1024 to 1280"):
        list(HiddenBatches(copy).shuffled(64, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("batch_size", [1, 255, 256, 300])
def test_checked_rows_are_those_that_were_written(
    batch_size: int, harvest_folder: Path, hidden: np.ndarray
) -> None:
    shard = min((harvest_folder / "layer-15").glob("*.safetensors"))
    with safe_open(shard, framework="pt") as file:
        assert METADATA_KEY in file.metadata()
    read = torch.cat(list(HiddenBatches(shard).batches(batch_size))[: 600 // batch_size])
    np.testing.assert_array_equal(read.numpy(), hidden[: len(read)])


def test_a_damaged_code_is_found_when_codes_are_read(
    codec: BitCodec, hidden: np.ndarray, tmp_path: Path
) -> None:
    path, packed = tmp_path / "codes.npy", codec.encode(hidden[:500])
    with PackedWriter(path, n_bits=67, fingerprint=codec.fingerprint_) as writer:
        writer.append(packed[:200])
        writer.append(packed[200:])
    flip(path, -1234)
    _, verified = open_packed(path)
    with pytest.raises(FormatError, match="rows 0 to 500 are not those that were written"):
        verified[:1]
    _, unverified = open_packed(path, verify=False)
    assert np.count_nonzero(unverified[:] != packed) == 1


def test_a_damaged_bitmap_is_found_when_its_feature_is_asked_for(
    codec: BitCodec, hidden: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "features.bits"
    sets = FeatureSets.write(path, codec.encode(hidden[:500]), n_bits=67)
    flip(path, path.stat().st_size - 64)
    again = FeatureSets.open(path)
    assert again[65] == sets[65]
    with pytest.raises(FormatError, match="the bitmap of feature 66 is damaged"):
        again[66]


def test_a_block_moved_to_another_place_is_found() -> None:
    rows = np.random.default_rng(0).standard_normal((2 * BLOCK_ROWS, 3)).astype(np.float32)
    checksums = BlockChecksums.of(rows)
    checksums.check(rows, first_row=0, where="x")
    checksums.check(torch.from_numpy(rows[BLOCK_ROWS:]), first_row=BLOCK_ROWS, where="x")
    with pytest.raises(FormatError, match="rows 0 to 256 are not those"):
        checksums.check(rows[BLOCK_ROWS:], first_row=0, where="x")
    with pytest.raises(FormatError, match="rows 0 to 256 are not those"):
        checksums.check(rows.view(np.int32), first_row=0, where="x")


def test_the_file_of_another_tool_beside_hidden_states_is_not_called_damaged(
    tmp_path: Path,
) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 2), np.float32))
    (tmp_path / "a.npy.json").write_text('{"of": "another tool"}')
    with pytest.raises(FormatError, match=r"does not hold the checksums of a\.npy.*rename it"):
        HiddenBatches(tmp_path / "a.npy")
