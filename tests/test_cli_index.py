"""`bitcodec index` and `bitcodec search`, on hidden states and on sentences."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bitcodec import BitCodec
from bitcodec_cli.main import main
from bitcodec_cli.searching import _number
from bitcodec_faiss import load_index
from bitcodec_transformers import load_embedder, pydoc_topics, read_rows

N_ROWS = 400
LAMBDA = 'The expression "lambda parameters: expression" yields a function object.'
ASK = "search c i -k 60 --embedder minilm --texts e.npy.rows.jsonl --text 'lambda gives a function'"
BOTH = pytest.mark.parametrize("index", ["hamming", "l2"])


def run(command: str, input: bytes | None = None) -> Result:
    return CliRunner().invoke(main, shlex.split(command), input=input)


def done(command: str, input: bytes | None = None) -> str:
    result = run(command, input)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def found(command: str, input: bytes | None = None) -> list[dict[str, Any]]:
    return [
        json.loads(line, parse_constant=pytest.fail) for line in done(command, input).splitlines()
    ]


def lines_of(ids: Any) -> bytes:
    return "".join(f"{i}\n" for i in ids).encode()


def contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def refused(command: str, message: str, input: bytes | None = None, code: int = 1) -> None:
    """One line on stderr, below click's usage if need be, and no file made, changed or removed."""
    before = contents()
    result = run(command, input)
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    line = result.stderr if code == 1 else result.stderr[result.stderr.index("Error") :]
    assert re.fullmatch(rf"[Ee]rror: .*(?:{message}).*\n", line), result.stderr
    assert contents() == before


@pytest.fixture(scope="module")
def made(hidden: np.ndarray, codec: BitCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with hidden states, two codecs, and a Hamming and an l2 index of one of them."""
    folder = tmp_path_factory.mktemp("index")
    np.save(folder / "hidden.npy", hidden[:N_ROWS])
    np.save(folder / "more.npy", hidden[N_ROWS : N_ROWS + 5])
    np.save(folder / "queries.npy", hidden[1000:1007])
    codec.save(folder / "codec")
    other = BitCodec(n_bits=67, n_steps=2, batch_size=64, refine="none")
    other.fit(hidden[:300]).save(folder / "other")
    for name in ("hamming", "l2"):
        done(f"index build {folder}/codec {folder}/hidden.npy -o {folder / name} --scores {name}")
    return folder


@pytest.fixture(autouse=True)
def work(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change into a copy of that folder."""
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "work"))


def index_sentences() -> None:
    """Write 60 sentences of Python's manual, their vectors, and a codec and an index of these."""
    topics = [" ".join(doc.text.split("\n\n", 1)[1].split()) for doc in pydoc_topics()]
    parts = [re.findall(r"(?<=\. )[A-Z][^.]{40,150}\.", topic)[:1] for topic in topics]
    texts = [json.dumps({"text": text}) for part in parts for text in part][:60]
    Path("texts.jsonl").write_text("\n".join(texts))
    done("embed texts.jsonl -o e.npy")
    done("fit e.npy -o c --preset search --n-bits 64 --n-steps 40 --batch-size 32")
    done("index build c e.npy -o i")


@pytest.mark.parametrize("command", ["index build codec p.npy -o i", "index add codec l2 p.npy"])
def test_codes_of_another_precision_than_the_queries_are_told_of(command: str) -> None:
    command += " --ids ids.npy"
    np.save("ids.npy", np.arange(1000, 1005))
    done("encode codec more.npy -o p.npy --compute bfloat16")
    result = run(command)
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: p.npy was encoded in bfloat16, while queries")


def test_codes_of_the_same_precision_are_indexed_without_a_warning() -> None:
    done("encode codec more.npy -o p.npy")
    result = run("index build codec p.npy -o i")
    assert result.exit_code == 0
    assert result.stderr.startswith("wrote i: ")


RESCORED = {"rescore": "asymmetric", "oversample": 5}


@pytest.mark.parametrize(("index", "options"), [("hamming", {}), ("l2", {}), ("hamming", RESCORED)])
def test_search_prints_what_the_library_finds(index: str, options: dict[str, Any]) -> None:
    flags = " ".join(f"--{name} {value}" for name, value in options.items())
    lines = found(f"search codec {index} queries.npy -k 3 {flags}")
    assert found(f"search codec {index} - -k 3 {flags}", Path("queries.npy").read_bytes()) == lines
    opened = load_index(index, BitCodec.load("codec"))
    expected = opened.search(np.load("queries.npy"), k=3, **options)
    assert [line["ids"] for line in lines] == expected.ids.tolist()
    assert [line["scores"] for line in lines] == expected.scores.tolist()
    names = {(line["scored_by"], line["metric"]) for line in lines}
    assert names == {(expected.scored_by, expected.metric)}


