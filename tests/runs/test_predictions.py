"""Tests of `predictions.csv`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trainer import storage
from trainer.data.dataset import Split
from trainer.errors import DamagedRunError
from trainer.runs import filenames, predictions
from trainer.runs.predictions import PredictionRow

CLASSES = ('a "b", c', "d\ne\rf" + 200_000 * "x")


def test_written_rows_are_read_back(tmp_path: Path) -> None:
    test = Split(np.array(["x", "y", "x"], object), np.array([0, 1, 1]))
    probabilities = np.array([[0.75, 0.25], [0.6, 0.4], [0.2, 0.8]], np.float32)
    predictions.write(probabilities, test, CLASSES, tmp_path)
    x, y, again = predictions.read(storage.folder(str(tmp_path)))
    assert x == PredictionRow(x.example, CLASSES[0], CLASSES[0], 0.75)
    assert (y.true, y.predicted, y.probability) == (CLASSES[1], CLASSES[0], 0.6)
    assert again.example == x.example != y.example


def test_the_accuracy_of_the_rows_is_the_test_accuracy(finished_run: Path) -> None:
    rows = predictions.read(storage.folder(str(finished_run)))
    metrics = json.loads((finished_run / filenames.METRICS).read_text())
    correct = sum(row.true == row.predicted for row in rows)
    assert correct / len(rows) == metrics["test"]["accuracy"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"a,b\n", b"example,class,predicted,probability\n1,2,3\n", b'x"\n', b"\0"],
)
def test_a_damaged_file_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / filenames.PREDICTIONS).write_bytes(content)
    with pytest.raises(DamagedRunError, match="damaged"):
        predictions.read(storage.folder(str(tmp_path)))
