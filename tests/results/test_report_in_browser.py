"""The report as people see it, in a real browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from tests.results.test_report import facts
from tests.results.test_report import page as written
from trainer.results import names

HOSTILE = "<script>document.title = 'run'</script>"


@pytest.fixture(scope="module")
def texts_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = np.array([f"A {HOSTILE} film & <b>no</b> {n}" for n in range(300)], object)
    run = tmp_path_factory.mktemp("texts")
    written(facts(texts, (HOSTILE, "a class with quite a long name, as they come"), right=0.3), run)
    return run


@pytest.fixture(scope="module")
def many_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = np.random.default_rng(0).integers(0, 255, (3000, 50, 40, 3))
    run = tmp_path_factory.mktemp("many")
    written(facts(images, tuple(f"n{n:08} with a name" for n in range(150)), validation=0.1), run)
    return run


@pytest.fixture(params=["finished_run", "texts_run", "many_run"])
def run(request: pytest.FixtureRequest) -> Path:
    return Path(request.getfixturevalue(request.param))


def opened(browser: Browser, run: Path, complaints: list[str], **how: Any) -> Page:
    page = browser.new_page(**how)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url))
    page.goto((run / names.REPORT).as_uri())
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


def test_it_opens_alone_fits_and_can_be_read(browser: Browser, run: Path) -> None:
    complaints: list[str] = []
    page = opened(browser, run, complaints)
    papers = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (360, 1200):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        for selector in ("h1", "p", "svg text", "td"):
            assert contrast(page, selector) >= 4.5, (selector, scheme)
        papers.add(colour(page, "body", "background-color"))
    assert len(papers) == 2
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert [each for each in complaints if not each.startswith(("data:", run.as_uri()))] == []
    page.close()


def test_it_prints_dark_on_white_to_a_few_pages(browser: Browser, run: Path) -> None:
    page = opened(browser, run, [], color_scheme="dark")
    printed = page.pdf(format="A4")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 9
    page.emulate_media(media="print", color_scheme="dark")
    assert contrast(page, "p") >= 4.5
    assert colour(page, "body", "background-color") == "rgb(255, 255, 255)"
    page.close()


def test_what_data_holds_is_text(browser: Browser, texts_run: Path) -> None:
    page = opened(browser, texts_run, [])
    assert page.evaluate("document.scripts.length") == 0
    assert page.title() == "cnn on data: " + page.locator(".score strong").inner_text()
    assert page.locator(".confusion th").get_by_text(HOSTILE).count() == 2
    mistake = page.locator("#mistakes li").first.inner_text()
    assert f"A {HOSTILE} film & <b>no</b>" in mistake
    page.close()
