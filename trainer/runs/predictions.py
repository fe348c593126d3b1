"""`predictions.csv`: what the model said of each example of the test part.

Two runs are compared on the examples that both were tested on, whatever else they hold.
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

_COLUMNS = ("example", "class", "predicted", "probability")


@dataclass(frozen=True)
class Prediction:
    """What a model said of one example.

    Attributes:
        example: digest of the example, 16 hexadecimal digits; equal examples have equal ones.
        true: name of its class.
        predicted: name of the likeliest class.
        probability: of the likeliest class, 0 to 1.
    """

    example: str
    true: str
    predicted: str
    probability: float


def write(probabilities: Array, test: Split, classes: tuple[str, ...], folder: Path) -> None:
    """Writes a row for each example of the test part, in its order.

    Args:
        probabilities: float32 (N, classes).
        test: the test part.
        classes: class names.
        folder: where the file goes.
    """
    said = probabilities.argmax(axis=1)
    sure = probabilities[np.arange(len(test)), said].astype(float)
    with (folder / filenames.PREDICTIONS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for example, label, guess, probability in zip(
            test.examples, test.labels, said, sure, strict=True
        ):
            row = (digest(example), classes[label], classes[guess], f"{probability:.6f}")
            writer.writerow(row)


def read(folder: Folder) -> list[Prediction]:
    """Returns the rows of a run directory.

    Raises:
        StorageError: there is no such file.
        DamagedRunError: it cannot be read.
    """
    place = f"{folder.path}/{filenames.PREDICTIONS}"
    content = folder.read(filenames.PREDICTIONS)
    if content is None:
        raise StorageError(f"{place}: no such file")
    return parse(content, place)


def parse(content: bytes, place: str) -> list[Prediction]:
    """Returns the rows of a file.

    Args:
        content: of the file.
        place: where it lies, for messages.

    Raises:
        DamagedRunError: it cannot be read.
    """
    try:
        rows = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
        if tuple(next(rows, ())) != _COLUMNS:
            raise ValueError(f"expected the columns {', '.join(_COLUMNS)}")
        return [Prediction(example, true, said, float(sure)) for example, true, said, sure in rows]
    except (ValueError, csv.Error) as error:
        raise DamagedRunError(f"{place}: damaged: {error}") from None


def digest(example: Array | str) -> str:
    """Returns 16 hexadecimal digits that tell an example, as `Split` has it, from any other."""
    content = example.encode() if isinstance(example, str) else np.ascontiguousarray(example).data
    return hashlib.sha256(content).hexdigest()[:16]
