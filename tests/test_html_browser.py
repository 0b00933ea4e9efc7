"""Pages of reports, opened in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from playwright.sync_api import Browser, expect

from bitcodec import BitCodec
from bitcodec_cli.main import main
from bitcodec_html import TokenEffects, write_page
from bitcodec_transformers import LanguageModel, read_rows
from tests.browsing import Opened, open_page
from tests.synthetic_report import (
    WORDS,
    synthetic_effects,
    synthetic_report,
    synthetic_text,
    without_text,
)

N_FEATURES = 60
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


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    report = synthetic_report(N_FEATURES)
    texts = [synthetic_text(WORDS * 12, N_FEATURES)]
    write_page(report, path, effects=synthetic_effects(N_FEATURES), texts=texts)
    return path


@pytest.fixture
def opened(browser: Browser, path: Path) -> Iterator[Opened]:
    found = open_page(browser, path)
    yield found
    assert found.complaints == []
    assert found.asked == []
    found.page.context.close()


def column(opened: Opened, number: int) -> list[str]:
    return opened.texts(f"#feature-table tbody td:nth-child({number})")


def numbers(cells: list[str]) -> list[float]:
    return [float(cell.replace("−", "-").strip(" %")) for cell in cells if cell != "–"]


def test_the_page_opens_on_the_overview_with_its_plots(opened: Opened) -> None:
    opened.arrive("Overview")
    assert opened.page.title() == f"Overview – {N_FEATURES} features on 400 rows"
    assert opened.page.locator("figure svg[role=img]").count() == 8
    assert "0.250" in opened.text("#overview .numbers")


def test_every_view_is_a_link_away(opened: Opened) -> None:
    for view in ("Features", "Texts", "About", "Overview"):
        opened.page.get_by_role("navigation", name="Views").get_by_role("link", name=view).click()
        opened.arrive(view)
        assert opened.page.locator("main > section:visible").count() == 1


def test_a_head_sorts_the_list_and_says_so(opened: Opened) -> None:
    opened.go("#features")
    head = opened.page.locator("#feature-table thead th:nth-child(3)")
    for direction in ("descending", "ascending"):
        opened.page.get_by_role("button", name=re.compile("^Activity:")).click()
        expect(head).to_have_attribute("aria-sort", direction)
        shown = numbers(column(opened, 3))
        assert shown == sorted(shown, reverse=direction == "descending")


def test_features_without_a_number_sort_last(opened: Opened) -> None:
    opened.go("#features")
    assert column(opened, 7)[0] != "–"
    opened.page.get_by_role("link", name="Last").click()
    expect(opened.page.locator("#feature-table tbody a").last).to_have_text("3")
    assert column(opened, 7)[-1] == "–"


def test_filters_narrow_the_list(opened: Opened) -> None:
    opened.go("#features")
    page = opened.page
    assert opened.text("#shown-features") == f"{N_FEATURES} of {N_FEATURES} features"
    page.get_by_role("combobox", name="Flag").select_option("dead")
    assert column(opened, 1) == ["3"]
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("spinbutton", name="from").fill("20")
    page.get_by_role("spinbutton", name="to").fill("30")
    kept = numbers(column(opened, 3))
    assert 0 < len(kept) < N_FEATURES
    assert all(20 <= activity <= 30 for activity in kept)


def test_the_search_finds_tokens_and_tells_when_there_are_none(opened: Opened) -> None:
    opened.go("#features")
    opened.page.get_by_role("searchbox").fill("paris")
    assert 0 < len(column(opened, 1)) < N_FEATURES
    opened.page.get_by_role("searchbox").fill("no such token")
    assert opened.text("#shown-features") == f"0 of {N_FEATURES} features"
    assert "No feature fits" in opened.text("#feature-table tbody")


def test_a_feature_opens_with_its_contexts_and_the_focus_on_its_name(opened: Opened) -> None:
    opened.go("#features")
    opened.page.get_by_role("searchbox").fill("7")
    opened.page.locator("#feature-table").get_by_role("link", name="7", exact=True).click()
    opened.arrive("Feature 7")
    assert opened.page.evaluate("document.activeElement.id") == "feature-title"
    assert opened.page.locator("#feature-view .context-kind.top li").count() == 3
    assert opened.page.locator("#feature-view .context-kind.random mark.on").count() == 3
    assert opened.page.locator("#feature-view .context-kind.nearest mark:not(.on)").count() == 1
    assert opened.page.locator("#feature-view .effects tbody tr").count() == 8
    assert opened.page.title().startswith("Feature 7 – ")


def test_going_back_from_a_feature_leaves_the_list_as_it_was(opened: Opened) -> None:
    opened.go("#features")
    opened.page.get_by_role("searchbox").fill("cat")
    shown = column(opened, 1)
    opened.page.locator("#feature-table tbody a").first.click()
    opened.page.go_back()
    opened.arrive("Features")
    assert column(opened, 1) == shown


def test_a_deep_link_opens_a_feature(browser: Browser, path: Path) -> None:
    opened = open_page(browser, path, "#feature-11")
    opened.arrive("Feature 11")
    opened.go(f"#feature-{N_FEATURES}")
    opened.arrive("Features")
    opened.go("#nonsense")
    opened.arrive("Overview")
    assert opened.complaints == []


def test_related_features_are_links(opened: Opened) -> None:
    opened.go("#feature-7")
    opened.page.locator("#feature-view .beside a").first.click()
    opened.arrive("Feature 8")


def test_tokens_are_coloured_by_firing_burstiness_or_price(opened: Opened) -> None:
    opened.go("#feature-7")
    first = opened.page.locator("#feature-view .passage .token").first
    for words in ("burstiness of this feature", "price of all features"):
        opened.page.get_by_label(words).check()
        assert words.split()[0] in (first.get_attribute("class") or "")
    opened.page.get_by_label("in numbers too").check()
    assert re.fullmatch(r"\d+", first.get_attribute("data-number") or "")
    opened.go("#feature-8")
    opened.arrive("Feature 8")
    assert opened.page.get_by_label("price of all features").is_checked()


def test_all_works_by_keyboard(opened: Opened) -> None:
    keyboard = opened.page.keyboard
    opened.go("#features")
    opened.page.get_by_role("searchbox").focus()
    keyboard.type("paris")
    assert len(column(opened, 1)) < N_FEATURES
    opened.page.get_by_role("button", name=re.compile("^Entropy:")).focus()
    keyboard.press("Enter")
    head = opened.page.locator("#feature-table thead th:nth-child(4)")
    expect(head).to_have_attribute("aria-sort", "descending")
    entropies = numbers(column(opened, 4))
    assert entropies == sorted(entropies, reverse=True)
    listed = column(opened, 1)
    opened.page.locator("#feature-table tbody a").first.focus()
    keyboard.press("Enter")
    opened.arrive(f"Feature {listed[0]}")
    keyboard.press("n")
    opened.arrive(f"Feature {listed[1]}")
    keyboard.press("p")
    opened.arrive(f"Feature {listed[0]}")


def test_a_texts_tokens_are_one_stop_of_the_tab_key_and_arrows_move_among_them(
    opened: Opened,
) -> None:
    opened.go("#texts")
    tokens = opened.page.locator("#text-0-tokens button")
    assert tokens.count() == 12 * len(WORDS)
    assert opened.page.locator("#text-0-tokens button[tabindex='0']").count() == 1
    tokens.nth(1).click()
    for key, chosen in (("ArrowRight", 2), ("End", 155), ("ArrowLeft", 154), ("Home", 0)):
        opened.page.keyboard.press(key)
        assert tokens.nth(chosen).get_attribute("aria-pressed") == "true"
        assert opened.page.locator("#text-0-tokens [aria-pressed=true]").count() == 1
    opened.page.keyboard.press("ArrowDown")
    assert tokens.nth(0).get_attribute("aria-pressed") == "false"


def test_a_token_lists_its_most_surprising_features(opened: Opened) -> None:
    opened.go("#texts")
    opened.page.locator("#text-0-tokens button").nth(4).click()
    prices = numbers(opened.texts("#text-0-detail tbody td:nth-child(3)"))
    assert len(prices) == 12
    assert prices == sorted(prices, reverse=True)
    link = opened.page.locator("#text-0-detail tbody a").first
    address = link.get_attribute("href") or ""
    link.click()
    opened.arrive("Feature " + address.removeprefix("#feature-"))


def test_the_price_of_a_token_is_that_of_its_bits(opened: Opened) -> None:
    opened.go("#texts")
    report, text = synthetic_report(N_FEATURES), synthetic_text(WORDS * 12, N_FEATURES)
    on = np.array([feature.n_on for feature in report.features])
    p = (on + 0.5) / (report.evaluation.n_rows + 1)
    expected = -np.log2(np.where(text.bits[4], p, 1 - p)).sum()
    label = opened.page.locator("#text-0-tokens button").nth(4).get_attribute("aria-label") or ""
    assert float(label.split(", ")[-1].split()[0]) == pytest.approx(expected, rel=1e-3)


def test_text_that_looks_like_html_is_shown_and_does_nothing(
    browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "hostile.html"
    words = (*HOSTILE, *WORDS)
    report = synthetic_report(12, words=words)
    ids = np.arange(24).reshape(12, 2) % len(HOSTILE)
    logits = np.ones((12, 2))
    told = TokenEffects(HOSTILE, ids, logits, ids, -logits, HOSTILE[0])
    write_page(report, path, title=HOSTILE[0], effects=told, texts=[synthetic_text(words, 12)])
    opened = open_page(browser, path)
    for address in ("#features", "#feature-0", "#feature-1", "#texts", "#about", "#overview"):
        opened.go(address)
        opened.page.wait_for_timeout(30)
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
    opened = open_page(browser, path, "#feature-731")
    opened.arrive("Feature 731")
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert 'on at 414 of 420 " if"' in readme
    assert opened.texts("#feature-view .beside tbody tr")[0].split()[:2] == ["·if", "414"]
    assert "of 420" in opened.text("#feature-view .beside tbody tr")
    assert opened.text("#feature-view .effects tbody .chip") == "·you"
    starts = opened.page.locator("#overview .starts")
    specific = [starts.nth(n).locator("a").all_text_contents() for n in range(2)]
    assert specific[0][4] == "731"
    assert (specific[1][0], specific[1][2]) == ("2111", "824")
    opened.go("#feature-2111")
    opened.arrive("Feature 2111")
    assert "on at 507 different tokens in 22 of 617" in " ".join(readme.split())
    facts = opened.text("#feature-view .facts")
    assert "507 different tokens" in facts
    assert "22 documents" in facts
    assert opened.complaints == []
