"""Pages looked at in a real browser."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.programs import require

ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@contextlib.contextmanager
def started() -> Iterator[Browser]:
    chromium = require("chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS.split())
        yield browser
        browser.close()


def opened(browser: Browser, file: Path, complaints: list[str], **how: Any) -> Page:
    """Opens a page; what it says on the console or asks for goes into `complaints`."""
    page = browser.new_page(**how)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url))
    page.goto(file.as_uri())
    return page


def colour(page: Page, selector: str, of: str) -> str:
    style = "(element, of) => getComputedStyle(element).getPropertyValue(of)"
    return str(page.locator(selector).first.evaluate(style, of))


def contrast(page: Page, selector: str) -> float:
    """The contrast of an element's text with the page, by WCAG 2."""

    def luminance(rgb: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", rgb)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    text = luminance(colour(page, selector, "fill" if selector.startswith("svg") else "color"))
    paper = luminance(colour(page, "body", "background-color"))
    return (max(text, paper) + 0.05) / (min(text, paper) + 0.05)


def check_it_opens_alone_fits_and_can_be_read(browser: Browser, file: Path) -> None:
    complaints: list[str] = []
    page = opened(browser, file, complaints)
    papers = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (360, 1200):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        for selector in filter(page.query_selector, ("h1", "p", "svg text", "td")):
            assert contrast(page, selector) >= 4.5, (selector, scheme)
        papers.add(colour(page, "body", "background-color"))
    assert len(papers) == 2
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert [each for each in complaints if not each.startswith(("data:", file.as_uri()))] == []
    assert page.evaluate("document.scripts.length") == 0
    page.close()
