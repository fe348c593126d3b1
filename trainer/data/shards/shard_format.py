"""The shard format: `index.json`, and .npy files of examples and labels, read on demand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic

from trainer import storage
from trainer.data import digests
from trainer.data.checks import MAX_CLASSES
from trainer.data.dataset import Array, ImageLayout, RawSplits, Source, Split
from trainer.data.shards.cache import ShardCache
from trainer.data.shards.external_shuffle import Pairs, pair_blocks, shuffle_rows
from trainer.data.shards.reader import Shard, Shards, crc32c, parse_npy, rechunk
from trainer.errors import DataError, Location
from trainer.storage import Folder

INDEX = "index.json"
NAME = "shards, as `trainer data convert` writes them (index.json, train-00000.npy, ...)"
VERSION = "trainer-shards-2"

_STRICT = pydantic.ConfigDict(extra="forbid", strict=False)
# Large enough that reading a file takes longer than opening it, also in a bucket.
_SHARD_BYTES = 16 << 20
_SHUFFLE_BLOCK_BYTES = 256 << 20
_EXAMPLES_PER_BLOCK = 1024


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_STRICT)
class _FileEntry:
    file: str = pydantic.Field(pattern=r"^[A-Za-z0-9][-.\w]*$")
    examples: int = pydantic.Field(gt=0)
    crc32c: str = pydantic.Field(pattern=r"^[A-Za-z0-9+/]{6}==$")


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_STRICT)
class _SplitEntry:
    labels: _FileEntry
    digests: _FileEntry | None = None  # Optional: other writers of the format may leave it out.
    examples: list[_FileEntry] = pydantic.Field(min_length=1)


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_STRICT)
class _Index:
    """The content of `index.json`."""

    format: Literal["trainer-shards-2"]  # VERSION
    classes: list[str] = pydantic.Field(max_length=MAX_CLASSES)
    shape: list[int] = pydantic.Field(min_length=1, max_length=3)
    dtype: Literal["uint8", "float32"]
    low: float
    high: float
    shuffle_block_bytes: int = pydantic.Field(gt=0)
    splits: dict[Literal["train", "validation", "test"], _SplitEntry]


def read(folder: Folder, cache: ShardCache | None = None) -> RawSplits | None:
    """Returns the data set in a folder of shards; None if the folder has no index.

    Reads labels and digests, but no examples.

    Args:
        folder: local or in a bucket.
        cache: local cache of files from a bucket, if any.

    Raises:
        DataError: the index or the labels are damaged, or of another version of the format.
    """
    content = folder.read(INDEX)
    if content is None:
        return None
    location = Location(f"{folder.path}/{INDEX}")
    index = _parse_index(content, location)
    if "train" not in index.splits:
        raise DataError("no training split", location)
    splits: dict[str, tuple[Shards, Array]] = {}
    for name, entry in index.splits.items():
        shards = Shards(
            folder=folder,
            files=[Shard(each.file, each.examples, each.crc32c) for each in entry.examples],
            example=tuple(index.shape),
            dtype=np.dtype(index.dtype),
            low=index.low,
            high=index.high,
            shuffle_block_bytes=index.shuffle_block_bytes,
            cache=cache,
            all_digests=None if entry.digests is None else _read_array(folder, entry.digests),
        )
        splits[name] = shards, _read_array(folder, entry.labels)
    source = Source(format="shards", summary="shards of `trainer data convert`")
    return RawSplits(
        train=splits["train"],
        validation=splits.get("validation"),
        test=splits.get("test"),
        classes=tuple(index.classes),
        source=source,
    )


def _parse_index(content: bytes, location: Location) -> _Index:
    try:
        return pydantic.TypeAdapter(_Index).validate_json(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
    if first["loc"] == ("format",):
        raise DataError(
            f"found format {first['input']!r}, expected {VERSION!r}: convert the original data "
            "again with `trainer data convert`",
            location,
        )
    field = ".".join(map(str, first["loc"]))
    raise DataError(f"not {NAME}: {field}: {first['msg']}", location)


def _read_array(folder: Folder, entry: _FileEntry) -> Array:
    location = Location(f"{folder.path}/{entry.file}")
    content = folder.read(entry.file)
    if content is None or crc32c(content) != entry.crc32c:
        raise DataError(f"missing, or damaged: its CRC32C is not the one in {INDEX}", location)
    return parse_npy(content, location)


@dataclass(frozen=True)
class Stream:
    """A data set of which one block of examples at a time is in memory.

    Attributes:
        splits: "train" and perhaps "validation" and "test": blocks of examples, uint8 or float32
            (n, ...) or texts, object array of str (n,), each with its labels, int32 (n,); and the
            labels of all examples, int32 (N,). Damaged examples have a label among the latter, but
            are in no block.
        classes: class names.
        texts: whether the examples are texts.
        source: how the data is read; None if a program made it.
        layout: what image files are decoded to; None for other data.
    """

    splits: Mapping[str, tuple[Pairs, Array]]
    classes: tuple[str, ...]
    texts: bool = False
    source: Source | None = None
    layout: ImageLayout | None = None


def stream_splits(
    splits: Mapping[str, Split], classes: tuple[str, ...], *, shuffle: bool
) -> Stream:
    """Returns splits that are in memory, or in shards, as a stream.

    Args:
        splits: by name.
        classes: class names.
        shuffle: whether to shuffle the examples; shards are shuffled already.
    """
    texts = splits["train"].examples.dtype == object
    streams: dict[str, tuple[Pairs, Array]] = {}
    for name, split in splits.items():
        blocks, labels = _blocks(split, shuffle=shuffle)
        streams[name] = pair_blocks(blocks, labels), labels
    return Stream(streams, classes, texts)


def _blocks(split: Split, *, shuffle: bool) -> tuple[Iterable[Array], Array]:
    """Returns the examples of a split in blocks, and all labels in the same order."""
    examples = split.examples
    if isinstance(examples, Shards):
        return examples.blocks(), split.labels
    rows = np.arange(len(split))
    if shuffle:
        rows = shuffle_rows(rows)
    starts = range(0, len(rows), _EXAMPLES_PER_BLOCK)
    blocks = (examples[rows[start : start + _EXAMPLES_PER_BLOCK]] for start in starts)
    return blocks, split.labels[rows]


class _Labels:
    """Collects the labels of the blocks that pass by."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs
        self._collected: list[Array] = []

    def examples(self) -> Iterator[Array]:
        """Yields the examples of each block."""
        for examples, labels in self._pairs:
            self._collected.append(labels)
            yield examples

    def all(self) -> Array:
        """Returns the labels of all blocks so far, int32 (N,)."""
        return np.concatenate(self._collected).astype(np.int32)


