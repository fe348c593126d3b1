"""Tests of the report in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from tests.browser import check_page, colour, contrast, open_page
from tests.reports.test_report import page as write_page
from tests.reports.test_report import report_inputs
from trainer.runs import filenames

HOSTILE = "<script>document.title = 'run'</script>"


@pytest.fixture(scope="module")
def texts_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = np.array([f"A {HOSTILE} film & <b>no</b> {n}" for n in range(300)], object)
    run = tmp_path_factory.mktemp("texts")
    write_page(
        report_inputs(
            texts, (HOSTILE, "a class with quite a long name, as they come"), accuracy=0.3
        ),
        run,
    )
    return run


@pytest.fixture(scope="module")
def many_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = np.random.default_rng(0).integers(0, 255, (3000, 50, 40, 3))
    run = tmp_path_factory.mktemp("many")
    write_page(
        report_inputs(images, tuple(f"n{n:08} with a name" for n in range(150)), validation=0.1),
        run,
    )
    return run


@pytest.fixture(params=["finished_run", "texts_run", "many_run"])
def run(request: pytest.FixtureRequest) -> Path:
    return Path(request.getfixturevalue(request.param))


def test_the_page_is_self_contained_fits_and_is_readable(browser: Browser, run: Path) -> None:
    check_page(browser, run / filenames.REPORT)


def test_the_page_is_printed_dark_on_white_on_a_few_pages(browser: Browser, run: Path) -> None:
    page = open_page(browser, run / filenames.REPORT, [], color_scheme="dark")
    pdf = page.pdf(format="A4")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 9
    page.emulate_media(media="print", color_scheme="dark")
    assert contrast(page, "p") >= 4.5
    assert colour(page, "body", "background-color") == "rgb(255, 255, 255)"
    page.close()


def test_markup_in_the_data_is_shown_as_text(browser: Browser, texts_run: Path) -> None:
    page = open_page(browser, texts_run / filenames.REPORT, [])
    assert page.evaluate("document.scripts.length") == 0
    assert page.title() == "cnn on data: " + page.locator(".score strong").inner_text()
    assert page.locator(".confusion th").get_by_text(HOSTILE).count() == 2
    mistake = page.locator("#mistakes li").first.inner_text()
    assert f"A {HOSTILE} film & <b>no</b>" in mistake
    page.close()
