"""Pages of hostile, large, textless and real reports in a real browser, and the example."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from playwright.sync_api import Browser

from bitcodec import BitCodec
from bitcodec_cli.main import main
from bitcodec_html import FeatureNames, TokenEffects, write_page
from bitcodec_transformers import LanguageModel, read_rows
from tests.browsing import open_page
from tests.synthetic_report import WORDS, synthetic_report, synthetic_text, without_text

HOSTILE = (
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror='window.hacked=1'>",
    "<b>bold</b>",
    "&amp;",
    "${window.hacked=1}",
    "{{ 7 * 7 }}",
    "<!--",
    "\u202eright to left",
    "]]>",
    "\x00",
)


def test_text_that_looks_like_html_is_shown_and_does_nothing(
    browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "hostile.html"
    words = (*HOSTILE, *WORDS)
    report = synthetic_report(12, words=words)
    ids = np.arange(24).reshape(12, 2) % len(HOSTILE)
    logits = np.ones((12, 2))
    told = TokenEffects(HOSTILE, ids, logits, ids, -logits, HOSTILE[0])
    names = FeatureNames(HOSTILE[1], "", dict(enumerate(HOSTILE)), dict.fromkeys(range(10), 0.9))
    texts = [synthetic_text(words, 12)]
    write_page(report, path, title=HOSTILE[0], effects=told, texts=texts, names=names)
    opened = open_page(browser, path)
    for address in ("#features", "#feature-0", "#feature-1", "#texts", "#about", "#overview"):
        opened.go(address)
        opened.page.wait_for_timeout(30)
    opened.go("#feature-2")
    assert f"Named by {HOSTILE[1]}" in opened.text("#feature-view .facts")
    assert f"{HOSTILE[2]}; right in 90" in opened.text("#feature-view .facts")
    opened.go("#features")
    for searched, found in (("&amp;", True), ("<IMG src=x", True), ("<img onload", False)):
        opened.page.get_by_role("searchbox").fill(searched)
        assert (opened.page.locator("#feature-table tbody a").count() > 0) == found
    assert opened.page.evaluate("window.hacked") is None
    assert opened.page.locator("main img, main script, main b").count() == 0
    assert opened.text("h1") == HOSTILE[0]
    assert HOSTILE[0] in "".join(opened.page.locator("#text-0-tokens").all_text_contents())
    assert opened.complaints == []
    assert opened.asked == []


def test_ten_thousand_features_sort_and_filter_at_once(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "large.html"
    write_page(synthetic_report(10_000, n_rows=100), path)
    opened = open_page(browser, path, "#features")
    timed = """async act => {
      const begin = performance.now();
      eval(act);
      await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
      return performance.now() - begin;
    }"""
    sort = "[...document.querySelectorAll('.dt-column-order')].at({}).click()"
    search = "const box = document.querySelector('[type=search]'); box.value = '{}'; "
    search += "box.dispatchEvent(new Event('input', {{ bubbles: true }}))"
    acts = [sort.format(2), sort.format(1), sort.format(6)]
    acts += [search.format(words) for words in ("p", "pa", "pari")]
    # An idle laptop takes 30 to 110 ms; a busy one must still not lag.
    assert np.median([opened.page.evaluate(timed, act) for act in acts]) < 500
    assert opened.text("#shown-features").endswith("of 10,000 features")
    assert opened.complaints == []


def test_a_report_without_text_makes_a_page_too(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "plain.html"
    write_page(without_text(synthetic_report()), path)
    opened = open_page(browser, path, "#feature-0")
    opened.arrive("Feature 0")
    assert "without text" in opened.text("#feature-view .note")
    assert opened.complaints == []


def test_the_command_makes_a_page_of_real_hidden_states(
    browser: Browser,
    codec: BitCodec,
    harvest_folder: Path,
    language_model: LanguageModel,
    tmp_path: Path,
) -> None:
    codec.save(tmp_path / "codec")
    path = tmp_path / "report.html"
    words = "A dictionary maps keys\nto values."
    command = ["report", str(tmp_path / "codec"), str(harvest_folder), "-o", str(path)]
    done = CliRunner().invoke(main, [*command, "--model", "smollm2-135m", "--text", words])
    assert done.exit_code == 0, done.output
    opened = open_page(browser, path, "#feature-5")
    assert opened.text("h1") == "smollm2-135m, layer 15: 67 features on 4,096 tokens"
    rows = read_rows(harvest_folder)
    place = opened.text("#feature-view .context-kind.top .place")
    row = int(re.search(r"row ([\d,]+)", place)[1].replace(",", ""))  # type: ignore[index]
    assert f"document {rows.document_id(row)} " in place
    hit = opened.page.locator("#feature-view .context-kind.top mark").first.text_content()
    assert hit == rows.context(row).token.replace("\n", "⏎").replace("\t", "⇥")
    opened.go("#texts")
    shown = opened.page.locator("#text-0-tokens").text_content()
    assert shown == words.replace("\n", "⏎\n")
    assert opened.complaints == []


def test_the_example_in_the_docs_opens_and_holds_what_the_readme_says_of_it(
    browser: Browser,
) -> None:
    root = Path(__file__).parent.parent
    path = root / "docs" / "examples" / "smollm2-layer-15.html"
    assert path.stat().st_size < 2_000_000
    opened = open_page(browser, path, "#feature-630")
    opened.arrive("Feature 630")
    readme = " ".join((root / "README.md").read_text(encoding="utf-8").split())
    assert 'on at 3,187 of 3,213 " is"' in readme
    assert opened.texts("#feature-view .beside tbody tr")[0].split()[:2] == ["·is", "3,187"]
    assert "of 3,213" in opened.text("#feature-view .beside tbody tr")
    starts = opened.page.locator("#overview .starts")
    specific = [starts.nth(n).locator("a").all_text_contents() for n in range(2)]
    assert specific[0][9] == "630"
    assert specific[1][0] == "1343"
    opened.go("#feature-1343")
    opened.arrive("Feature 1343")
    assert "on at 62 different tokens in 37 of 353 documents" in readme
    facts = opened.text("#feature-view .facts")
    assert "62 different tokens" in facts
    assert "37 documents" in facts
    assert opened.complaints == []
