"""`bitcodec report` on a real harvest."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from bitcodec import BitCodec, Report
from bitcodec_cli.report_tables import text_of
from tests.test_cli import last_line, run


@pytest.fixture(scope="module")
def codec_folder(codec: BitCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "codec"
    codec.save(folder)
    return folder


@pytest.fixture(scope="module")
def printed(codec_folder: Path, harvest_folder: Path) -> str:
    result = run("report", codec_folder, harvest_folder)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_the_tables_tell_rate_entropy_features_pairs_and_rows(
    printed: str, codec: BitCodec, harvest_folder: Path
) -> None:
    evaluation = codec.evaluate(harvest_folder)
    assert f"{evaluation.fvu:.3f}" in printed
    for title in (
        "tree of pairs, a tighter bound",
        "features most often on",
        "features that the row's token tells best",
        "features that the row's document tells best",
        "pairs that tell most of each other",
        "rows of largest error",
    ):
        assert title in printed


def test_the_json_is_the_report_of_the_library(
    codec_folder: Path, codec: BitCodec, harvest_folder: Path, tmp_path: Path
) -> None:
    from bitcodec_transformers import read_rows

    path = tmp_path / "report.json"
    result = run("report", codec_folder, harvest_folder, "--json", path)
    assert (result.exit_code, result.stdout) == (0, "")
    expected = codec.report(harvest_folder, text=read_rows(harvest_folder))
    assert Report.load(path).to_dict() == expected.to_dict()


def test_a_feature_is_shown_with_its_contexts(codec_folder: Path, harvest_folder: Path) -> None:
    result = run("report", codec_folder, harvest_folder, "--feature", "3", "--contexts", "2")
    assert result.exit_code == 0, result.stderr
    assert "on, where it earns most" in result.stdout
    assert "off, though similar" in result.stdout
    assert "same token" in result.stdout
    assert "features most often on" not in result.stdout


def test_pictures_are_drawn_into_a_folder(
    codec_folder: Path, harvest_folder: Path, tmp_path: Path
) -> None:
    result = run("report", codec_folder, harvest_folder, "--pictures", tmp_path, "--format", "svg")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "entropy.svg").is_file()


def test_codes_at_hand_give_the_same_tables(
    printed: str, codec_folder: Path, harvest_folder: Path, tmp_path: Path
) -> None:
    codes = tmp_path / "codes.npy"
    assert run("encode", codec_folder, harvest_folder, "-o", codes).exit_code == 0
    result = run("report", codec_folder, harvest_folder, "--codes", codes)
    assert result.stdout == printed


@pytest.mark.parametrize("by", ["position", "token", "document"])
def test_entropy_is_told_by_group(by: str, codec_folder: Path, harvest_folder: Path) -> None:
    result = run("report", codec_folder, harvest_folder, "--by", by, "--rows", "3")
    assert result.exit_code == 0, result.stderr
    assert f"entropy by {by}: knowing it saves" in result.stdout
    assert result.stdout.split("╇")[-1].count("\n") - 1 == 3


def test_groups_need_the_texts_of_the_rows(
    codec_folder: Path, hidden: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "hidden.npy", hidden[:300])
    result = run("report", codec_folder, tmp_path / "hidden.npy", "--by", "token")
    assert result.exit_code == 2
    assert "--by needs the texts of the rows: name their --harvest" in last_line(result)


def test_states_without_a_harvest_are_reported_without_texts(
    codec_folder: Path, hidden: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "hidden.npy", hidden[:300])
    result = run("report", codec_folder, tmp_path / "hidden.npy")
    assert result.exit_code == 0, result.stderr
    assert "no harvest tells of the rows' texts" in result.stderr
    assert "features that the row's token tells best" not in result.stdout


def test_a_harvest_of_other_rows_is_refused(
    codec_folder: Path, harvest_folder: Path, hidden: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "hidden.npy", hidden[:300])
    result = run("report", codec_folder, tmp_path / "hidden.npy", "--harvest", harvest_folder)
    assert result.exit_code == 1
    assert "a row for each of the 300 hidden states, got 4096" in last_line(result)


def test_a_feature_that_is_not_there_is_a_usage_error(
    codec_folder: Path, harvest_folder: Path
) -> None:
    result = run("report", codec_folder, harvest_folder, "--feature", "67")
    assert result.exit_code == 2
    assert "--feature must be between 0 and 66, got 67" in last_line(result)


def test_an_existing_file_is_found_before_the_work(
    codec_folder: Path, harvest_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "report.json").write_text("mine")
    result = run("report", codec_folder, harvest_folder, "--json", tmp_path / "report.json")
    assert result.exit_code == 1
    assert "report.json exists" in result.stderr
    assert "rows/s" not in result.stderr


def test_existing_pictures_are_found_before_the_work(
    codec_folder: Path, harvest_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "prices.png").write_text("mine")
    result = run("report", codec_folder, harvest_folder, "--pictures", tmp_path)
    assert result.exit_code == 1
    assert "prices.png exists" in result.stderr
    assert "rows/s" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["prices.png"]


def test_states_from_a_pipe_are_reported_on(codec_folder: Path, hidden: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, hidden[:200])
    result = run("report", codec_folder, "-", input=buffer.getvalue())
    assert result.exit_code == 0, result.stderr
    assert "200" in result.stdout


def test_info_describes_reports_and_feature_sets(
    codec: BitCodec, hidden: np.ndarray, tmp_path: Path
) -> None:
    codec.report(hidden[:100]).save(tmp_path / "report.json")
    codec.feature_sets(codec.encode(hidden[:100])).save(tmp_path / "features.bits")
    described = {
        name: json.loads(run("info", tmp_path / name, "--json").stdout)
        for name in ("report.json", "features.bits")
    }
    report, sets = described.values()
    assert (report["kind"], report["evaluation"]["n_rows"]) == ("report", 100)
    assert report["codec"]["fingerprint"] == sets["fingerprint"] == codec.fingerprint_
    assert (sets["kind"], sets["n_rows"], sets["n_bits"]) == ("feature sets", 100, 67)


def test_a_text_that_would_move_the_cursor_is_shown_harmlessly(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    from bitcodec import TokenTexts

    tokens = ["[red]\x1b[2J", "\n", "x"] * 20
    report = codec.report(hidden[:60], text=TokenTexts(tokens))
    row = next(c.row for f in report.features for c in f.top if c.row % 3 == 0)
    shown = text_of(report, row).plain
    assert "[[red][2J]" in shown
    assert "\x1b" not in shown
    assert "\n" not in shown
