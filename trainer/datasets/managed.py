"""JSON lines of Vertex AI's managed data sets: images or texts with a label each.

Source: the import and export schemas for single-label classification of images and of texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer import memory, storage
from trainer.datasets import images, parts, text
from trainer.datasets.dataset import Array, Reading, Source
from trainer.errors import DataError

NAME = "JSON lines of a Vertex AI data set (imageGcsUri or textContent, classificationAnnotation)"

_USE = "aiplatform.googleapis.com/ml_use"
_ANNOTATION = "classificationAnnotation"
_PARTS = {None: "train", "training": "train", "validation": "validation", "test": "test"}
_LONGEST_HEAD = 1 << 20
_CONTENT = ("imageGcsUri", "textContent", "textGcsUri")
# Buckets, mounted ones too: a line of somebody's data is not to read any file of this machine.
_PLACES = ("gs://", "/gcs/")


@dataclass(frozen=True)
class _Item:
    place: str  # File and line, for messages.
    kind: str  # One of _CONTENT.
    value: str
    label: str
    use: str | None  # "training", "validation", "test", or nothing said.


def recognises(files: Sequence[Path]) -> bool:
    """Tells whether all files are JSON lines, by their names."""
    return bool(files) and all(file.suffix == ".jsonl" for file in files)


def read(files: Sequence[Path], options: Reading) -> Source:
    """Reads all lines, and what they refer to in buckets.

    Lines that say what they are for (ml_use) make the parts; else the data comes in one piece.

    Raises:
        DataError: a line is no such item, images are damaged or of different sizes, or images and
            texts are mixed.
        StorageError: an object that a line refers to is not there, or may not be read.
    """
    items = [_item(fields, place) for file in files for place, fields in objects(file)]
    if not items:
        raise DataError(f"{files[0].name}: no examples, expected one a line")
    kinds = {item.kind == "imageGcsUri" for item in items}
    if len(kinds) > 1:
        raise DataError(f"{items[0].place}: images and texts in one data set")
    examples = _images(items, options) if kinds == {True} else _texts(items)
    return parts.source(
        examples, [item.label for item in items], [_PARTS[item.use] for item in items]
    )


def is_one(file: Path) -> bool:
    """Tells whether the first line is an item of such a data set, or no JSON object at all."""
    try:
        with file.open("rb") as lines:
            fields = json.loads(lines.readline(_LONGEST_HEAD))
    except (ValueError, RecursionError):
        return True
    return not isinstance(fields, dict) or bool({*_CONTENT, _ANNOTATION} & set(fields))


def objects(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Gives the objects of a file of JSON lines, each with its place, for messages.

    Raises:
        DataError: a line is no JSON object.
    """
    memory.check_data(4 * file.stat().st_size, file.name)  # Bytes, text, lines, strings.
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{file.name}: not UTF-8: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{file.name}: line {number}"
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place} is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise DataError(f"{place} is {type(fields).__name__}, expected a JSON object")
        yield place, fields


def _item(fields: dict[str, Any], place: str) -> _Item:
    kinds = [kind for kind in _CONTENT if fields.get(kind)]
    label = _field(fields, _ANNOTATION, "displayName")
    if len(kinds) != 1 or not isinstance(fields[kinds[0]], str):
        raise DataError(f"{place}: expected one of {', '.join(_CONTENT)}, found {_known(fields)}")
    if not isinstance(label, str) or not label:
        raise DataError(
            f"{place}: no label, expected classificationAnnotation with a displayName, found "
            f"{_known(fields)}"
        )
    if kinds[0] != "textContent" and not fields[kinds[0]].startswith(_PLACES):
        raise DataError(
            f"{place}: {kinds[0]} is {fields[kinds[0]]!r}, expected {' or '.join(_PLACES)}..."
        )
    use = _field(fields, "dataItemResourceLabels", _USE)
    if use not in _PARTS:
        raise DataError(f"{place}: {_USE} is {use!r}, expected training, validation or test")
    return _Item(place, kinds[0], fields[kinds[0]], label, use)


def _field(fields: dict[str, Any], name: str, inner: str) -> Any:
    value = fields.get(name)
    return value.get(inner) if isinstance(value, dict) else None


def _known(fields: dict[str, Any]) -> str:
    return ", ".join(fields) or "nothing"


def _images(items: Sequence[_Item], options: Reading) -> Array:
    names = [item.value for item in items]
    return images.read(names, storage.read_all(names), size=options.image_size)


def _texts(items: Sequence[_Item]) -> Array:
    stored = [item.value for item in items if item.kind == "textGcsUri"]
    contents = iter(text.whole(stored, storage.read_all(stored)))
    texts = [next(contents) if item.kind == "textGcsUri" else item.value.strip() for item in items]
    return np.array(texts, dtype=object)
