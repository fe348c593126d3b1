"""Converts any data set to the files that train fastest: shards of numbers, or Parquet of texts."""

from __future__ import annotations

from dataclasses import dataclass

from trainer import storage
from trainer.config import ReadOptions
from trainer.data import loader
from trainer.data.formats import table
from trainer.data.shards import shard_format
from trainer.errors import UsageError


@dataclass(frozen=True)
class Conversion:
    """Summary of a converted data set.

    Attributes:
        sizes: number of examples by split.
        classes: class names.
        files: number of files written.
    """

    sizes: dict[str, int]
    classes: tuple[str, ...]
    files: int


def convert(data: str, out: str, options: ReadOptions) -> Conversion:
    """Reads a data set and writes it to a new folder, shuffled, in the same order each time.

    Args:
        data: name of a shipped data set, local path, gs://bucket/path, or a pattern of either.
        out: a new or empty folder, local or gs://bucket/path.
        options: how the files are read.

    Raises:
        DataError: the data is damaged, or in no known format.
        UsageError: the folder has files in it, or the data is already in shards.
        StorageError: a file cannot be read or written.
    """
    folder = storage.folder(out)
    present = folder.names()
    if present:
        raise UsageError(f"OUT {out}: holds files ({present[0]}), expected a new or empty folder")
    storage.check_writable("OUT", folder)
    if data not in loader.SHIPPED and storage.folder(data).generation(shard_format.INDEX):
        raise UsageError(f"PATH {data}: is already in shards, nothing to convert")
    with loader.open_stream(data, options, shuffled=True) as stream:
        write = table.write if stream.texts else shard_format.write
        sizes = write(folder, stream)
        return Conversion(sizes, stream.classes, len(folder.names()))
