"""JSON lines of Vertex AI's managed data sets: images or texts with one label each.

Source: the import and export schemas for single-label classification of images and of texts.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer import storage
from trainer.data import splits
from trainer.data.dataset import Array, RawSplits, ReadRequest
from trainer.data.formats import images, text
from trainer.data.listing import Candidate
from trainer.data.shards.shard_format import Stream
from trainer.data.tables import rows
from trainer.errors import DataError, Location
from trainer.runtime import memory

NAME = "JSON lines of a Vertex AI data set (imageGcsUri or textContent, classificationAnnotation)"

_USE = "aiplatform.googleapis.com/ml_use"
_ANNOTATION = "classificationAnnotation"
_SPLIT_OF_USE = {None: "train", "training": "train", "validation": "validation", "test": "test"}
_MAX_FIRST_LINE = 1 << 20
_CONTENT = ("imageGcsUri", "textContent", "textGcsUri")


@dataclass(frozen=True)
class _Item:
    """One line.

    Attributes:
        location: of the line.
        kind: one of _CONTENT.
        value: text, or path of an image or text in a bucket.
        label: class name.
        split: "train", "validation" or "test".
    """

    location: Location
    kind: str
    value: str
    label: str
    split: str

    @property
    def is_image(self) -> bool:
        return self.kind == "imageGcsUri"


def recognises(files: Sequence[Path]) -> bool:
    """Returns whether all files are JSON lines of such a data set, or damaged."""
    named = bool(files) and all(file.suffix == ".jsonl" for file in files)
    return named and has_items(files[0])


def read(candidate: Candidate, request: ReadRequest) -> RawSplits:
    """Reads all lines, and the objects in buckets that they refer to.

    The split of a line is its ml_use; data without ml_use is unsplit.

    Raises:
        DataError: a line is invalid, images are damaged or of different sizes, or images and texts
            are mixed.
        StorageError: an object that a line refers to is missing or cannot be read.
    """
    files = candidate.files
    for file in files:
        memory.check_data(rows.size_in_memory(file), "a file of this size", Location(file))
    items = list(_items(files, request))
    layout = None
    if items[0].is_image:
        paths = [item.value for item in items]
        examples, kept, layout = images.read(images.file_items(paths), request)
    else:
        examples, kept = _read_texts(items, request)
    labels, split_names = [item.label for item in items], [item.split for item in items]
    raw = splits.group_by_split(examples, labels, split_names, kept)
    return dataclasses.replace(raw, layout=layout)


def stream(candidate: Candidate, request: ReadRequest) -> Stream | None:
    """Returns images as a stream, with only their paths in memory; None for texts.

    Raises:
        DataError: as `read`; for damaged images when their block is read.
        StorageError: as `read`.
    """
    files = candidate.files
    if not next(_items(files, request)).is_image:
        return None
    paths, labels, split_names = [], [], []
    for item in _items(files, request):
        paths.append(item.value)
        labels.append(sys.intern(item.label))
        split_names.append(item.split)
    return images.stream(images.file_items(paths), labels, split_names, request)


def has_items(file: Path) -> bool:
    """Returns whether the first line is an item of such a data set, or not a JSON object."""
    try:
        with file.open("rb") as lines:
            fields = json.loads(lines.readline(_MAX_FIRST_LINE))
    except (ValueError, RecursionError):
        return True
    return not isinstance(fields, dict) or bool({*_CONTENT, _ANNOTATION} & set(fields))


def _items(files: Sequence[Path], request: ReadRequest) -> Iterator[_Item]:
    """Yields the items of all lines: at least one, and either all images or all texts."""
    first: _Item | None = None
    for file in files:
        for row in rows.read_json_lines(file, request.options, flat=False):
            location = row.location
            if row.problem:
                raise DataError(row.problem, location)
            item = _item(row.cells, location)
            first = first or item
            if item.is_image != first.is_image:
                raise DataError(
                    "found images and texts in one data set, expected one kind", location
                )
            yield item
    if first is None:
        raise DataError("no examples, expected one per line", Location(files[0]))


def _item(fields: dict[str, Any], location: Location) -> _Item:
    kind, value = content_of(fields, location)
    label = _field(_single(fields), _ANNOTATION, "displayName")
    if not isinstance(label, str) or not label:
        raise DataError(
            "no label, expected classificationAnnotation with a displayName, found "
            f"{_names(fields)}",
            location,
        )
    use = _field(fields, "dataItemResourceLabels", _USE)
    if use not in _SPLIT_OF_USE:
        raise DataError(f"{_USE} is {use!r}, expected training, validation or test", location)
    return _Item(location, kind, value, label, _SPLIT_OF_USE[use])


def is_item(fields: Mapping[str, Any]) -> bool:
    """Returns whether an object of JSON has a text, or the path of a file, as such a data set."""
    return any(kind in fields for kind in _CONTENT)


def content_of(fields: Mapping[str, Any], location: Location | None = None) -> tuple[str, str]:
    """Returns the kind of the content of a line, and the text or the path in a bucket.

    Raises:
        DataError: there is none, or there are several.
    """
    kinds = [kind for kind in _CONTENT if fields.get(kind)]
    if len(kinds) != 1 or not isinstance(fields[kinds[0]], str):
        raise DataError(f"expected one of {', '.join(_CONTENT)}, found {_names(fields)}", location)
    (kind,) = kinds
    value = fields[kind]
    # A data set from elsewhere must not read local files of this machine.
    in_bucket = storage.is_remote(value) or storage.is_mounted(value)
    if kind != "textContent" and not in_bucket:
        raise DataError(
            f"{kind} is {value!r}, expected {storage.SCHEME} or {storage.MOUNT}...", location
        )
    return kind, value


def _single(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields with an only label of the schema for several labels as the label."""
    several = fields.get(f"{_ANNOTATION}s")
    if isinstance(several, list) and len(several) == 1:
        return {**fields, _ANNOTATION: several[0]}
    return fields


def _field(fields: dict[str, Any], name: str, inner: str) -> Any:
    value = fields.get(name)
    return value.get(inner) if isinstance(value, dict) else None


def _names(fields: Mapping[str, Any]) -> str:
    return ", ".join(fields) or "nothing"


def _read_texts(items: Sequence[_Item], request: ReadRequest) -> tuple[Array, list[bool]]:
    """Returns all texts, object (n,), and for each item whether its text is among them."""
    paths = [item.value for item in items if item.kind == "textGcsUri"]
    contents, kept = text.read_whole(paths, request)
    remaining, are_kept = iter(contents), iter(kept)
    texts, kept = [], []
    for item in items:
        kept.append(item.kind != "textGcsUri" or next(are_kept))
        if kept[-1]:
            texts.append(next(remaining) if item.kind == "textGcsUri" else item.value.strip())
    return np.array([*texts, None], dtype=object)[:-1], kept