@BOTH
def test_fewer_rows_than_k_are_fewer_hits_in_strict_json(index: str) -> None:
    done(f"index remove codec {index} -", lines_of(range(2, N_ROWS)))
    lines = found(f"search codec {index} queries.npy -k 4")
    assert all(sorted(line["ids"]) == [0, 1] and len(line["scores"]) == 2 for line in lines)


def test_rows_without_ids_go_on_from_the_largest() -> None:
    own = list(range(7000, 7000 - N_ROWS, -1))
    done("index build codec hidden.npy -o new --ids -", lines_of(own))
    assert json.loads(done("index add codec new more.npy --json"))["n_rows"] == N_ROWS + 5
    assert [line["scores"] for line in found("search codec new more.npy -k 1")] == [[0]] * 5
    assert load_index("new", BitCodec.load("codec")).ids.tolist() == [*own, *range(7001, 7006)]


@pytest.mark.parametrize("kind", ["Flat --scores hamming", "IVF4", "Flat --scores l2"])
def test_what_is_added_and_removed_leaves_no_trace(kind: str) -> None:
    done(f"index build codec hidden.npy -o new --factory {kind}")
    before = found("search codec new queries.npy -k 20")
    np.save("ids.npy", np.arange(5, dtype=np.uint16) + 9000)
    mine = range(1000, 1007)
    done("index add codec new queries.npy --ids -", lines_of(mine))
    done("index add codec new more.npy --ids ids.npy")
    # By distance a decoded neighbour may be nearer than what the row itself decodes to.
    nearest = [line["ids"] for line in found("search codec new queries.npy -k 3")]
    assert all(own in ids for own, ids in zip(mine, nearest, strict=True))
    done("index remove codec new ids.npy")
    done("index remove codec new -", lines_of(mine))
    assert found("search codec new queries.npy -k 20") == before


def test_info_describes_an_index_without_its_codec() -> None:
    content = json.loads(done("index info l2 --json"))
    assert (content["metric"], content["n_bits"], content["n_rows"]) == ("l2", 67, N_ROWS)
    assert "n_rows           400\n" in done("index info l2")


