"""Pages of reports, opened in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from bitcodec_html import write_page
from tests.browsing import Opened, open_page
from tests.synthetic_report import (
    WORDS,
    synthetic_effects,
    synthetic_report,
    synthetic_text,
)

N_FEATURES = 60


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
    for direction in ("descending", "ascending", "descending"):
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
