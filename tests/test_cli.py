"""The `bitcodec` command on real hidden states, as a person or a pipe would use it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bitcodec import BitCodec
from bitcodec.storage import open_packed
from bitcodec_cli.main import main
from bitcodec_transformers import LanguageModel

COMMANDS = (
    "demo",
    "harvest",
    "fit",
    "encode",
    "decode",
    "info",
    "search",
    "eval",
    "report",
    "name",
    "splice",
    "sensitivity",
)


def run(*arguments: str | Path, input: bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=input)


def last_line(result: Result) -> str:
    return result.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def work(hidden: np.ndarray, codec: BitCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with hidden.npy, a codec and codes.npy."""
    folder = tmp_path_factory.mktemp("cli")
    np.save(folder / "hidden.npy", hidden[:1000].astype(np.float16))
    codec.save(folder / "codec")
    done = run("encode", folder / "codec", folder / "hidden.npy", "-o", folder / "codes.npy")
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: bitcodec {command}" in result.stdout


def test_index_build_explains_itself_with_an_example() -> None:
    assert "Example: bitcodec index build" in run("index", "build", "--help").stdout


def test_encode_writes_what_the_library_encodes(
    work: Path, codec: BitCodec, hidden: np.ndarray
) -> None:
    expected = codec.encode(hidden[:1000].astype(np.float16))
    np.testing.assert_array_equal(np.load(work / "codes.npy"), expected)


def test_codes_say_in_which_precision_they_were_made(work: Path, tmp_path: Path) -> None:
    codec, hidden, codes = work / "codec", work / "hidden.npy", tmp_path / "codes.npy"
    done = run("encode", codec, hidden, "-o", codes, "--compute", "bfloat16")
    assert done.exit_code == 0, done.stderr
    (rounded, packed), (exact, expected) = open_packed(codes), open_packed(work / "codes.npy")
    assert (rounded.compute, exact.compute) == ("bfloat16", "float32")
    assert 0 < np.bitwise_count(packed[:] ^ expected[:]).mean() < 0.05
    floats = tmp_path / "floats.npy"
    done = run("decode", codec, codes, "-o", floats, "--compute", "bfloat16")
    assert done.exit_code == 0, done.stderr
    decoded = BitCodec.load(codec).decode(packed[:])
    assert 0 < np.square(np.load(floats) - decoded).mean() < 1e-4 * decoded.var()


def test_encode_shows_its_rate_on_stderr_only(work: Path, tmp_path: Path) -> None:
    result = run("encode", work / "codec", work / "hidden.npy", "-o", tmp_path / "codes.npy")
    assert result.stdout == ""
    assert "rows/s" in result.stderr


def test_encode_passes_npy_from_stdin_to_stdout(work: Path) -> None:
    command = [sys.executable, "-m", "bitcodec_cli", "encode", str(work / "codec"), "-", "-o", "-"]
    content = (work / "hidden.npy").read_bytes()
    done = subprocess.run(command, input=content, capture_output=True, check=True)
    assert done.stdout == (work / "codes.npy").read_bytes()


