"""A headless Chromium for tests of pages."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
LOCAL = ("file:", "blob:", "data:", "about:")
"""Addresses that are no network."""


def chromium_or_skip() -> str:
    """Return the path of an installed Chromium; without one the test skips, or fails in CI."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        reason = "no Chromium is installed: `apt-get install chromium` lets the page's tests run"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a Chromium for a few tests."""
    path = chromium_or_skip()
    with sync_playwright() as playwright:
        # Containers give neither a sandbox nor much shared memory.
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page that was opened, and what it complained of and asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        """Return the visible text of the first match."""
        return self.page.locator(selector).first.inner_text()

    def texts(self, selector: str) -> list[str]:
        """Return the visible texts of all matches."""
        return self.page.locator(selector).all_inner_texts()

    def arrive(self, heading: str) -> None:
        """Wait until the view that is shown has a heading that begins so."""
        shown = self.page.locator("main > section.current h2")
        expect(shown).to_have_text(re.compile(f"^{heading}"))

    def go(self, address: str) -> None:
        """Follow a link within the page."""
        self.page.evaluate("address => { location.hash = address }", address)


def open_page(
    browser: Browser, path: Path, address: str = "", *, width: int = 1280, scheme: str = "light"
) -> Opened:
    """Open a page's file offline and wait until it is ready."""
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme=scheme,  # type: ignore[arg-type]
        offline=True,
    )
    context.set_default_timeout(8_000)
    opened = Opened(context.new_page())
    page = opened.page

    def ask(request: Request) -> None:
        if not request.url.startswith(LOCAL):
            opened.asked.append(request.url)

    page.on("request", ask)
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on("console", lambda message: opened.complaints.append(message.text))
    page.goto(f"{path.as_uri()}{address}")
    page.wait_for_selector("html[data-ready], #notice:not([hidden])", state="attached")
    assert not page.locator("#notice").is_visible(), opened.complaints
    return opened
