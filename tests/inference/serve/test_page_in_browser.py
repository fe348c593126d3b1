"""The serving page, used in a real browser."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.inference.serve.conftest import HOSTILE
from trainer.data.dataset import Dataset

Stroke = list[tuple[float, float]]
# Hand-drawn digits, in fractions of the board.
DIGITS: dict[str, list[Stroke]] = {
    "0": [[(0.5 + 0.2 * math.sin(a / 3), 0.5 - 0.3 * math.cos(a / 3)) for a in range(20)]],
    "1": [[(0.52, 0.2), (0.48, 0.8)]],
    "3": [[(0.35, 0.25), (0.6, 0.22), (0.65, 0.38), (0.45, 0.48), (0.68, 0.6), (0.6, 0.78),
           (0.33, 0.76)]],
    "4": [[(0.4, 0.2), (0.32, 0.55), (0.7, 0.55)], [(0.62, 0.2), (0.6, 0.85)]],
    "7": [[(0.3, 0.25), (0.7, 0.25), (0.45, 0.8)]],
}  # fmt: skip


class Opened:
    """An open page, with its console messages, errors and requests to other servers."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.problems: list[str] = []
        self.page = browser.new_page(**options)
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self._check_request(request.url, url))
        self.page.goto(url)
        expect(self.page.locator("#bars li").first).to_be_visible()

    def _check_request(self, url: str, server: str) -> None:
        if not url.startswith((f"{server}/", f"blob:{server}/", "data:")):
            self.problems.append(url)


@pytest.fixture
def digits_page(browser: Browser, digits_url: str) -> Iterator[Page]:
    yield from _page(browser, digits_url)


@pytest.fixture
def texts_page(browser: Browser, texts_url: str) -> Iterator[Page]:
    yield from _page(browser, texts_url)


def _page(browser: Browser, url: str) -> Iterator[Page]:
    opened = Opened(browser, url)
    yield opened.page
    assert opened.problems == []
    opened.page.close()


def draw(
    page: Page, strokes: list[Stroke], *, size: float = 1, at: tuple[float, float] = (0, 0)
) -> None:
    board = page.locator("#board").bounding_box()
    assert board is not None
    for stroke in strokes:
        points = [
            (
                board["x"] + board["width"] * (at[0] + size * x),
                board["y"] + board["height"] * (at[1] + size * y),
            )
            for x, y in stroke
        ]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point, steps=5)
        page.mouse.up()


def expect_prediction(page: Page, digit: str) -> None:
    expect(page.locator("#best b")).to_have_text(digit)
    expect(page.locator("#bars li.best .name")).to_have_text(digit)
    texts = page.locator("#bars .probability").all_inner_texts()
    percentages = [float(text.rstrip("%")) for text in texts]
    assert len(percentages) == 10
    assert sum(percentages) == pytest.approx(100, abs=0.6)
    assert percentages[int(digit)] == max(percentages)


def test_drawn_digits_are_classified(digits_page: Page) -> None:
    for digit, strokes in DIGITS.items():
        draw(digits_page, strokes)
        expect_prediction(digits_page, digit)
        digits_page.get_by_role("button", name="Clear").click()
        expect(digits_page.locator("#best")).to_be_empty()


def test_position_and_size_of_a_drawing_do_not_matter(digits_page: Page) -> None:
    draw(digits_page, DIGITS["4"], size=0.45, at=(0.5, 0.02))
    expect_prediction(digits_page, "4")


def test_bars_update_while_the_pen_is_down(digits_page: Page) -> None:
    first, second = DIGITS["4"]
    draw(digits_page, [first])
    expect(digits_page.locator("#best b")).to_be_visible()
    before = digits_page.locator("#bars").inner_text()
    board = digits_page.locator("#board").bounding_box()
    assert board is not None
    for number, (x, y) in enumerate(second):
        digits_page.mouse.move(
            board["x"] + x * board["width"], board["y"] + y * board["height"], steps=9
        )
        if number == 0:
            digits_page.mouse.down()
    expect(digits_page.locator("#bars")).not_to_have_text(before, use_inner_text=True)
    expect_prediction(digits_page, "4")
    digits_page.mouse.up()
    digits_page.get_by_role("button", name="Clear").click()
    expect(digits_page.locator("#best")).to_be_empty()
    expect(digits_page.get_by_text("Draw here, or drop an image file")).to_be_visible()


