"""`bitcodec sensitivity` and the fits that weigh errors by what it measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bitcodec import BitCodec
from bitcodec.sealed_json import sealed
from bitcodec_cli.main import main
from bitcodec_cli.provenance import describe_source
from bitcodec_cli.sensing import METADATA, TENSOR, read_sensitivity, write_sensitivity
from bitcodec_transformers import LanguageModel, sensitivity

TEXT = "The quick brown fox jumps over the lazy dog. " * 12
FIT = ("--n-bits", "48", "--n-steps", "20", "--batch-size", "256", "--device", "cpu")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def measured(harvest_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the harvest's layer, on a short text."""
    folder = tmp_path_factory.mktemp("sensitivity")
    (folder / "text.txt").write_text(TEXT)
    output = folder / "layer.safetensors"
    done = run("sensitivity", harvest_folder, folder / "text.txt", "-o", output)
    assert done.exit_code == 0, done.stderr
    return output


def test_it_measures_the_layer_of_the_harvest_with_its_model(
    measured: Path, harvest_folder: Path, language_model: LanguageModel
) -> None:
    told = describe_source(harvest_folder)
    matrix, said = read_sensitivity(measured, told)
    rows = {"context_length": told["harvest"]["context_length"], "median_norm": told["median_norm"]}
    expected = sensitivity([TEXT], model=language_model, layer=15, **rows)
    np.testing.assert_allclose(matrix, expected, rtol=1e-6, atol=1e-12 * np.abs(expected).max())
    assert (said["model"], said["layer"]) == (told["model"], 15)
    assert 100 < said["n_tokens"] < len(TEXT) / 3


def test_a_fit_weighs_errors_by_it_and_says_so(
    measured: Path, harvest_folder: Path, hidden: np.ndarray, tmp_path: Path
) -> None:
    share = ("--sensitivity", measured, "--sensitivity-share", "0.7")
    done = run("fit", harvest_folder, "-o", tmp_path / "codec", *FIT, *share)
    assert done.exit_code == 0, done.stderr
    codec = BitCodec.load(tmp_path / "codec", device="cpu")
    assert codec.provenance_["sensitivity"]["layer"] == 15
    again = BitCodec(**codec.get_params()).fit(
        harvest_folder, sensitivity=read_sensitivity(measured, {})[0]
    )
    assert again.sensitivity_share == 0.7
    assert (again.encode(hidden[:200]) == codec.encode(hidden[:200])).all()


def test_one_of_another_layer_is_refused(
    measured: Path, harvest_folder: Path, tmp_path: Path
) -> None:
    matrix, said = read_sensitivity(measured, {})
    other = tmp_path / "other.safetensors"
    write_sensitivity(other, matrix, said | {"layer": 8}, overwrite=False)
    done = run("fit", harvest_folder, "-o", tmp_path / "codec", *FIT, "--sensitivity", other)
    assert done.exit_code == 1
    assert "is of layer 8 of" in done.stderr
    assert "the hidden states are of layer 15" in done.stderr
    assert not (tmp_path / "codec").exists()


def test_files_that_cannot_be_trusted_are_refused(measured: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    matrix = load_file(measured)[TENSOR]
    said = {"model": {}, "layer": 1, "n_tokens": 1}
    silent = {"format_version": 1, "sha256": "", "model": "m"}
    bad: dict[str, Any] = {
        "no file of": {},
        "does not say of what model": sealed(silent),
        "format 2, this version reads 1": sealed({"format_version": 2, "sha256": "", **said}),
        "its matrix is not the one": sealed({"format_version": 1, "sha256": "", **said}),
        "its seal does not fit": {"format_version": 1, "sha256": "", **said},
    }
    for number, (words, header) in enumerate(bad.items()):
        path = tmp_path / str(number)
        metadata = {METADATA: json.dumps(header)} if header else {}
        save_file({TENSOR: matrix}, path, metadata=metadata)
        done = run("fit", "nothing.npy", "-o", tmp_path / "codec", "--sensitivity", path)
        assert done.exit_code == 1
        assert words in done.stderr
    done = run("fit", "nothing.npy", "-o", tmp_path / "codec", "--sensitivity", tmp_path / "none")
    assert f"there is no file {tmp_path / 'none'}" in done.stderr.replace("\n", "")


def test_what_is_no_harvest_and_a_share_of_nothing_are_refused(
    measured: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "hidden.npy", np.zeros((3, 4), np.float32))
    done = run("sensitivity", tmp_path / "hidden.npy", "-o", tmp_path / "out.safetensors")
    assert done.exit_code == 2
    assert "is no harvest, which would tell model and layer" in done.stderr
    done = run("fit", tmp_path / "hidden.npy", "-o", tmp_path / "codec", "--sensitivity-share", 0.2)
    assert done.exit_code == 2
    assert "the share of a --sensitivity" in done.stderr
    done = run("sensitivity", tmp_path, "-o", measured)
    assert done.exit_code == 1
    assert "exists" in done.stderr
