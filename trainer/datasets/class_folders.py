"""Files in a folder a class, images or texts, below a folder a part if the data has parts.

Source: the layout of keras.utils.image_dataset_from_directory and text_dataset_from_directory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer import memory
from trainer.datasets import images, text
from trainer.datasets.dataset import Array, Reading, Source
from trainer.errors import DataError
from trainer.log import LOGGER

NAME = (
    "images or UTF-8 texts in a folder a class (cats/1.jpg, pos/1.txt), below train/, validation/ "
    "and test/ if the data has such parts"
)

_PARTS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
_MOST_NAMED = 5


def recognises(files: Sequence[Path]) -> bool:
    """Tells whether there is any image or text."""
    return any(_kind(file) for file in files)


def read(files: Sequence[Path], options: Reading) -> Source:
    """Reads every file; a class is named as its folder, whatever folders are within that one.

    Raises:
        DataError: a file is damaged, lies in no folder of a class, or is an image of another size.
    """
    kinds = Counter(kind for kind in map(_kind, files) if kind)
    kind = kinds.most_common(1)[0][0]
    chosen = [file for file in files if _kind(file) == kind]
    names = [file.relative_to(options.root).as_posix() for file in chosen]
    _tell(set(files) - set(chosen), kind)
    places = [_place(name) for name in names]
    parts = np.array([part for part, _ in places])
    if "train" not in parts:
        raise DataError(f"nothing below train/, found {', '.join(sorted(set(parts.tolist())))}")
    classes = tuple(sorted({label for part, label in places if part == "train"}))
    labels = np.array([_number(label, classes, part) for part, label in places], dtype=np.int32)
    contents = (file.read_bytes() for file in chosen)
    if kind == "image":
        examples = images.read(names, contents, size=options.image_size)
    else:
        size_bytes = sum(file.stat().st_size for file in chosen)
        memory.check_data(4 * size_bytes, f"{len(names)} texts")  # Bytes, text, strings.
        examples = text.whole(names, contents)

    def of(part: str) -> tuple[Array, Array] | None:
        within = parts == part
        return (examples[within], labels[within]) if within.any() else None

    train = parts == "train"
    return Source(
        train=(examples[train], labels[train]),
        test=of("test"),
        validation=of("validation"),
        classes=classes,
    )


def _kind(file: Path) -> str | None:
    suffix = file.suffix.lower()
    return "image" if suffix in images.SUFFIXES else "text" if suffix == ".txt" else None


def _tell(others: set[Path], kind: str) -> None:
    if others:
        some = ", ".join(sorted(file.name for file in others)[:_MOST_NAMED])
        LOGGER.warning("left out: %d files that are no %ss, as %s", len(others), kind, some)


def _place(name: str) -> tuple[str, str]:
    """Returns the part of the data that a file belongs to, and its class."""
    folders = name.split("/")[:-1]
    part = _PARTS.get(folders[0].lower()) if folders else None
    if part is not None:
        folders = folders[1:]
    if not folders:
        raise DataError(f"{name}: lies in no folder of a class, expected {NAME}")
    return part or "train", folders[0]


def _number(label: str, classes: tuple[str, ...], part: str) -> int:
    if label not in classes:
        raise DataError(
            f"{part}/{label}: a class without training examples, expected {', '.join(classes)}"
        )
    return classes.index(label)
