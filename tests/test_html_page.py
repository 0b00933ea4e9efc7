"""Pages of reports as files: what they carry, and what they refuse."""

from __future__ import annotations

import base64
import gzip
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from bitcodec import BitCodec
from bitcodec.errors import FileError, FormatError, MissingExtraError, ShapeError
from bitcodec.report import Report
from bitcodec.row_texts import TokenTexts
from bitcodec_cli.main import main
from bitcodec_html import (
    EncodedText,
    TokenEffects,
    check_page,
    encoded_texts,
    page_html,
    table_library,
    write_page,
)
from bitcodec_html.packing import differences, embed, halves, smallest, tensor_file, trimmed
from bitcodec_html.page import SCRIPTS, asset, script_hash
from bitcodec_html.payload import payload
from tests.synthetic_report import WORDS, synthetic_effects, synthetic_report, synthetic_text

PageData = tuple[dict[str, np.ndarray], dict[str, Any]]


@pytest.fixture(scope="module")
def html() -> str:
    return page_html(synthetic_report(), effects=synthetic_effects(40))


def embedded(html: str, block: str) -> bytes:
    found = re.search(rf'<script type="text/plain" id="{block}">([^<]*)</script>', html)
    assert found is not None
    return gzip.decompress(base64.b64decode(found[1]))


def data_of(report: Report, texts: Sequence[EncodedText] = ()) -> PageData:
    """Return the arrays of a page and what is beside them."""
    data = payload(report, title="", effects=None, texts=texts)
    length = int.from_bytes(data[:8], "little")
    page = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["page"])
    return load(data), page


def test_the_page_carries_every_context_of_the_report() -> None:
    report = synthetic_report()
    arrays, page = data_of(report)
    rows = np.cumsum(arrays["row_number"].astype(int))[arrays["context_row"]]
    margins = (arrays["context_margin"].astype(np.uint32) << 16).view(np.float32)
    expected = [
        (context.row, context.margin, kind)
        for feature in report.features
        for kind, contexts in (
            ("top", feature.top),
            ("random", feature.random),
            ("nearest", feature.counter),
        )
        for context in contexts
    ]
    kinds = [page["context_kinds"][kind] for kind in arrays["context_kind"]]
    wanted = np.array([margin for _, margin, _ in expected], dtype=np.float32)
    np.testing.assert_allclose(margins, wanted, rtol=0.005)
    assert rows.tolist() == [row for row, _, _ in expected]
    assert kinds == [kind for _, _, kind in expected]


def test_the_page_carries_the_rows_at_which_a_feature_is_on() -> None:
    report = synthetic_report()
    arrays, _ = data_of(report)
    ends = np.cumsum(arrays["context_on_count"].astype(int))
    first = report.features[0].top[0]
    steps = np.cumsum(arrays["context_on_step"][: ends[0]].astype(int))
    assert (arrays["context_row"][0] + steps).tolist() == list(first.on)


def test_the_page_carries_the_feature_table() -> None:
    report = synthetic_report()
    arrays, page = data_of(report)
    for name in ("activity", "entropy_bits", "decoder_norm"):
        values = np.array([getattr(feature, name) for feature in report.features])
        np.testing.assert_allclose(arrays[name], values, rtol=1e-3)
    assert arrays["n_on"].tolist() == [feature.n_on for feature in report.features]
    assert np.isnan(arrays["token_share"][3])
    assert page["flags"][int(np.log2(arrays["flags"][3]))] == "dead"


def test_the_page_holds_the_data_of_its_report(html: str) -> None:
    effects = synthetic_effects(40)
    title = "40 features on 400 rows"
    data = payload(synthetic_report(), title=title, effects=effects, texts=[])
    assert embedded(html, "report-data") == data


