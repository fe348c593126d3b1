"""Formatted rows can be parsed again, whatever characters names and texts contain."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from trainer.inference.predict.formatters import RowFormatter
from trainer.inference.predict.items import Item

CLASSES = ('a "b", c', "d\ne\rf")
ITEMS = [
    Item('x,"y".png', np.zeros([2, 3, 1])),
    Item("\u4f60\n\udcff", None, "is\tnone"),
    Item("t:1", np.array("some\x1b[31m text", object)),
]
PROBABILITIES = np.array([[0.75, 0.25], [1e-7, 1 - 1e-7]], np.float32)


def rows(format: str, *, all_probabilities: bool = False, width: int | None = None) -> str:
    formatter = RowFormatter(
        format=format, classes=CLASSES, all_probabilities=all_probabilities, width=width
    )
    return formatter.header() + formatter.rows(ITEMS, list(PROBABILITIES))


@pytest.mark.parametrize("all_probabilities", [False, True])
def test_json_lines_hold_the_values(all_probabilities: bool) -> None:
    text = rows("jsonl", all_probabilities=all_probabilities)
    # Encoded as by the command: bytes of a name that are not UTF-8 become JSON escapes.
    parsed = [json.loads(line) for line in text.encode(errors="backslashreplace").splitlines()]
    assert [row["input"] for row in parsed] == [item.name for item in ITEMS]
    assert parsed[1] == {"input": ITEMS[1].name, "error": "is\tnone"}
    assert [parsed[0]["predicted"], parsed[2]["predicted"]] == list(CLASSES)
    assert [parsed[0]["probability"], parsed[2]["probability"]] == [0.75, 0.9999999]
    if all_probabilities:
        for row, expected in ((parsed[0], PROBABILITIES[0]), (parsed[2], PROBABILITIES[1])):
            assert list(row["probabilities"]) == list(CLASSES)
            np.testing.assert_array_equal(
                np.float32(list(row["probabilities"].values())), expected, strict=True
            )


def test_csv_holds_the_values() -> None:
    text = rows("csv", all_probabilities=True).encode(errors="backslashreplace").decode()
    parsed = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert [row["input"] for row in parsed] == ['x,"y".png', "\u4f60\n\\udcff", "t:1"]
    assert [row["predicted"] for row in parsed] == [CLASSES[0], "", CLASSES[1]]
    assert [row["error"] for row in parsed] == ["", "is\tnone", ""]
    assert [row[f"probability of {CLASSES[0]}"] for row in parsed] == ["0.75", "", "1e-07"]
    assert {len(row) for row in parsed} == {6}
    first, *_ = csv.reader(io.StringIO(rows("csv"), newline=""))
    assert first == ["input", "predicted", "probability", "error"]


def test_a_table_is_aligned_and_has_no_control_characters() -> None:
    header, first, last = rows("table", width=40).splitlines()
    assert header == "predicted  probability  input"
    assert first == 'a "b", c        75.00%  x,"y".png'
    assert last == "d\ufffde\ufffdf          100.00%  t:1  some\ufffd[31m t"
    header, first, _ = rows("table", all_probabilities=True).splitlines()
    assert header == 'predicted  probability  a "b", c    d\ufffde\ufffdf  input'
    assert first == 'a "b", c        75.00%    75.00%   25.00%  x,"y".png'