@pytest.mark.parametrize("heavy", ["faiss", "torch", "numba"])
def test_info_loads_nothing_heavy(heavy: str) -> None:
    script = (
        "import sys; from bitcodec_cli.main import main\n"
        "try: main(['index', 'info', 'l2'])\n"
        f"finally: assert {heavy!r} not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_options_that_do_not_fit_are_usage_errors() -> None:
    for command, message in (
        ("search codec l2 queries.npy --nprobe 4", "--nprobe is not for l2, Flat by l2"),
        ("search codec l2 queries.npy --rescore asymmetric", "--rescore is not for l2, Flat by l2"),
        ("search codec l2 queries.npy --oversample 5", "--oversample is not for l2, Flat by l2"),
        ("search codec hamming queries.npy --ef-search 9", "it takes --rescore and --oversample"),
        ("search codec hamming queries.npy --oversample 5", "--oversample needs --rescore"),
        ("search codec hamming queries.npy --embedder minilm", "--embedder goes with --text"),
        ("search codec hamming queries.npy --text x", "give either QUERIES or --text"),
        ("search codec hamming --text x", "the codec does not know its model and layer"),
        ("index add codec l2 - --ids -", "--ids and SOURCE cannot both be stdin"),
    ):
        refused(command, message, code=2)


@BOTH
def test_bad_queries_are_one_line(index: str) -> None:
    refused(f"search codec {index} queries.npy -k 0", "k must be an integer of at least 1, got 0")
    for queries, message in (
        (np.ones((2, 3)), r"must be \(n, 576\), got \(2, 3\)"),
        (np.ones((0, 576)), "at least one query"),
        (np.full((1, 576), np.nan), "row 0 holds NaN"),
        (np.ones((1, 576), dtype=np.int64), "must be float16"),
    ):
        np.save("bad.npy", queries)
        refused(f"search codec {index} bad.npy", message)


@BOTH
def test_bad_ids_leave_the_index_as_it_was(index: str) -> None:
    for ids, message in (
        (b"0\n1\n-2\n3\n4", r"id 3 must be a whole number of at least 0, got '-2'"),
        (b"a\n1\n2\n3\n4", "id 1 must be a whole number"),
        (b"9" * 5000, "id 1 must be a whole number"),
        (b"\xff", "cannot read ids"),
        (b"1000\n1001", r"ids must be one a row, \(5,\), got \(2,\)"),
        (lines_of([1000, 1001, 1000, 1002, 1003]), "ids must differ from each other, got 1000"),
        (lines_of([1000, 1001, 3, 1002, 1003]), "ids must be new to the index, got 3"),
    ):
        refused(f"index add codec {index} more.npy --ids -", message, ids)
    np.save("ids.npy", np.array([1000, 1001, -1, 1002, 1003]))
    refused(f"index add codec {index} more.npy --ids ids.npy", "ids must be 0 or more, got -1")
    np.save("ids.npy", np.arange(5) + 1e3)
    refused(f"index add codec {index} more.npy --ids ids.npy", "64-bit integers, got .* float64")


def test_bad_changes_leave_the_index_as_it_was() -> None:
    np.save("narrow.npy", np.zeros((5, 3), dtype=np.float32))
    done("encode other more.npy -o codes.npy")
    done("index build codec hidden.npy -o hnsw --factory HNSW8")
    Path("foreign").mkdir()
    Path("foreign/index.json").write_text('{"format_version": 1, "mine": 3}')
    refused("index add codec hamming narrow.npy", r"must be \(n, 576\), got \(5, 3\)")
    refused("index add codec l2 codes.npy", "use the codec that encoded it")
    refused("index add other l2 more.npy", "was made with codec")
    refused("index add codec foreign more.npy", "foreign/index.json must have the keys")
    refused("index add codec l2 more.npy --ids no.txt", "cannot read ids from no.txt")
    refused("index remove other hamming -", "was made with codec", b"0")
    refused("index remove codec hamming -", f"holds no id {N_ROWS}", lines_of([0, N_ROWS]))
    refused("index remove codec l2 -", "ids must differ from each other, got 0", b"0\n0")
    refused("index remove codec hnsw -", "HNSW", b"0")
    for path, message in (("l2/index.faiss", "it is truncated"), ("l2/index.json", "not valid")):
        Path(path).write_bytes(Path(path).read_bytes()[:-9])
        refused("search codec l2 queries.npy", message)
        refused("index add codec l2 more.npy", message)


@BOTH
def test_a_reader_with_a_mapped_index_keeps_its_rows(index: str) -> None:
    reader = load_index(index, BitCodec.load("codec"), mmap=True)
    before = reader.search(np.load("more.npy"), k=9)
    done(f"index add codec {index} more.npy")
    np.testing.assert_array_equal(reader.search(np.load("more.npy"), k=9).ids, before.ids)
    assert (len(reader), len(load_index(index, reader.codec))) == (N_ROWS, N_ROWS + 5)


def test_contexts_are_told_by_id(harvest_folder: Path) -> None:
    asked = f"search codec new more.npy -k 1 --harvest {harvest_folder}"
    done("index build codec more.npy -o new --ids -", lines_of(range(N_ROWS, N_ROWS + 5)))
    rows = read_rows(harvest_folder)
    for line in found(asked):
        assert line["contexts"] == ["".join(rows.context(line["ids"][0]))]
    done("index build codec more.npy -o new --overwrite --ids -", lines_of(range(4093, 4098)))
    refused(asked, "has 4096 rows and the search found id 4097: ids must be its row numbers")


def test_a_sentence_finds_the_one_that_says_it_also_after_others_are_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embedder = load_embedder(device="cpu")  # once, instead of in every command
    monkeypatch.setattr("bitcodec_transformers.load_embedder", lambda *_, **__: embedder)
    index_sentences()
    printed, (before,) = done(ASK).splitlines(), found(f"{ASK} --json")
    assert before["texts"][0] == LAMBDA
    pairs = zip(before["scores"], before["texts"], strict=True)
    assert printed == [f"{score:>9.4g}  {text}" for score, text in pairs]
    assert (before["scored_by"], before["metric"]) == ("asymmetric", "inner_product")
    done("index remove c i -", lines_of(before["ids"][1:40]))
    (after,) = found(f"{ASK} --json")
    for part in ("ids", "texts"):
        assert after[part] == [before[part][0], *before[part][40:]]
    rows = Path("e.npy.rows.jsonl")
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[: max(after["ids"])]))
    refused(ASK, f"rows and the search found id {max(after['ids'])}: ids must be its")


@pytest.mark.parametrize(
    ("score", "shown"), [(7, "7"), (0.51237, "0.5124"), (9999.7, "10000"), (13404.2, "13404")]
)
def test_scores_are_shown_without_powers_of_ten(score: float, shown: str) -> None:
    assert _number(score).strip() == shown
