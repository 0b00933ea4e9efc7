"""encode, decode and info on archives, on real hidden states."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bitcodec import BitCodec
from bitcodec.context_table import ContextTable
from bitcodec.probability import ProbabilityTable
from bitcodec_cli import archives
from bitcodec_cli.main import main
from bitcodec_zarr import open_archive

N_ROWS = 1000


def run(*arguments: str | Path, input: bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=input)


def last_line(result: Result) -> str:
    return result.stderr.strip().splitlines()[-1]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def work(hidden: np.ndarray, codec: BitCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with hidden.npy, a codec, codes.npy and codes.zarr."""
    folder = tmp_path_factory.mktemp("cli-archive")
    np.save(folder / "hidden.npy", hidden[:N_ROWS])
    codec.save(folder / "codec")
    for name in ("codes.npy", "codes.zarr"):
        done = run("encode", folder / "codec", folder / "hidden.npy", "-o", folder / name)
        assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def side_codecs(hidden: np.ndarray, work: Path) -> dict[int, BitCodec]:
    """Codecs for search with 2 and 4 side bytes, saved beside the codes as side-2 and side-4."""
    codecs = {}
    for side_bytes in (2, 4):
        parameters = {"n_bits": 67, "n_steps": 20, "batch_size": 256, "refine": "none"}
        codec = BitCodec.preset("search", side_bytes=side_bytes, **parameters).fit(hidden[:1024])
        codec.save(work / f"side-{side_bytes}")
        codecs[side_bytes] = codec
    return codecs


def test_an_archive_holds_the_packed_codes(work: Path, codec: BitCodec) -> None:
    archive = open_archive(work / "codes.zarr")
    np.testing.assert_array_equal(archive[:], np.load(work / "codes.npy"))
    assert archive.fingerprint == codec.fingerprint_
    assert archive.table == ProbabilityTable.from_statistics(codec.statistics_)


def test_encode_shows_its_rate_on_stderr_only(work: Path, tmp_path: Path) -> None:
    result = run("encode", work / "codec", work / "hidden.npy", "-o", tmp_path / "codes.zarr")
    assert result.stdout == ""
    assert "encode" in result.stderr
    assert "1000/1000" in result.stderr
    assert "rows/s" in result.stderr


def test_decode_gives_the_same_floats_as_from_packed_codes(work: Path, tmp_path: Path) -> None:
    for name in ("codes.npy", "codes.zarr"):
        result = run("decode", work / "codec", work / name, "-o", tmp_path / f"{name}.npy")
        assert result.exit_code == 0, result.stderr
    expected = np.load(tmp_path / "codes.npy.npy")
    assert len(expected) == N_ROWS
    np.testing.assert_array_equal(np.load(tmp_path / "codes.zarr.npy"), expected)


@pytest.mark.parametrize(("rows", "start", "stop"), [("250:270", 250, 270), ("990:", 990, N_ROWS)])
def test_decode_of_some_rows_writes_these_rows(
    work: Path, codec: BitCodec, tmp_path: Path, rows: str, start: int, stop: int
) -> None:
    out = tmp_path / "decoded.npy"
    result = run("decode", work / "codec", work / "codes.zarr", "-o", out, "--rows", rows)
    assert result.exit_code == 0, result.stderr
    packed = np.load(work / "codes.npy")[start:stop]
    np.testing.assert_array_equal(np.load(out), codec.decode(packed))


