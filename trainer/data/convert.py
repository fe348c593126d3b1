"""Any data set as files that train fastest: shards of numbers, or Parquet for texts."""

from __future__ import annotations

from dataclasses import dataclass

from trainer import storage
from trainer.config import ReadOptions
from trainer.data import loader
from trainer.data.formats import table
from trainer.data.shards import shard_format
from trainer.errors import UsageError


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


def convert(data: str, out: str, options: ReadOptions) -> Converted:
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
    if data not in loader.SHIPPED and storage.folder(data).generation(shard_format.INDEX):
        raise UsageError(f"PATH {data}: is shards already")
    with loader.streamed(data, options, shuffled=True) as stream:
        write = table.write if stream.texts else shard_format.write
        write(folder, stream)
        sizes = {name: len(labels) for name, (_, labels) in stream.parts.items()}
        return Converted(sizes, stream.classes, len(folder.names()))
