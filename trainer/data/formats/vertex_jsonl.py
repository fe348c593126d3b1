"""JSON lines of Vertex AI's managed data sets: images or texts with a label each.

Source: the import and export schemas for single-label classification of images and of texts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer import storage
from trainer.data import splits
from trainer.data.dataset import Array, RawSplits, ReadRequest
from trainer.data.formats import images, rows, text
from trainer.data.shards.shard_format import Stream
from trainer.errors import DataError, Location
from trainer.runtime import memory

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
    place: Location
    kind: str  # One of _CONTENT.
    value: str
    label: str
    part: str  # "train", "validation" or "test".

    @property
    def is_image(self) -> bool:
        return self.kind == "imageGcsUri"


def recognises(files: Sequence[Path]) -> bool:
    """Tells whether all files are JSON lines, by their names."""
    return bool(files) and all(file.suffix == ".jsonl" for file in files)


def read(files: Sequence[Path], request: ReadRequest) -> RawSplits:
    """Reads all lines, and what they refer to in buckets.

    Lines that say what they are for (ml_use) make the parts; else the data comes in one piece.

    Raises:
        DataError: a line is no such item, images are damaged or of different sizes, or images and
            texts are mixed.
        StorageError: an object that a line refers to is not there, or may not be read.
    """
    for file in files:
        memory.check_data(rows.size_in_memory(file), "a file of this size", Location(file))
    items = list(_items(files))
    if items[0].is_image:
        names = [item.value for item in items]
        examples = images.read(images.of_files(names), len(names), size=request.options.image_size)
    else:
        examples = _texts(items)
    return splits.source(examples, [item.label for item in items], [item.part for item in items])


def stream(files: Sequence[Path], request: ReadRequest) -> Stream | None:
    """Gives images some at a time, so that they need not fit into memory; their names do.

    Returns:
        None for texts.

    Raises:
        DataError: as `read`; what is damaged shows when its block is asked for.
        StorageError: as `read`.
    """
    if not next(_items(files)).is_image:
        return None
    names, labels, part_of = [], [], []
    for item in _items(files):
        names.append(item.value)
        labels.append(sys.intern(item.label))
        part_of.append(item.part)
    return images.stream(names, labels, part_of, request)


def is_one(file: Path) -> bool:
    """Tells whether the first line is an item of such a data set, or no JSON object at all."""
    try:
        with file.open("rb") as lines:
            fields = json.loads(lines.readline(_LONGEST_HEAD))
    except (ValueError, RecursionError):
        return True
    return not isinstance(fields, dict) or bool({*_CONTENT, _ANNOTATION} & set(fields))


def _items(files: Sequence[Path]) -> Iterator[_Item]:
    """Gives the items of all lines, of which there are some; all are images, or all texts."""
    first: _Item | None = None
    for file in files:
        for place, fields in rows.objects(file):
            item = _item(fields, place)
            first = first or item
            if item.is_image != first.is_image:
                raise DataError("images and texts in one data set", place)
            yield item
    if first is None:
        raise DataError("no examples, expected one a line", Location(files[0]))


def _item(fields: dict[str, Any], place: Location) -> _Item:
    kinds = [kind for kind in _CONTENT if fields.get(kind)]
    label = _field(fields, _ANNOTATION, "displayName")
    if len(kinds) != 1 or not isinstance(fields[kinds[0]], str):
        raise DataError(f"expected one of {', '.join(_CONTENT)}, found {_known(fields)}", place)
    if not isinstance(label, str) or not label:
        raise DataError(
            "no label, expected classificationAnnotation with a displayName, found "
            f"{_known(fields)}",
            place,
        )
    if kinds[0] != "textContent" and not fields[kinds[0]].startswith(_PLACES):
        raise DataError(
            f"{kinds[0]} is {fields[kinds[0]]!r}, expected {' or '.join(_PLACES)}...", place
        )
    use = _field(fields, "dataItemResourceLabels", _USE)
    if use not in _PARTS:
        raise DataError(f"{_USE} is {use!r}, expected training, validation or test", place)
    return _Item(place, kinds[0], fields[kinds[0]], label, _PARTS[use])


def _field(fields: dict[str, Any], name: str, inner: str) -> Any:
    value = fields.get(name)
    return value.get(inner) if isinstance(value, dict) else None


def _known(fields: dict[str, Any]) -> str:
    return ", ".join(fields) or "nothing"


def _texts(items: Sequence[_Item]) -> Array:
    stored = [item.value for item in items if item.kind == "textGcsUri"]
    files = zip(map(Location, stored), storage.read_all(stored), strict=True)
    contents = iter(text.whole(files, len(stored)))
    texts = [next(contents) if item.kind == "textGcsUri" else item.value.strip() for item in items]
    return np.array(texts, dtype=object)
