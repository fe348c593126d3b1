"""Any data set as files that train fastest: shards of numbers, or Parquet for texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trainer import datasets, storage
from trainer.datasets import sharded, table
from trainer.datasets.checks import numbered
from trainer.datasets.dataset import Array, Reading, Split, checked
from trainer.datasets.sharded import Stream, shuffled
from trainer.errors import UsageError

_AT_ONCE = 1024  # Examples in a block.


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        sizes: examples in each part.
        classes: class names.
        files: how many there are.
    """

    sizes: dict[str, int]
    classes: tuple[str, ...]
    files: int


def convert(data: str, out: str, options: Reading) -> Converted:
    """Reads a data set, and writes it anew in a random order, which is the same each time.

    Args:
        data: name of a shipped set, or local path, or gs://bucket/path, or a pattern of either.
        out: a new or empty folder, local or gs://bucket/path.
        options: how its files are to be read.

    Raises:
        DataError: it is damaged, or in no known format.
        UsageError: there are files in the folder, or the data is shards already.
        StorageError: something may not be read or written.
    """
    folder = storage.folder(out)
    present = folder.names()
    if present:
        raise UsageError(f"OUT {out}: holds files ({present[0]}), expected a new or empty folder")
    folder.check_writable()
    if data not in datasets.SHIPPED and storage.folder(data).version(sharded.INDEX):
        raise UsageError(f"PATH {data}: is shards already")
    with datasets.streamed(data, options) as found:
        if isinstance(found, Stream):
            sharded.write(folder, found)
            sizes = {name: len(labels) for name, (_, labels) in found.parts.items()}
            return Converted(sizes, found.classes, len(folder.names()))
        parts, classes = checked(found), found.classes
    classes = classes or numbered(parts["train"].labels)
    sizes = {name: len(part) for name, part in parts.items()}
    if parts["train"].examples.dtype == object:
        table.write(folder, {name: _shuffled(part) for name, part in parts.items()}, classes)
    else:
        sharded.write(folder, _stream(parts, classes))
    return Converted(sizes, classes, len(folder.names()))


def _stream(parts: dict[str, Split], classes: tuple[str, ...]) -> Stream:
    train = np.asarray(parts["train"].examples)
    low, high = float(train.min()), float(train.max())
    if train.dtype == np.uint8 and train.ndim == 4:  # Pixels.
        low, high = 0.0, 255.0
    pieces = {}
    for name, part in parts.items():
        mixed = _shuffled(part)
        pieces[name] = (_blocks(np.asarray(mixed.examples)), mixed.labels)
    return Stream(pieces, classes, low, high)


def _shuffled(part: Split) -> Split:
    rows = shuffled(np.arange(len(part)))
    return Split(part.examples[rows], part.labels[rows])


def _blocks(examples: Array) -> Iterator[Array]:
    for at in range(0, len(examples), _AT_ONCE):
        yield examples[at : at + _AT_ONCE]