def test_the_script_is_the_only_one_that_its_policy_lets_run(html: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    script = re.search(r'<script type="module">(.*?)</script>', html, flags=re.DOTALL)
    assert policy is not None
    assert script is not None
    assert f"script-src '{script_hash(script[1])}' blob:" in policy[1]
    assert "default-src 'none'" in policy[1]


@pytest.mark.parametrize("name", [*SCRIPTS, "style.css"])
def test_no_asset_ends_the_element_it_is_put_into(name: str) -> None:
    assert not re.search(r"</(script|style)|<!--", asset(name))


def test_the_page_names_no_address_to_fetch_from(html: str) -> None:
    names = re.findall(r'(?:src|href|action)="([^"#][^"]*)"|url\(([^)#]*)\)', html)
    assert names == []


def test_the_same_report_gives_the_same_page(html: str) -> None:
    assert page_html(synthetic_report(), effects=synthetic_effects(40)) == html


def test_licences_of_what_the_page_carries_are_in_it(html: str) -> None:
    assert "DataTables" in embedded(html, "table-library").decode()
    for owner in ("SpryMedia", "OpenJS Foundation"):
        assert owner in html.split('<h2 id="about-title"')[1]


def test_words_that_look_like_html_are_escaped_in_the_overview() -> None:
    words = ("</script><script>alert(1)</script>", "<b>", *WORDS)
    html = page_html(synthetic_report(words=words), title="<i>title</i>")
    assert html.count("<script") == 3
    assert "<b>" not in html
    assert "<title>&lt;i&gt;title" in html


def test_a_page_is_written_whole_and_not_over_another(tmp_path: Path) -> None:
    report, path = synthetic_report(), tmp_path / "report.html"
    write_page(report, path)
    assert path.read_text(encoding="utf-8").endswith("</html>")
    with pytest.raises(FileError, match="exists"):
        write_page(report, path)
    write_page(report, path, title="again", overwrite=True)
    assert "<h1>again</h1>" in path.read_text(encoding="utf-8")


def test_effects_and_texts_of_other_codecs_are_refused() -> None:
    report = synthetic_report(40)
    with pytest.raises(ShapeError, match="effects on tokens must be of the report's 40 features"):
        payload(report, title="", effects=synthetic_effects(41), texts=[])
    with pytest.raises(ShapeError, match="'a text' must be of the report's 40 features, got 39"):
        payload(report, title="", effects=None, texts=[synthetic_text(WORDS, 39)])


def test_effects_of_unequal_shapes_are_refused() -> None:
    square = np.zeros((2, 2))
    with pytest.raises(ShapeError, match=r"must all be \(h, k\)"):
        TokenEffects(["a"], square, square, square, square[:1], "")


def test_texts_are_encoded_a_document_each(codec: BitCodec, hidden: np.ndarray) -> None:
    rows = TokenTexts(["a", " b", "c", " d"], documents=["one", "two", "one", "two"])
    texts = encoded_texts(codec, hidden[:4], rows)
    assert [(text.title, text.text) for text in texts] == [("one", "ac"), ("two", " b d")]
    assert np.array_equal(texts[1].bits, codec.encode_bits(hidden[[1, 3]]))
    with pytest.raises(ShapeError, match="a row for each of the 3 hidden states, got 4"):
        encoded_texts(codec, hidden[:3], rows)


def test_text_between_tokens_that_are_rows_is_kept() -> None:
    text = synthetic_text((" one", " two", " three"), 40)
    kept = replace(
        text,
        start=text.start[1:2],
        end=text.end[1:2],
        position=text.position[1:2],
        bits=text.bits[1:2],
    )
    _, page = data_of(synthetic_report(), texts=[kept])
    (found,) = page["texts"]
    assert (found["gaps"], found["tokens"], found["tail"]) == ([" one"], [" two"], " three")


@given(st.lists(st.integers(-(2**30), 2**30), max_size=9))
def test_integers_keep_their_values_in_smaller_types(values: list[int]) -> None:
    assert smallest(values).tolist() == values
    assert np.cumsum(differences(values).astype(int)).tolist() == values


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), max_size=9))
def test_rounded_floats_stay_close(values: list[float]) -> None:
    wide = (halves(values).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(wide, values, rtol=2**-8, atol=1e-37)
    np.testing.assert_allclose(trimmed(values), values, rtol=2**-12, atol=1e-37)


def test_missing_numbers_stay_missing() -> None:
    assert np.isnan(trimmed([float("nan")])[0])
    assert (halves([float("nan")])[0] & 0x7F80) == 0x7F80


def test_arrays_and_texts_come_out_of_a_block_as_they_went_in() -> None:
    packed = embed(tensor_file({"a": np.arange(3, dtype=np.uint8)}, {"text": "</script>\u2028"}))
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", packed)
    assert load(gzip.decompress(base64.b64decode(packed)))["a"].tolist() == [0, 1, 2]


def test_two_thousand_features_with_contexts_take_less_than_two_megabytes() -> None:
    """Of noise, which compresses worse than what a codec learns from text."""
    data = embed(payload(synthetic_report(2304, n_rows=3000), title="", effects=None, texts=[]))
    assert len(data) + len(embed(table_library.table_library().encode())) < 1_700_000


def test_another_itables_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = SimpleNamespace(__version__="9", __name__="json", __spec__=json.__spec__)
    monkeypatch.setattr(table_library, "import_extra", lambda *_, **__: other)
    monkeypatch.setattr("importlib.resources.files", lambda _: Path("/nowhere"))
    with pytest.raises(FormatError, match="itables 9 does not ship DataTables"):
        table_library.table_library()


@pytest.mark.parametrize("package", ["itables", "jinja2", "matplotlib"])
def test_a_missing_package_is_told_of_before_a_report_is_measured(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    fix = rf"{package} is not installed: run `pip install 'bitcodec\[report\]'`"
    with pytest.raises(MissingExtraError, match=fix):
        check_page(tmp_path / "report.html")


def test_a_page_that_could_not_be_written_is_told_of_before_too(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="its parent folder does not exist"):
        check_page(tmp_path / "nowhere" / "report.html")


def test_options_of_the_page_without_a_page_are_wrong_usage(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["report", str(tmp_path), str(tmp_path), "--text", "words"])
    assert done.exit_code == 2
    assert "give -o too" in done.output


def test_a_text_needs_to_know_its_layer(
    codec: BitCodec, hidden: np.ndarray, tmp_path: Path
) -> None:
    codec.save(tmp_path / "codec")
    np.save(tmp_path / "hidden.npy", hidden[:600])
    command = ["report", str(tmp_path / "codec"), str(tmp_path / "hidden.npy")]
    page = ["-o", str(tmp_path / "r.html"), "--text", "words", "--model", "smollm2-135m"]
    done = CliRunner().invoke(main, [*command, *page])
    assert done.exit_code == 2
    assert "--text needs the layer" in done.output