def test_decode_of_rows_out_of_range_is_a_usage_error(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "decoded.npy"
    result = run("decode", work / "codec", work / "codes.zarr", "-o", out, "--rows", "5:1001")
    assert result.exit_code == 2
    assert "expected START:STOP within 0:1000" in result.stderr
    assert names(tmp_path) == []


def test_decode_reads_in_pieces_what_is_longer_than_a_piece(
    work: Path, hidden: np.ndarray, codec: BitCodec, tmp_path: Path
) -> None:
    long = np.concatenate([hidden, hidden[:500]])
    np.save(tmp_path / "hidden.npy", long)
    for command, source, out in (
        ("encode", "hidden.npy", "codes.zarr"),
        ("decode", "codes.zarr", "decoded.npy"),
    ):
        result = run(command, work / "codec", tmp_path / source, "-o", tmp_path / out)
        assert result.exit_code == 0, result.stderr
    expected = codec.decode(codec.encode(long))
    np.testing.assert_allclose(np.load(tmp_path / "decoded.npy"), expected, atol=1e-3)


def test_profiles_are_learned_on_the_first_codes_and_hold_all(
    work: Path, codec: BitCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(archives.LEARNING_ROWS, "profiles", 600)
    out = tmp_path / "codes.zarr"
    result = run("encode", work / "codec", work / "hidden.npy", "-o", out, "--table", "profiles")
    assert result.exit_code == 0, result.stderr
    packed = np.load(work / "codes.npy")
    archive = open_archive(out)
    np.testing.assert_array_equal(archive[:], packed)
    assert archive.table == ProbabilityTable.learn(packed[:600], n_bits=codec.n_bits_)


def test_profiles_are_learned_from_a_stream_of_many_batches(
    codec: BitCodec, hidden: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(archives.LEARNING_ROWS, "profiles", 100)
    source = (hidden[start : start + 64] for start in range(0, 320, 64))
    out = tmp_path / "codes.zarr"
    archives.encode_archive(codec, source, n_rows=None, output=out, table="profiles")
    np.testing.assert_array_equal(open_archive(out)[:], codec.encode(hidden[:320]))


@pytest.fixture(scope="module")
def searching(hidden: np.ndarray, work: Path) -> BitCodec:
    """A codec that searches its codes, saved beside the others."""
    codec = BitCodec(n_bits=67, n_steps=20, batch_size=256, device="cpu").fit(hidden[:1024])
    codec.save(work / "searching")
    return codec


def test_rdo_archives_the_codes_searched_at_the_tables_prices(
    work: Path, hidden: np.ndarray, searching: BitCodec, tmp_path: Path
) -> None:
    out = tmp_path / "codes.zarr"
    options = ("--table", "context", "--rdo")
    result = run("encode", work / "searching", work / "hidden.npy", "-o", out, *options)
    assert result.exit_code == 0, result.stderr
    archive = open_archive(out)
    assert isinstance(archive.table, ContextTable)
    expected = searching.encode(hidden[:N_ROWS], context=archive.table)
    np.testing.assert_array_equal(archive[:], expected)
    assert (expected != searching.encode(hidden[:N_ROWS])).any()


def test_rdo_of_a_codec_that_does_not_search_is_refused_before_anything_is_read(
    work: Path, side_codecs: dict[int, BitCodec], tmp_path: Path
) -> None:
    assert side_codecs[2].entropy_weight == 0
    options = ("--table", "context", "--rdo")
    for name, told in (("codec", "refine='none'"), ("side-2", "entropy_weight=0")):
        out = tmp_path / f"{name}.zarr"
        result = run("encode", work / name, work / "hidden.npy", "-o", out, *options)
        assert result.exit_code == 1
        assert told in result.stderr
        assert "preset archive" in last_line(result)
    assert names(tmp_path) == []


def test_rdo_without_a_context_table_and_of_a_stream_are_refused(
    work: Path, searching: BitCodec, tmp_path: Path
) -> None:
    codec, out = work / "searching", tmp_path / "codes.zarr"
    result = run("encode", codec, work / "hidden.npy", "-o", out, "--table", "profiles", "--rdo")
    assert result.exit_code == 2
    assert "--rdo searches at the prices of a context table: --table context" in result.stderr
    data = (work / "hidden.npy").read_bytes()
    result = run("encode", codec, "-", "-o", out, "--table", "context", "--rdo", input=data)
    assert result.exit_code == 1
    assert "--rdo reads the hidden states twice, got a stream: give a file" in result.stderr
    assert names(tmp_path) == []


def test_too_few_rows_for_profiles_name_the_way_out(
    work: Path, hidden: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "few.npy", hidden[:5])
    out = tmp_path / "codes.zarr"
    result = run("encode", work / "codec", tmp_path / "few.npy", "-o", out, "--table", "profiles")
    assert result.exit_code == 1
    assert "at least 32 rows, got 5" in last_line(result)
    assert "use --table independent" in last_line(result)
    assert names(tmp_path) == ["few.npy"]


@pytest.mark.parametrize("side_bytes", [2, 4])
@pytest.mark.parametrize("table", ["independent", "profiles", "context"])
def test_rows_with_side_bytes_are_archived_decoded_and_described(
    side_codecs: dict[int, BitCodec], work: Path, tmp_path: Path, side_bytes: int, table: str
) -> None:
    codec, out = side_codecs[side_bytes], tmp_path / "codes.zarr"
    folder = work / f"side-{side_bytes}"
    done = run("encode", folder, work / "hidden.npy", "-o", out, "--table", table)
    assert done.exit_code == 0, done.stderr
    packed = codec.encode(np.load(work / "hidden.npy"))
    np.testing.assert_array_equal(open_archive(out)[:], packed)
    done = run("decode", folder, out, "-o", tmp_path / "decoded.npy", "--rows", "250:270")
    assert done.exit_code == 0, done.stderr
    expected = codec.decode(packed[250:270])
    np.testing.assert_array_equal(np.load(tmp_path / "decoded.npy"), expected)
    content = json.loads(run("info", out, "--json").stdout)
    assert (content["side_bytes"], content["row_bytes"]) == (side_bytes, 9 + side_bytes)
    assert content["table"] == {"profiles": "32 profiles"}.get(table, table)


def test_profiles_are_learned_from_the_bits_of_rows_with_side_bytes(
    side_codecs: dict[int, BitCodec], hidden: np.ndarray, tmp_path: Path
) -> None:
    out = tmp_path / "codes.zarr"
    archives.encode_archive(side_codecs[4], hidden[:200], n_rows=200, output=out, table="profiles")
    codes = side_codecs[4].encode(hidden[:200])[:, :9]
    assert open_archive(out).table == ProbabilityTable.learn(np.ascontiguousarray(codes), n_bits=67)


@pytest.mark.parametrize("output", ["codes.npy", "-"])
def test_a_table_for_packed_codes_is_a_usage_error(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(
        "encode", work / "codec", work / "hidden.npy", "-o", output, "--table", "independent"
    )
    assert result.exit_code == 2
    assert "--table is for archives" in result.stderr
    assert names(tmp_path) == []


def test_an_archive_is_written_from_npy_on_stdin(work: Path, tmp_path: Path) -> None:
    content = (work / "hidden.npy").read_bytes()
    command = [sys.executable, "-m", "bitcodec_cli", "encode", str(work / "codec"), "-"]
    command += ["-o", str(tmp_path / "codes.zarr")]
    subprocess.run(command, input=content, capture_output=True, check=True)
    packed = open_archive(tmp_path / "codes.zarr")[:]
    np.testing.assert_array_equal(packed, np.load(work / "codes.npy"))


def test_an_existing_output_is_refused_and_replaced_on_request(
    work: Path, hidden: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "few.npy", hidden[:40])
    out = tmp_path / "codes.zarr"
    run("encode", work / "codec", tmp_path / "few.npy", "-o", out)
    again = ("encode", work / "codec", work / "hidden.npy", "-o", out)
    refused = run(*again)
    assert refused.exit_code == 1
    assert "exists" in last_line(refused)
    assert len(open_archive(out)) == 40
    assert run(*again, "--overwrite").exit_code == 0
    assert len(open_archive(out)) == N_ROWS
    assert names(tmp_path) == ["codes.zarr", "few.npy"]


def test_a_folder_that_is_no_archive_is_never_replaced(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.zarr"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    result = run("encode", work / "codec", work / "hidden.npy", "-o", out, "--overwrite")
    assert result.exit_code == 1
    assert "is not an archive and will not be replaced" in last_line(result)
    assert (out / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("table", ["independent", "profiles"])
def test_a_failed_encode_leaves_nothing(
    work: Path, hidden: np.ndarray, tmp_path: Path, table: str
) -> None:
    bad = hidden[:N_ROWS].copy()
    bad[700, 3] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    out = tmp_path / "codes.zarr"
    result = run("encode", work / "codec", tmp_path / "bad.npy", "-o", out, "--table", table)
    assert result.exit_code == 1
    assert "row 700 holds NaN" in last_line(result)
    assert names(tmp_path) == ["bad.npy"]


def test_a_failed_overwrite_leaves_the_old_archive(
    work: Path, hidden: np.ndarray, tmp_path: Path
) -> None:
    out = tmp_path / "codes.zarr"
    run("encode", work / "codec", work / "hidden.npy", "-o", out)
    np.save(tmp_path / "bad.npy", np.full_like(hidden[:9], np.inf))
    result = run("encode", work / "codec", tmp_path / "bad.npy", "-o", out, "--overwrite")
    assert result.exit_code == 1
    np.testing.assert_array_equal(open_archive(out)[:], np.load(work / "codes.npy"))
    assert names(tmp_path) == ["bad.npy", "codes.zarr"]


def test_a_missing_parent_folder_is_named_and_not_made(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "absent" / "codes.zarr"
    result = run("encode", work / "codec", work / "hidden.npy", "-o", out)
    assert result.exit_code == 1
    assert "parent folder does not exist" in last_line(result)
    assert names(tmp_path) == []


def test_an_archive_of_another_codec_is_refused_in_one_line(
    work: Path, hidden: np.ndarray, tmp_path: Path
) -> None:
    BitCodec(n_bits=67, n_steps=2, batch_size=256).fit(hidden[:600]).save(tmp_path / "other")
    out = tmp_path / "decoded.npy"
    result = run("decode", tmp_path / "other", work / "codes.zarr", "-o", out)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    assert "use the codec that encoded it" in result.stderr
    assert names(tmp_path) == ["other"]


@pytest.mark.parametrize("command", ["decode", "info"])
def test_a_missing_archive_is_one_line(work: Path, tmp_path: Path, command: str) -> None:
    absent = tmp_path / "absent.zarr"
    arguments = (work / "codec", absent, "-o", tmp_path / "d.npy") if command == "decode" else ()
    result = run(command, *(arguments or (absent,)))
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert f"cannot read the archive {absent}" in result.stderr


def test_info_tells_about_an_archive(work: Path, codec: BitCodec) -> None:
    content = json.loads(run("info", work / "codes.zarr", "--json").stdout)
    assert content["kind"] == "archive"
    assert (content["n_rows"], content["n_bits"], content["row_bytes"]) == (N_ROWS, 67, 9)
    assert content["side_bytes"] == 0
    assert (content["chunk_rows"], content["shard_rows"]) == (256, 16384)
    assert content["fingerprint"] == codec.fingerprint_
    files = [path for path in (work / "codes.zarr").rglob("*") if path.is_file()]
    stored = sum(path.stat().st_size for path in files)
    assert content["bytes_stored"] == stored
    assert content["bits_per_vector"] == 8 * stored / N_ROWS


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_info_tells_in_what_precision_an_archive_was_computed(
    work: Path, tmp_path: Path, compute: str
) -> None:
    out = tmp_path / "codes.zarr"
    done = run("encode", work / "codec", work / "hidden.npy", "-o", out, "--compute", compute)
    assert done.exit_code == 0, done.stderr
    assert json.loads(run("info", out, "--json").stdout)["compute"] == compute


def test_info_prints_lines_and_needs_no_torch(work: Path) -> None:
    script = (
        "import sys; sys.argv = ['bitcodec', 'info', sys.argv[1]]\n"
        "from bitcodec_cli.main import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-c", script, str(work / "codes.zarr")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split() for line in done.stdout.splitlines())
    assert lines["kind"] == "archive"
    assert float(lines["bits_per_vector"]) > 0


@pytest.mark.parametrize("command", ["encode", "decode", "info"])
def test_help_has_an_example_of_an_archive(command: str) -> None:
    assert "codes.zarr" in run(command, "--help").stdout


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['bitcodec', 'encode', '--help']\n"
        "from bitcodec_cli.main import main\n"
        "heavy = {'torch', 'numpy', 'rich', 'zarr', 'constriction'}\n"
        "try: main()\n"
        "finally: assert not heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
