"""Checks pages in a real browser."""

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
def launch() -> Iterator[Browser]:
    chromium = require("chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS.split())
        yield browser
        browser.close()


def open_page(browser: Browser, file: Path, events: list[str], **options: Any) -> Page:
    """Opens a page; appends console messages, errors and requested URLs to `events`."""
    page = browser.new_page(**options)
    page.on("console", lambda message: events.append(message.text))
    page.on("pageerror", lambda error: events.append(str(error)))
    page.on("request", lambda request: events.append(request.url))
    page.goto(file.as_uri())
    return page


def colour(page: Page, selector: str, property_name: str) -> str:
    style = "(element, name) => getComputedStyle(element).getPropertyValue(name)"
    return str(page.locator(selector).first.evaluate(style, property_name))


def contrast(page: Page, selector: str) -> float:
    """Returns the contrast ratio of an element's text and the page, by WCAG 2."""

    def luminance(rgb: str) -> float:
        channels = [int(number) / 255 for number in re.findall(r"\d+", rgb)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    text = luminance(colour(page, selector, "fill" if selector.startswith("svg") else "color"))
    paper = luminance(colour(page, "body", "background-color"))
    return (max(text, paper) + 0.05) / (min(text, paper) + 0.05)


def check_page(browser: Browser, file: Path) -> None:
    """Checks that a page is self-contained, fits narrow and wide screens, and is readable."""
    events: list[str] = []
    page = open_page(browser, file, events)
    backgrounds = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (360, 1200):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        for selector in filter(page.query_selector, ("h1", "p", "svg text", "td")):
            assert contrast(page, selector) >= 4.5, (selector, scheme)
        backgrounds.add(colour(page, "body", "background-color"))
    assert len(backgrounds) == 2
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert [each for each in events if not each.startswith(("data:", file.as_uri()))] == []
    assert page.evaluate("document.scripts.length") == 0
    page.close()
