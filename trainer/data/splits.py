"""The parts of a data set, where names of files or folders, or the data itself, tell them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from trainer.data.dataset import Array, RawSplits
from trainer.errors import DataError

_PARTS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


_IN_ORDER = ("train", "validation", "test")


def of_name(name: str) -> str | None:
    """Returns "train", "validation" or "test" for Train, val, test-00000-of-00002; else None."""
    word = re.match(r"[a-z]*", name.lower())
    return _PARTS.get(word[0] if word else "")


def of_file(name: str) -> str | None:
    """Returns the part that one word of a file's name tells: train-0.csv, mnist-test.tfrecord."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((_PARTS[word] for word in words if word in _PARTS), None)


def source(examples: Array, labels: Sequence[str], parts: Sequence[str]) -> RawSplits:
    """Returns examples by the part that each belongs to; all of one part are data in one piece.

    Args:
        examples: (N, ...).
        labels: the class of each.
        parts: of each, "train", "validation" or "test".

    Raises:
        DataError: as `class_names`.
    """
    classes, numbers, rows = class_names(labels, parts)
    return RawSplits(
        **{name: (examples[at], numbers[at]) for name, at in rows.items()}, classes=classes
    )


def class_names(
    labels: Sequence[str], parts: Sequence[str]
) -> tuple[tuple[str, ...], Array, dict[str, Array]]:
    """Numbers classes, and finds what belongs to each part.

    Args:
        labels: the class of each example; classes that are numbers are sorted as such.
        parts: of each, "train", "validation" or "test".

    Returns:
        Class names; the number of each label, int32 (N,); and by the name of a part the places of
        what belongs to it, int64. If there is one part only, that is "train".

    Raises:
        DataError: there are parts but none to train on, or classes that it does not have.
    """
    found = [part for part in _IN_ORDER if part in parts]
    train = found[0] if len(found) == 1 else "train"
    if train not in found:
        raise DataError(f"no part to train on, found {' and '.join(found)}")
    classes = _sorted({label for label, part in zip(labels, parts, strict=True) if part == train})
    number_of = {label: number for number, label in enumerate(classes)}
    for label, part in zip(labels, parts, strict=True):
        if label not in number_of:
            some = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
            raise DataError(f"the {part} part has a class {label!r} that training has not: {some}")
    numbers = np.array([number_of[label] for label in labels], dtype=np.int32)
    part_of = np.array(parts)
    rows = {part: np.flatnonzero(part_of == part) for part in found}
    return classes, numbers, {"train" if part == train else part: rows[part] for part in found}


def _sorted(labels: set[str]) -> tuple[str, ...]:
    if all(re.fullmatch(r"-?\d{1,18}", label) for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))
