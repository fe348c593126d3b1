"""A data set that need not fit into memory: `index.json`, and .npy files of examples and labels."""

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
from trainer.data.dataset import Array, RawSplits, Split
from trainer.data.shards.cache import Cache
from trainer.data.shards.external_shuffle import shuffled
from trainer.data.shards.reader import Shard, Shards, array, crc32c, cut
from trainer.errors import DataError, Location
from trainer.storage import Folder

INDEX = "index.json"
NAME = "shards, as `trainer data convert` makes them (index.json, train-00000.npy, ...)"

_STRICT = pydantic.ConfigDict(extra="forbid", strict=False)
# Large enough that a file is not much slower to open than to read, also in a bucket.
_SHARD_BYTES = 16 << 20
_WINDOW_BYTES = 256 << 20
_AT_ONCE = 1024  # Examples in a block.


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_STRICT)
class _File:
    file: str = pydantic.Field(pattern=r"^[A-Za-z0-9][-.\w]*$")
    examples: int = pydantic.Field(gt=0)
    crc32c: str = pydantic.Field(pattern=r"^[A-Za-z0-9+/]{6}==$")


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_STRICT)
class _Part:
    labels: _File
    digests: _File | None = None  # Data that was converted before there were any has none.
    examples: list[_File] = pydantic.Field(min_length=1)


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_STRICT)
class _Index:
    """What `index.json` holds."""

    format: Literal["trainer-shards-1"]
    classes: list[str] = pydantic.Field(max_length=MAX_CLASSES)
    shape: list[int] = pydantic.Field(min_length=1, max_length=3)
    dtype: Literal["uint8", "float32"]
    low: float
    high: float
    window_bytes: int = pydantic.Field(gt=0)
    parts: dict[Literal["train", "validation", "test"], _Part]


def source(folder: Folder, cache: Cache | None = None) -> RawSplits | None:
    """Returns the data in a folder, local or in a bucket; None if it holds no shards.

    Labels and digests are read, examples are not.

    Args:
        folder: where it is.
        cache: where files of a bucket are kept, if anywhere.

    Raises:
        DataError: the index or the labels are damaged.
    """
    content = folder.read(INDEX)
    if content is None:
        return None
    place = Location(f"{folder.path}/{INDEX}")
    try:
        index = pydantic.TypeAdapter(_Index).validate_json(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"not {NAME}: {where}: {first['msg']}", place) from None
    parts: dict[str, tuple[Shards, Array]] = {}
    for name, described in index.parts.items():
        taken = described.digests
        files = [Shard(each.file, each.examples, each.crc32c) for each in described.examples]
        shards = Shards(
            folder=folder,
            files=files,
            example=tuple(index.shape),
            dtype=np.dtype(index.dtype),
            low=index.low,
            high=index.high,
            window_bytes=index.window_bytes,
            cache=cache,
            all_digests=None if taken is None else _numbers(folder, taken),
        )
        parts[name] = shards, _numbers(folder, described.labels)
    if "train" not in parts:
        raise DataError("no part to train on", place)
    return RawSplits(**parts, classes=tuple(index.classes))


def _numbers(folder: Folder, described: _File) -> Array:
    place = Location(f"{folder.path}/{described.file}")
    content = folder.read(described.file)
    if content is None or crc32c(content) != described.crc32c:
        raise DataError(f"missing, or damaged: another CRC32C than in {INDEX}", place)
    return array(content, place)


@dataclass(frozen=True)
class Stream:
    """A data set that is given piece by piece.

    Attributes:
        parts: "train" and perhaps "validation" and "test": blocks of examples, uint8 or float32
            (n, ...) or texts, object array of str (n,), of which one is in memory at a time; and
            the labels of all, int32 (N,).
        classes: class names.
        low: least value of the examples.
        high: greatest value.
        texts: whether they are texts.
    """

    parts: Mapping[str, tuple[Iterable[Array], Array]]
    classes: tuple[str, ...]
    low: float = 0.0
    high: float = 255.0
    texts: bool = False


def of_parts(parts: Mapping[str, Split], classes: tuple[str, ...], *, mix: bool) -> Stream:
    """Returns a data set that is in memory, or in shards, as a stream.

    Args:
        parts: by name.
        classes: class names.
        mix: whether examples are wanted in a random order; those of shards are in one.
    """
    train = parts["train"].examples
    texts = train.dtype == object
    low, high = 0.0, 255.0
    if not texts and not (train.dtype == np.uint8 and train.ndim == 4):  # No pixels.
        low, high = float(train.min()), float(train.max())
    pieces: dict[str, tuple[Iterable[Array], Array]] = {}
    for name, part in parts.items():
        if isinstance(part.examples, Shards):
            pieces[name] = part.examples.blocks(), part.labels
            continue
        rows = shuffled(np.arange(len(part))) if mix else np.arange(len(part))
        pieces[name] = _blocks(part.examples, rows), part.labels[rows]
    return Stream(pieces, classes, low, high, texts)


def _blocks(examples: Array, rows: Array) -> Iterator[Array]:
    for at in range(0, len(rows), _AT_ONCE):
        yield examples[rows[at : at + _AT_ONCE]]


def write(
    folder: Folder,
    stream: Stream,
    *,
    shard_bytes: int = _SHARD_BYTES,
    window_bytes: int = _WINDOW_BYTES,
) -> None:
    """Writes a data set; the index comes last, so that what is cut short is none.

    Args:
        folder: where it goes, local or in a bucket.
        stream: the data set.
        shard_bytes: about what a file holds.
        window_bytes: examples are shuffled within so many bytes of files.
    """
    described: dict[str, Any] = {}
    with storage.temporary_directory() as temporary_directory:
        shape, dtype = None, None
        for name, (blocks, labels) in stream.parts.items():
            files, taken = [], []
            for number, block in enumerate(cut(blocks, shard_bytes)):
                shape, dtype = list(block.shape[1:]), str(block.dtype)
                taken.append(digests.of(block))
                files.append(_put(folder, temporary_directory, f"{name}-{number:05}.npy", block))
            described[name] = {
                "labels": _put(
                    folder, temporary_directory, f"{name}-labels.npy", labels.astype(np.int32)
                ),
                "digests": _put(
                    folder, temporary_directory, f"{name}-digests.npy", np.concatenate(taken)
                ),
                "examples": files,
            }
        index = {
            "format": "trainer-shards-1",
            "classes": list(stream.classes),
            "shape": shape,
            "dtype": dtype,
            "low": stream.low,
            "high": stream.high,
            "window_bytes": window_bytes,
            "parts": described,
        }
        path = temporary_directory / INDEX
        path.write_text(json.dumps(index, ensure_ascii=False) + "\n", encoding="utf-8")
        folder.write(INDEX, path)


def _put(folder: Folder, temporary_directory: Path, name: str, values: Array) -> dict[str, Any]:
    path = temporary_directory / name
    np.save(path, values, allow_pickle=False)
    folder.write(name, path)
    described = {"file": name, "examples": len(values), "crc32c": storage.crc32c(path)}
    path.unlink()
    return described
