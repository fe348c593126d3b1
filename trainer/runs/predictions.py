"""Writes and reads `predictions.csv`, the prediction for each example of the test split.

Examples are identified by digests, so that runs can be compared on their common examples.
"""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.data.dataset import Array, Split
from trainer.errors import DamagedRunError, StorageError
from trainer.runs import filenames
from trainer.storage import Folder

_MAX_CELL = 1 << 30  # Class names may be long.
_COLUMNS = ("example", "class", "predicted", "probability")


@dataclass(frozen=True)
class PredictionRow:
    """The prediction for one example.

    Attributes:
        example: digest of the example, 16 hexadecimal digits.
        true: name of the true class.
        predicted: name of the class with the highest probability.
        probability: probability of the predicted class, 0 to 1.
    """

    example: str
    true: str
    predicted: str
    probability: float


def write(probabilities: Array, test: Split, classes: tuple[str, ...], folder: Path) -> None:
    """Writes one row per example of the test split, in its order.

    Args:
        probabilities: class probabilities, float32 (N, classes).
        test: the test split.
        classes: class names.
        folder: local folder for the file.
    """
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities[np.arange(len(test)), predicted].astype(float)
    # The csv module does not quote carriage returns by itself, though they end rows, too.
    returns = any("\r" in name for name in classes)
    with (folder / filenames.PREDICTIONS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(
            file, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
        )
        writer.writerow(_COLUMNS)
        for example, label, prediction, probability in zip(
            test.examples, test.labels, predicted, confidence, strict=True
        ):
            row = (digest(example), classes[label], classes[prediction], f"{probability:.6f}")
            writer.writerow(row)


def read(folder: Folder) -> list[PredictionRow]:
    """Returns the rows of a run directory's `predictions.csv`.

    Raises:
        StorageError: the file does not exist.
        DamagedRunError: the file is damaged.
    """
    path = f"{folder.path}/{filenames.PREDICTIONS}"
    content = folder.read(filenames.PREDICTIONS)
    if content is None:
        raise StorageError(f"{path}: no such file")
    return parse(content, path)


def parse(content: bytes, path: str) -> list[PredictionRow]:
    """Returns the rows of a file.

    Args:
        content: content of the file.
        path: path of the file, for error messages.

    Raises:
        DamagedRunError: the file is damaged.
    """
    csv.field_size_limit(_MAX_CELL)
    try:
        rows = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
        if tuple(next(rows, ())) != _COLUMNS:
            raise ValueError(f"expected the columns {', '.join(_COLUMNS)}")
        return [
            PredictionRow(example, true, predicted, float(probability))
            for example, true, predicted, probability in rows
        ]
    except (ValueError, csv.Error) as error:
        raise DamagedRunError(f"{path}: damaged: {error}") from None


def digest(example: Array | str) -> str:
    """Returns the first 16 hexadecimal digits of the SHA-256 of an example of a `Split`."""
    content = example.encode() if isinstance(example, str) else np.ascontiguousarray(example).data
    return hashlib.sha256(content).hexdigest()[:16]
