"""What a data set holds, before anybody trains on it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from trainer import datasets
from trainer.datasets.checks import numbered
from trainer.datasets.dataset import Array, Reading, Split, checked
from trainer.errors import DataError, Place


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        parts: as they lie, by name, with "train" first.
        classes: class names.
        repeated: by part, how many examples are there a second time and so on, within it.
        shared: by part, how many examples are in the training part too.
        relabelled: how many different examples are there with more than one class.
        uniform: how many images are of one colour only.
    """

    parts: dict[str, Split] = field(repr=False)
    classes: tuple[str, ...]
    repeated: dict[str, int]
    shared: dict[str, int]
    relabelled: int
    uniform: int

    @property
    def kind(self) -> str:
        """What an example is: "image", "vector" or "text"."""
        examples = self.parts["train"].examples
        return "text" if examples.dtype == object else {4: "image", 2: "vector"}[examples.ndim]

    def counts(self, part: str) -> list[int]:
        """Returns how many examples each class has in a part."""
        labels = self.parts[part].labels
        return [int(count) for count in np.bincount(labels, minlength=len(self.classes))]

    def lengths(self) -> tuple[int, int, int]:
        """Returns the words of the shortest text, of the middle one, and of the longest."""
        words = [len(str(text).split()) for part in self.parts.values() for text in part.examples]
        return min(words), int(np.median(words)), max(words)


def survey(data: str, options: Reading) -> Survey:
    """Reads and checks a data set, all of it.

    Raises:
        DataError: it is damaged, or in no known format.
        StorageError: the path is missing or may not be read.
    """
    source = datasets.read(data, options)
    try:
        parts = checked(source)
        classes = source.classes or numbered(parts["train"].labels)
        for name, part in parts.items():
            if part.labels.max() >= len(classes):
                raise DataError(
                    f"{name} labels: found {part.labels.max()}, expected 0 to {len(classes) - 1}"
                )
    except DataError as error:
        raise error.at(Place(data)) from None
    keys = {name: list(map(_digest, part.examples)) for name, part in parts.items()}
    seen = {name: Counter(found) for name, found in keys.items()}
    return Survey(
        parts=parts,
        classes=classes,
        repeated={name: found.total() - len(found) for name, found in seen.items()},
        shared={
            name: sum(times for key, times in found.items() if key in seen["train"])
            for name, found in seen.items()
            if name != "train"
        },
        relabelled=_relabelled(parts, keys),
        uniform=sum(map(_uniform, _images(parts))),
    )


def _digest(example: Array | str) -> bytes:
    whole = example.encode() if isinstance(example, str) else example.tobytes()
    return hashlib.blake2b(whole, digest_size=16).digest()


def _relabelled(parts: dict[str, Split], keys: dict[str, list[bytes]]) -> int:
    classes_of: dict[bytes, int] = {}
    relabelled: set[bytes] = set()
    for name, part in parts.items():
        for key, label in zip(keys[name], part.labels.tolist(), strict=True):
            if classes_of.setdefault(key, label) != label:
                relabelled.add(key)
    return len(relabelled)


def _images(parts: dict[str, Split]) -> Iterator[Array]:
    for part in parts.values():
        if part.examples.ndim == 4:
            yield from part.examples


def _uniform(image: Array) -> bool:
    return bool((image == image[0, 0]).all())
