"""Rows are read back as they were, whatever the names and texts hold."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from trainer.inference.predict.formatters import Layout
from trainer.inference.predict.reader import Item

CLASSES = ('a "b", c', "d\ne")
ITEMS = [
    Item('x,"y".png', np.zeros([2, 3, 1])),
    Item("\u4f60\n\udcff", None, "is\tnone"),
    Item("t:1", np.array("some\x1b[31m text", object)),
]
PROBABILITIES = np.array([[0.75, 0.25], [1e-7, 1 - 1e-7]], np.float32)


def rows(format: str, *, all_probabilities: bool = False, width: int | None = None) -> str:
    layout = Layout(
        format=format, classes=CLASSES, all_probabilities=all_probabilities, width=width
    )
    return layout.head() + layout.rows(ITEMS, list(PROBABILITIES))


@pytest.mark.parametrize("all_probabilities", [False, True])
def test_json_lines(all_probabilities: bool) -> None:
    text = rows("jsonl", all_probabilities=all_probabilities)
    # As it is written: bytes of a name that are no UTF-8 are escapes, which JSON knows.
    found = [json.loads(line) for line in text.encode(errors="backslashreplace").splitlines()]
    assert [row["input"] for row in found] == [item.name for item in ITEMS]
    assert found[1] == {"input": ITEMS[1].name, "error": "is\tnone"}
    assert [found[0]["predicted"], found[2]["predicted"]] == list(CLASSES)
    assert [found[0]["probability"], found[2]["probability"]] == [0.75, 0.9999999]
    if all_probabilities:
        for row, expected in ((found[0], PROBABILITIES[0]), (found[2], PROBABILITIES[1])):
            assert list(row["probabilities"]) == list(CLASSES)
            np.testing.assert_array_equal(
                np.float32(list(row["probabilities"].values())), expected, strict=True
            )


def test_csv() -> None:
    text = rows("csv", all_probabilities=True).encode(errors="backslashreplace").decode()
    found = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert [row["input"] for row in found] == ['x,"y".png', "\u4f60\n\\udcff", "t:1"]
    assert [row["predicted"] for row in found] == [CLASSES[0], "", CLASSES[1]]
    assert [row["error"] for row in found] == ["", "is\tnone", ""]
    assert [row[f"probability of {CLASSES[0]}"] for row in found] == ["0.75", "", "1e-07"]
    assert {len(row) for row in found} == {6}
    first, *_ = csv.reader(io.StringIO(rows("csv"), newline=""))
    assert first == ["input", "predicted", "probability", "error"]


def test_a_table_is_aligned_and_does_not_touch_the_terminal() -> None:
    head, first, last = rows("table", width=40).splitlines()
    assert head == "predicted  probability  input"
    assert first == 'a "b", c        75.00%  x,"y".png'
    assert last == "d\ufffde            100.00%  t:1  some\ufffd[31m t"
    head, first, _ = rows("table", all_probabilities=True).splitlines()
    assert head == 'predicted  probability  a "b", c      d\ufffde  input'
    assert first == 'a "b", c        75.00%    75.00%   25.00%  x,"y".png'