def test_decode_writes_what_the_library_decodes(
    work: Path, codec: BitCodec, tmp_path: Path
) -> None:
    result = run("decode", work / "codec", work / "codes.npy", "-o", tmp_path / "decoded.npy")
    assert result.exit_code == 0, result.stderr
    expected = codec.decode(np.load(work / "codes.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "decoded.npy"), expected)


def test_decode_of_some_rows_writes_these_rows(work: Path, codec: BitCodec, tmp_path: Path) -> None:
    out = tmp_path / "decoded.npy"
    run("decode", work / "codec", work / "codes.npy", "-o", out, "--rows", "100:164")
    np.testing.assert_array_equal(np.load(out), codec.decode(np.load(work / "codes.npy")[100:164]))


@pytest.mark.parametrize("rows", ["5", "a:b", "-1:5", "7:3", "0:100000"])
def test_decode_of_rows_out_of_range_is_a_usage_error(
    work: Path, tmp_path: Path, rows: str
) -> None:
    out = tmp_path / "decoded.npy"
    result = run("decode", work / "codec", work / "codes.npy", "-o", out, f"--rows={rows}")
    assert result.exit_code == 2
    assert "expected START:STOP within 0:1000" in result.stderr


def test_fit_writes_a_codec_that_knows_where_its_rows_came_from(
    harvest_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "codec"
    options = ("--n-bits", "40", "--n-steps", "5", "--seed", "3", "--json")
    result = run("fit", harvest_folder, "-o", out, *options)
    assert result.exit_code == 0, result.stderr
    codec = BitCodec.load(out)
    assert json.loads(result.stdout)["fingerprint"] == codec.fingerprint_
    assert (codec.n_bits_, codec.seed) == (40, 3)
    assert codec.provenance_["layer"] == 15
    assert codec.provenance_["model"]["name"] == "smollm2-135m"


def test_fit_takes_several_files(harvest_folder: Path, tmp_path: Path) -> None:
    shards = sorted((harvest_folder / "layer-15").glob("*.safetensors"))
    out = tmp_path / "codec"
    result = run("fit", *shards, "-o", out, "--n-bits", "16", "--n-steps", "2")
    assert result.exit_code == 0, result.stderr
    assert len(shards) > 1
    assert BitCodec.load(out).provenance_["layer"] == 15


def test_info_tells_about_a_codec(work: Path, codec: BitCodec) -> None:
    content = json.loads(run("info", work / "codec", "--json").stdout)
    assert content["kind"] == "codec"
    assert (content["n_dims"], content["n_bits"]) == (576, 67)
    assert content["fingerprint"] == codec.fingerprint_


def test_info_needs_no_torch(work: Path) -> None:
    script = (
        "import sys; sys.argv = ['bitcodec', 'info', sys.argv[1]]\n"
        "from bitcodec_cli.main import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules and 'rich' not in sys.modules\n"
    )
    command = [sys.executable, "-c", script, str(work / "codec")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "n_bits" in done.stdout


def test_info_tells_about_packed_codes_an_index_and_a_harvest(
    work: Path, harvest_folder: Path, tmp_path: Path
) -> None:
    run("index", "build", work / "codec", work / "codes.npy", "-o", tmp_path / "index")
    for path, kind in (
        (work / "codes.npy", "packed codes"),
        (tmp_path / "index", "index"),
        (harvest_folder, "harvest"),
    ):
        assert json.loads(run("info", path, "--json").stdout)["kind"] == kind


def test_eval_prints_what_the_library_measures(
    work: Path, codec: BitCodec, hidden: np.ndarray
) -> None:
    result = run("eval", work / "codec", work / "hidden.npy", "--json", "--recall", "10")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    expected = codec.evaluate(hidden[:1000].astype(np.float16))
    assert content["fvu"] == expected.fvu
    assert content["cosine"] == expected.cosine
    assert 0.1 < content["recall_at_10"] < 1


def test_eval_prints_a_table(work: Path) -> None:
    result = run("eval", work / "codec", work / "hidden.npy")
    assert "fraction of variance unexplained" in result.stdout


@pytest.mark.parametrize("source", ["codes.npy", "hidden.npy"])
def test_search_finds_the_rows_themselves(work: Path, tmp_path: Path, source: str) -> None:
    index = tmp_path / "index"
    built = run("index", "build", work / "codec", work / source, "-o", index)
    assert built.exit_code == 0, built.stderr
    result = run("search", work / "codec", index, work / "hidden.npy", "-k", "3")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["query"] for line in lines] == list(range(1000))
    assert all(line["scores"][0] == 0 for line in lines)


def test_search_with_text_shows_contexts_of_the_same_word(
    harvest_folder: Path, language_model: LanguageModel, tmp_path: Path
) -> None:
    del language_model  # converted beforehand, so that the command finds it in the cache
    codec, index = tmp_path / "codec", tmp_path / "index"
    run("fit", harvest_folder, "-o", codec, "--preset", "search", "--n-steps", "40")
    run("index", "build", codec, harvest_folder, "-o", index, "--scores", "l2")
    text = ("--text", "Assign the value to the variable", "--harvest", harvest_folder, "-k", "5")
    result = run("search", codec, index, *text, "--json")
    assert result.exit_code == 0, result.stderr
    lines = {line["token"].strip(): line for line in map(json.loads, result.stdout.splitlines())}
    assert sum("value" in context for context in lines["value"]["contexts"]) >= 3
    plain = run("search", codec, index, *text)
    assert "[value]" in plain.stdout


def test_search_needs_queries_or_text(work: Path) -> None:
    result = run("search", work / "codec", work / "index")
    assert result.exit_code == 2
    assert "give either QUERIES or --text" in result.stderr


def test_an_error_is_one_line_on_stderr_with_exit_code_1(work: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "narrow.npy", np.zeros((5, 3), dtype=np.float32))
    out = tmp_path / "codes.npy"
    result = run("encode", work / "codec", tmp_path / "narrow.npy", "-o", out)
    assert result.exit_code == 1
    assert last_line(result).startswith("error: ")
    assert "must be (n, 576), got (5, 3)" in last_line(result)
    assert "Traceback" not in result.stderr


def test_a_failed_encode_leaves_no_file(work: Path, hidden: np.ndarray, tmp_path: Path) -> None:
    bad = hidden[:1000].copy()
    bad[700, 3] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    result = run("encode", work / "codec", tmp_path / "bad.npy", "-o", tmp_path / "codes.npy")
    assert result.exit_code == 1
    assert "row 700 holds NaN" in last_line(result)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.npy"]


def test_an_existing_output_is_refused_and_replaced_on_request(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "codes.npy"
    out.write_bytes(b"mine")
    arguments = ("encode", work / "codec", work / "hidden.npy", "-o", out)
    refused = run(*arguments)
    assert refused.exit_code == 1
    assert "exists" in last_line(refused)
    assert out.read_bytes() == b"mine"
    assert run(*arguments, "--overwrite").exit_code == 0
    assert out.read_bytes() == (work / "codes.npy").read_bytes()


def test_codes_of_another_codec_are_refused(work: Path, hidden: np.ndarray, tmp_path: Path) -> None:
    BitCodec(n_bits=67, n_steps=2, batch_size=256).fit(hidden[:600]).save(tmp_path / "other")
    out = tmp_path / "decoded.npy"
    result = run("decode", tmp_path / "other", work / "codes.npy", "-o", out)
    assert result.exit_code == 1
    assert "use the codec that encoded it" in last_line(result)


def test_an_unknown_preset_names_the_known_ones(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "codec"
    result = run("fit", work / "hidden.npy", "-o", out, "--preset", "tiny")
    assert result.exit_code == 1
    assert "known are archive, search" in last_line(result)


def test_info_tells_a_missing_path_from_a_foreign_one(tmp_path: Path) -> None:
    result = run("info", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert last_line(result) == f"error: there is no {tmp_path / 'nowhere'}"


def test_a_foreign_path_is_no_artefact(tmp_path: Path) -> None:
    result = run("info", tmp_path)
    assert result.exit_code == 1
    assert "is no codec, checkpoint, packed codes, index or harvest" in last_line(result)


def test_a_reader_that_goes_away_is_no_error(work: Path) -> None:
    decode = f"{sys.executable} -m bitcodec_cli decode {work}/codec {work}/codes.npy -o -"
    command = ["bash", "-c", f"set -o pipefail; {decode} | head -c 9"]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 0
    assert done.stdout.startswith(b"\x93NUMPY")
    assert b"Traceback" not in done.stderr


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['bitcodec', '--help']\n"
        "from bitcodec_cli.main import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'numpy', 'rich', 'faiss'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_index_never_replaces_a_folder_of_something_else(work: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    arguments = ("index", "build", work / "codec", work / "codes.npy", "-o", tmp_path)
    result = run(*arguments, "--overwrite")
    assert result.exit_code == 1
    assert "will not be replaced" in last_line(result)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_fit_goes_on_from_its_checkpoint_and_notes_what_it_missed(
    harvest_folder: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    wish = ["--n-bits", "30", "--batch-size", "256", "--n-steps", "6", "--target-fvu", "0.05"]
    keep = ["--checkpoint", str(state), "--checkpoint-every", "2"]
    first, second = (
        run("fit", harvest_folder, *wish, *keep, "-o", tmp_path / name)
        for name in ("first", "second")
    )
    assert "warning: target_fvu=0.05 was not reached" in first.stderr
    assert state.is_file()
    codecs = [BitCodec.load(tmp_path / name) for name in ("first", "second")]
    assert second.exit_code == 0
    assert codecs[0].fingerprint_ == codecs[1].fingerprint_


def test_info_tells_how_far_a_checkpoint_is(hidden: np.ndarray, tmp_path: Path) -> None:
    codec, state = BitCodec(n_bits=16, n_steps=7, batch_size=256), tmp_path / "fit.state"
    codec.fit(hidden, checkpoint=state, checkpoint_every=3)
    content = json.loads(run("info", state, "--json").stdout)
    assert (content["kind"], content["n_steps_done"], content["n_bits"]) == ("checkpoint", 7, 16)
    assert (content["n_rows"], content["n_dims"]) == hidden.shape
    assert content["parameters"]["n_steps"] == 7
    damaged = bytearray(state.read_bytes())
    damaged[-1] ^= 1
    state.write_bytes(damaged)
    result = run("info", state)
    assert result.exit_code == 1
    assert "is damaged: its tensors are not those that were written" in last_line(result)


def test_fit_checks_its_output_before_it_trains(work: Path, tmp_path: Path) -> None:
    result = run("fit", work / "hidden.npy", "-o", tmp_path / "nowhere" / "codec")
    assert result.exit_code == 1
    assert "its parent folder does not exist" in last_line(result)
    assert "steps/s" not in result.stderr


def test_decode_refuses_values_that_do_not_fit_float16(hidden: np.ndarray, tmp_path: Path) -> None:
    large = hidden[:512] * np.float32(1e6)
    BitCodec(n_bits=16, n_steps=2, batch_size=256).fit(large).save(tmp_path / "codec")
    np.save(tmp_path / "large.npy", large)
    run("encode", tmp_path / "codec", tmp_path / "large.npy", "-o", tmp_path / "codes.npy")
    out = tmp_path / "decoded.npy"
    result = run("decode", tmp_path / "codec", tmp_path / "codes.npy", "-o", out, "--dtype=float16")
    assert result.exit_code == 1
    assert "use --dtype float32" in last_line(result)
    assert not out.exists()
