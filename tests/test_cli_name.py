"""`bitcodec name` on a real harvest, and its names on a report's page."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from bitcodec import BitCodec
from bitcodec_naming import Names
from tests.test_cli import last_line, run

FEW = ("--contexts", "10", "6", "--sample", "12", "--top-k", "0")


@pytest.fixture(scope="module")
def codec_folder(codec: BitCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("name") / "codec"
    codec.save(folder)
    return folder


@pytest.fixture(scope="module")
def names_file(codec_folder: Path, harvest_folder: Path) -> Path:
    path = codec_folder.parent / "names.json"
    result = run("name", codec_folder, harvest_folder, *FEW, "-o", path)
    assert result.exit_code == 0, result.stderr
    return path


def test_the_tables_tell_scores_controls_counts_and_names(
    codec_folder: Path, harvest_folder: Path, names_file: Path
) -> None:
    picture = codec_folder.parent / "scores.png"
    drawn = ("--beside", names_file, "--picture", picture)
    result = run("name", codec_folder, harvest_folder, *FEW, *drawn)
    assert result.exit_code == 0, result.stderr
    for words in (
        "names by lexical",
        "score: right answers (chance 0.5)",
        "the same under another feature's name",
        "interpretable features",
        "at equal activity",
        "names that hold best",
    ):
        assert words in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_json_is_the_names_of_the_library(names_file: Path, codec: BitCodec) -> None:
    names = Names.load(names_file)
    assert len(names.names) == 12
    assert (names.fingerprint, names.n_features) == (codec.fingerprint_, 67)
    assert (names.settings.n_named, names.settings.top_k) == (10, None)


def test_info_tells_judge_and_codec_of_names(names_file: Path, codec: BitCodec) -> None:
    told = json.loads(run("info", names_file, "--json").stdout)
    assert (told["kind"], told["judge"], told["n_named"]) == ("names", "lexical", 12)
    assert told["fingerprint"] == codec.fingerprint_


def test_codes_at_hand_give_the_same_names(
    codec_folder: Path, harvest_folder: Path, names_file: Path, tmp_path: Path
) -> None:
    codes = tmp_path / "codes.npy"
    assert run("encode", codec_folder, harvest_folder, "-o", codes).exit_code == 0
    result = run("name", codec_folder, harvest_folder, *FEW, "--codes", codes, "--json")
    assert json.loads(result.stdout) == Names.load(names_file).to_dict()


def test_a_dry_run_tells_requests_and_dollars(
    codec_folder: Path, harvest_folder: Path, tmp_path: Path
) -> None:
    endpoint = ("--judge", "endpoint", "--model", "m", "--cache", tmp_path / "kept")
    planned = (*endpoint, "--price", "1", "2", "--dry-run")
    result = run("name", codec_folder, harvest_folder, *FEW, *planned)
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    # A name, 6 contexts and 6 counter-examples, and these under another name, of 12 features.
    assert told["n_requests"] == 12 * (1 + 2 * 12)
    assert 0 < told["dollars"] < 2


def test_an_endpoint_without_a_key_is_told_before_the_work(
    codec_folder: Path, harvest_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    endpoint = ("--judge", "endpoint", "--model", "m", "--cache", tmp_path / "kept")
    result = run("name", codec_folder, harvest_folder, *endpoint)
    assert result.exit_code == 1
    assert "OPENAI_API_KEY must hold the key" in last_line(result)
    assert "rows/s" not in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--judge", "endpoint"), "--judge endpoint needs --model"),
        (("--budget", "1"), "--budget is of --judge endpoint"),
        (("--model", "m"), "--model and --cache are of --judge chat"),
    ],
)
def test_options_of_other_judges_are_usage_errors(
    codec_folder: Path, harvest_folder: Path, options: tuple[str, ...], message: str
) -> None:
    result = run("name", codec_folder, harvest_folder, *options)
    assert result.exit_code == 2
    assert message in last_line(result)


def test_states_without_texts_cannot_be_named(
    codec_folder: Path, hidden: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "hidden.npy", hidden[:300])
    result = run("name", codec_folder, tmp_path / "hidden.npy")
    assert result.exit_code == 2
    assert "names need the texts of the rows: name their --harvest" in last_line(result)


def test_names_are_on_the_page_of_a_report(
    codec_folder: Path, harvest_folder: Path, names_file: Path, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    result = run("report", codec_folder, harvest_folder, "-o", page, "--names", names_file)
    assert result.exit_code == 0, result.stderr
    assert "names, numbers and flags" in page.read_text(encoding="utf-8")


def test_names_of_another_codec_are_refused_before_the_work(
    codec_folder: Path, harvest_folder: Path, names_file: Path, tmp_path: Path
) -> None:
    foreign = dataclasses.replace(Names.load(names_file), fingerprint="0" * 64)
    foreign.save(tmp_path / "names.json")
    output = ("-o", tmp_path / "report.html", "--names", tmp_path / "names.json")
    result = run("report", codec_folder, harvest_folder, *output)
    assert result.exit_code == 1
    assert "the names must be of the report's 67 features" in last_line(result)
    assert "rows/s" not in result.stderr