def write(
    folder: Folder,
    stream: Stream,
    *,
    shard_bytes: int = _SHARD_BYTES,
    shuffle_block_bytes: int = _SHUFFLE_BLOCK_BYTES,
) -> dict[str, int]:
    """Writes a data set as shards; writes the index last, so that a partial write is not readable.

    Args:
        folder: destination, local or in a bucket.
        stream: the data set.
        shard_bytes: approximate size of a file.
        shuffle_block_bytes: size of a shuffle block, within which examples are shuffled.

    Returns:
        The number of examples of each split.
    """
    entries: dict[str, Any] = {}
    with storage.temporary_directory() as temporary:
        shape, dtype, limits = None, None, {}
        for name, (pairs, _) in stream.splits.items():
            labels = _Labels(pairs)
            files, block_digests, lows, highs = [], [], [], []
            for number, block in enumerate(rechunk(labels.examples(), shard_bytes)):
                shape, dtype = list(block.shape[1:]), str(block.dtype)
                block_digests.append(digests.digest_examples(block))
                lows.append(float(block.min()))
                highs.append(float(block.max()))
                files.append(_write_array(folder, temporary, f"{name}-{number:05}.npy", block))
            all_digests = np.concatenate(block_digests)
            class_indices = labels.all()
            limits[name] = min(lows), max(highs)
            entries[name] = {
                "labels": _write_array(folder, temporary, f"{name}-labels.npy", class_indices),
                "digests": _write_array(folder, temporary, f"{name}-digests.npy", all_digests),
                "examples": files,
            }
        # Pixels of 8 bits have the same range in all data sets.
        are_pixels = dtype == "uint8" and len(shape or ()) == 3
        low, high = (0.0, 255.0) if are_pixels else limits["train"]
        index = {
            "format": VERSION,
            "classes": list(stream.classes),
            "shape": shape,
            "dtype": dtype,
            "low": low,
            "high": high,
            "shuffle_block_bytes": shuffle_block_bytes,
            "splits": entries,
        }
        path = temporary / INDEX
        path.write_text(json.dumps(index, ensure_ascii=False) + "\n", encoding="utf-8")
        folder.write(INDEX, path)
    return {name: entry["labels"]["examples"] for name, entry in entries.items()}


def _write_array(folder: Folder, temporary: Path, name: str, values: Array) -> dict[str, Any]:
    """Writes an array as .npy and returns its entry in the index."""
    path = temporary / name
    np.save(path, values, allow_pickle=False)
    folder.write(name, path)
    entry = {"file": name, "examples": len(values), "crc32c": storage.crc32c(path)}
    path.unlink()
    return entry
