"""Pages of reports for everyone: contrast, names, keyboards, small screens, paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from bitcodec_html import write_page
from tests.browsing import Opened, open_page
from tests.synthetic_report import WORDS, synthetic_effects, synthetic_report, synthetic_text

N_FEATURES = 30
VIEWS = ("#overview", "#features", "#feature-7", "#texts", "#about")

POOR_CONTRASTS = """() => {
  const parts = colour => {
    const found = colour.match(/[-\\d.e]+/g).map(Number);
    const scale = colour.startsWith("color(") ? 255 : 1;
    return [...found.slice(0, 3).map(part => part * scale), found[3] ?? 1];
  };
  const over = ([red, green, blue, alpha], below) =>
    [red, green, blue].map((part, i) => part * alpha + below[i] * (1 - alpha));
  const behind = element => {
    if (!element) return [255, 255, 255];
    const own = parts(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, behind(element.parentElement));
  };
  const light = colour => colour.map(part => part / 255)
    .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
  const shown = [...document.querySelectorAll("body *")].filter(element =>
    element.checkVisibility() &&
    !element.closest(".disabled, noscript, .hidden, .skip") && // disabled controls are exempt
    [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()));
  const poor = shown.map(element => {
    const paper = behind(element);
    const style = getComputedStyle(element);
    const ink = over(parts(element.closest("svg") ? style.fill : style.color), paper);
    const [high, low] = [light(ink), light(paper)].sort((a, b) => b - a);
    return [(high + 0.05) / (low + 0.05), element.outerHTML.slice(0, 120)];
  }).filter(([ratio]) => ratio < 4.5);
  return { poor, checked: shown.length };
}"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    texts = [synthetic_text(WORDS * 4, N_FEATURES)]
    report = synthetic_report(N_FEATURES)
    write_page(report, path, effects=synthetic_effects(N_FEATURES), texts=texts)
    return path


@pytest.fixture
def opened(browser: Browser, path: Path) -> Iterator[Opened]:
    found = open_page(browser, path)
    yield found
    found.page.context.close()


def visit(opened: Opened, address: str) -> None:
    opened.go(address)
    view = {"#feature-7": "#feature-view"}.get(address, address)
    opened.page.wait_for_selector(f"{view}.current")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(
    browser: Browser, path: Path, scheme: str
) -> None:
    """Contrast of at least 4.5 to 1, WCAG 2.2 level AA; tokens of every colour among it."""
    opened = open_page(browser, path, scheme=scheme)
    for view in VIEWS:
        visit(opened, view)
        colourings = opened.page.locator("input[name=colouring]:visible")
        for number in range(max(1, colourings.count())):
            if colourings.count():
                colourings.nth(number).check()
            found = opened.page.evaluate(POOR_CONTRASTS)
            assert found["checked"] > 10
            assert found["poor"] == [], view
    opened.page.context.close()


def test_axe_finds_nothing_to_complain_of(opened: Opened) -> None:
    """Names, roles, landmarks, order of headings and what else axe-core knows of WCAG 2."""
    for view in VIEWS:
        visit(opened, view)
        found = Axe().run(opened.page).response["violations"]
        assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found] == []


def test_every_id_is_one(opened: Opened) -> None:
    for view in VIEWS:
        visit(opened, view)
        ids = opened.page.evaluate("[...document.querySelectorAll('[id]')].map(found => found.id)")
        assert len(ids) == len(set(ids))


def test_heads_of_tables_say_what_they_head(opened: Opened) -> None:
    for view in VIEWS:
        visit(opened, view)
        assert opened.page.locator("th:not([scope])").count() == 0
        assert opened.page.locator("table:visible:not(:has(caption))").count() == 0


def test_the_focus_is_seen(opened: Opened) -> None:
    opened.go("#features")
    opened.page.get_by_role("searchbox").focus()
    for _ in range(8):
        opened.page.keyboard.press("Tab")
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert opened.page.evaluate(outline) != "none"


@pytest.mark.parametrize("width", [1280, 768, 360])
def test_no_view_is_wider_than_the_screen(browser: Browser, path: Path, width: int) -> None:
    opened = open_page(browser, path, width=width)
    for view in VIEWS:
        visit(opened, view)
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width, view
    opened.page.context.close()


def test_paper_gets_the_overview_and_the_opened_feature(opened: Opened) -> None:
    visit(opened, "#feature-7")
    opened.page.emulate_media(media="print")
    seen = opened.page.locator("main > section:visible").all()
    assert [section.get_attribute("id") for section in seen] == ["overview", "feature-view"]
    assert opened.page.locator("#views:visible, input:visible, footer:visible").count() == 0


def test_nothing_moves_for_those_who_want_it_still(opened: Opened) -> None:
    visit(opened, "#feature-7")
    durations = (
        "[...document.querySelectorAll('*')].map(e => getComputedStyle(e).transitionDuration)"
    )
    opened.page.emulate_media(reduced_motion="reduce")
    assert set(opened.page.evaluate(durations)) == {"0s"}
