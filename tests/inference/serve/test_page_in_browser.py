"""The page as people use it, in a real browser."""

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
# As a person draws them, in parts of the board.
DIGITS: dict[str, list[Stroke]] = {
    "0": [[(0.5 + 0.2 * math.sin(a / 3), 0.5 - 0.3 * math.cos(a / 3)) for a in range(20)]],
    "1": [[(0.52, 0.2), (0.48, 0.8)]],
    "3": [[(0.35, 0.25), (0.6, 0.22), (0.65, 0.38), (0.45, 0.48), (0.68, 0.6), (0.6, 0.78),
           (0.33, 0.76)]],
    "4": [[(0.4, 0.2), (0.32, 0.55), (0.7, 0.55)], [(0.62, 0.2), (0.6, 0.85)]],
    "7": [[(0.3, 0.25), (0.7, 0.25), (0.45, 0.8)]],
}  # fmt: skip


class Opened:
    """A page that is open, and what it complains of or asks of others."""

    def __init__(self, browser: Browser, url: str, **how: Any) -> None:
        self.complaints: list[str] = []
        self.page = browser.new_page(**how)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._note(request.url, url))
        self.page.goto(url)
        expect(self.page.locator("#bars li").first).to_be_visible()

    def _note(self, asked: str, mine: str) -> None:
        if not asked.startswith((f"{mine}/", f"blob:{mine}/", "data:")):
            self.complaints.append(asked)


@pytest.fixture
def digits_page(browser: Browser, digits_url: str) -> Iterator[Page]:
    yield from _page(browser, digits_url)


@pytest.fixture
def texts_page(browser: Browser, texts_url: str) -> Iterator[Page]:
    yield from _page(browser, texts_url)


def _page(browser: Browser, url: str) -> Iterator[Page]:
    opened = Opened(browser, url)
    yield opened.page
    assert opened.complaints == []
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


def expect_answer(page: Page, digit: str) -> None:
    expect(page.locator("#best b")).to_have_text(digit)
    expect(page.locator("#bars li.best .name")).to_have_text(digit)
    shares = [float(text.rstrip("%")) for text in page.locator("#bars .share").all_inner_texts()]
    assert len(shares) == 10
    assert sum(shares) == pytest.approx(100, abs=0.6)
    assert shares[int(digit)] == max(shares)


def test_drawn_digits_are_read(digits_page: Page) -> None:
    for digit, strokes in DIGITS.items():
        draw(digits_page, strokes)
        expect_answer(digits_page, digit)
        digits_page.get_by_role("button", name="Clear").click()
        expect(digits_page.locator("#best")).to_be_empty()


def test_where_and_how_large_it_is_drawn_makes_no_difference(digits_page: Page) -> None:
    draw(digits_page, DIGITS["4"], size=0.45, at=(0.5, 0.02))
    expect_answer(digits_page, "4")


def test_bars_follow_while_the_pen_is_down(digits_page: Page) -> None:
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
    expect_answer(digits_page, "4")
    digits_page.mouse.up()
    digits_page.get_by_role("button", name="Clear").click()
    expect(digits_page.locator("#best")).to_be_empty()
    expect(digits_page.get_by_text("Draw here, or drop an image")).to_be_visible()


def test_by_touch_on_a_telephone(browser: Browser, digits_url: str) -> None:
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
        touch.send("InputSignature.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    touch.send("InputSignature.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect_answer(page, "7")
    assert page.evaluate("scrollY") == 0
    assert opened.complaints == []
    page.close()


def test_by_keyboard_alone(digits_page: Page) -> None:
    digits_page.keyboard.press("Tab")
    expect(digits_page.get_by_role("application", name="Drawing board")).to_be_focused()
    keys = digits_page.keyboard
    for key in (*["Shift+ArrowUp"] * 3, "Space", *["ArrowDown"] * 24, "Space"):
        keys.press(key)
    expect_answer(digits_page, "1")
    expect(digits_page.get_by_role("status")).to_contain_text("1, ")  # What a screen reader says.
    keys.press("Delete")
    expect(digits_page.locator("#best")).to_be_empty()
    for name in ("Clear", "Open image", "Invert colours"):
        keys.press("Tab")
        focused = digits_page.evaluate(
            "(document.activeElement.labels?.[0] ?? document.activeElement).innerText"
        )
        assert focused == name


def test_an_image_in_a_file_dark_on_light_too(
    digits_page: Page, mnist: Dataset, tmp_path: Path
) -> None:
    pixels = mnist.test.examples[3, ..., 0]
    Image.fromarray(pixels).save(tmp_path / "light.png")
    Image.fromarray(255 - pixels).resize((280, 280)).save(tmp_path / "dark.png")
    digits_page.set_input_files("#file", tmp_path / "light.png")
    expect_answer(digits_page, "0")
    expect(digits_page.get_by_alt_text("The image that the model is asked")).to_be_visible()
    digits_page.get_by_role("button", name="Clear").click()
    digits_page.get_by_label("Invert colours").check()
    digits_page.set_input_files("#file", tmp_path / "dark.png")
    expect_answer(digits_page, "0")


def test_what_is_no_image_is_told(browser: Browser, digits_url: str, tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("no image")
    opened = Opened(browser, digits_url)
    opened.page.set_input_files("#file", tmp_path / "note.png")
    expect(opened.page.get_by_role("alert")).to_contain_text("no image, or a damaged one")
    assert [text for text in opened.complaints if "400 (Bad PreemptionSignal)" not in text] == []
    opened.page.close()


def test_a_sentence_is_read_and_a_class_name_is_text(texts_page: Page) -> None:
    text = texts_page.get_by_label("A text")
    text.fill("a dull film")
    expect(texts_page.locator("#best b")).to_have_text(HOSTILE)
    text.fill("a warm film")
    expect(texts_page.locator("#best b")).to_have_text("fine")
    expect(texts_page.locator("#bars .name")).to_have_text([HOSTILE, "fine"])
    assert texts_page.title() == texts_page.locator("h1").inner_text() != "1"
    assert texts_page.locator("main img:visible").count() == 0


@pytest.mark.parametrize("path", ["", "docs"])
def test_it_can_be_read_in_light_and_dark_and_on_a_telephone(
    browser: Browser, digits_url: str, path: str
) -> None:
    page = browser.new_page()
    page.goto(f"{digits_url}/{path}")
    papers = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        papers.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        for width in (360, 1200):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert len(papers) == 2
    page.close()