def test_drawing_by_touch_on_a_phone(browser: Browser, digits_url: str) -> None:
    opened = Opened(
        browser, digits_url, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True
    )
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    board = page.locator("#board").bounding_box()
    assert board is not None
    touch = page.context.new_cdp_session(page)
    (stroke,) = DIGITS["7"]
    for number, (x, y) in enumerate(stroke):
        point = {"x": board["x"] + x * board["width"], "y": board["y"] + y * board["height"]}
        kind = "touchMove" if number else "touchStart"
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect_prediction(page, "7")
    assert page.evaluate("scrollY") == 0
    assert opened.problems == []
    page.close()


def test_drawing_by_keyboard(digits_page: Page) -> None:
    digits_page.keyboard.press("Tab")
    expect(digits_page.get_by_role("application", name="Drawing board")).to_be_focused()
    keys = digits_page.keyboard
    for key in (*["Shift+ArrowUp"] * 3, "Space", *["ArrowDown"] * 24, "Space"):
        keys.press(key)
    expect_prediction(digits_page, "1")
    expect(digits_page.get_by_role("status")).to_contain_text("1, ")  # Read by screen readers.
    keys.press("Delete")
    expect(digits_page.locator("#best")).to_be_empty()
    for name in ("Clear", "Open image", "Invert colours"):
        keys.press("Tab")
        focused = digits_page.evaluate(
            "(document.activeElement.labels?.[0] ?? document.activeElement).innerText"
        )
        assert focused == name


def test_an_image_file_is_classified_dark_on_light_too(
    digits_page: Page, mnist: Dataset, tmp_path: Path
) -> None:
    pixels = mnist.test.examples[3, ..., 0]
    Image.fromarray(pixels).save(tmp_path / "light.png")
    Image.fromarray(255 - pixels).resize((280, 280)).save(tmp_path / "dark.png")
    digits_page.set_input_files("#file", tmp_path / "light.png")
    expect_prediction(digits_page, "0")
    expect(digits_page.get_by_alt_text("Input image")).to_be_visible()
    digits_page.get_by_role("button", name="Clear").click()
    digits_page.get_by_label("Invert colours").check()
    digits_page.set_input_files("#file", tmp_path / "dark.png")
    expect_prediction(digits_page, "0")


def test_a_file_that_is_not_an_image_shows_an_error(
    browser: Browser, digits_url: str, tmp_path: Path
) -> None:
    (tmp_path / "note.png").write_text("not an image")
    opened = Opened(browser, digits_url)
    opened.page.set_input_files("#file", tmp_path / "note.png")
    expect(opened.page.get_by_role("alert")).to_contain_text("not an image, or a damaged one")
    assert [text for text in opened.problems if "400 (Bad Request)" not in text] == []
    opened.page.close()


def test_a_text_is_classified_and_a_class_name_is_not_markup(texts_page: Page) -> None:
    text = texts_page.get_by_label("Text")
    text.fill("a dull film")
    expect(texts_page.locator("#best b")).to_have_text(HOSTILE)
    text.fill("a warm film")
    expect(texts_page.locator("#best b")).to_have_text("fine")
    expect(texts_page.locator("#bars .name")).to_have_text([HOSTILE, "fine"])
    assert texts_page.title() == texts_page.locator("h1").inner_text() != "1"
    assert texts_page.locator("main img:visible").count() == 0


@pytest.mark.parametrize("path", ["", "docs"])
def test_the_pages_are_readable_in_light_and_dark_and_on_a_phone(
    browser: Browser, digits_url: str, path: str
) -> None:
    page = browser.new_page()
    page.goto(f"{digits_url}/{path}")
    backgrounds = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        for width in (360, 1200):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert len(backgrounds) == 2
    page.close()
