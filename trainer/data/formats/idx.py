"""IDX, the format of MNIST: big-endian arrays, gzip or not, four files in a folder.

Source: http://yann.lecun.com/exdb/mnist/ (section "FILE FORMATS").
"""

from __future__ import annotations

import contextlib
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.checks import check_example
from trainer.data.dataset import RawSplits, ReadRequest
from trainer.data.formats import arrays
from trainer.data.formats.arrays import ArrayFile
from trainer.data.shards.shard_format import Stream
from trainer.errors import DataError, Location

NAME = "IDX files of images and labels (train-images, train-labels, t10k-images, t10k-labels)"

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"
_NAME = re.compile(r"idx\d?-ubyte|\.idx\d?(\.gz)?$")

Unzipped = gzip.GzipFile | BufferedReader


def recognises(files: Sequence[Path]) -> bool:
    """Tells whether any of the files is IDX, by content or, for one that is damaged, by name."""
    return any(_is_idx(file) for file in files)


def read(files: Sequence[Path], request: ReadRequest) -> RawSplits:
    """Reads images and labels; files named t10k or test are the test part.

    Raises:
        DataError: a file is damaged, missing or there twice.
    """
    parts = _parts(files, request)
    found = {name: (images.read(), labels.read()) for name, (images, labels) in parts.items()}
    return RawSplits(found["train"], found.get("test"))


def stream(files: Sequence[Path], request: ReadRequest) -> Stream:
    """Gives images some at a time.

    Raises:
        DataError: as `read`; what is damaged may show when its block is asked for.
    """
    parts = _parts(files, request)
    found = {name: (images, labels.read()) for name, (images, labels) in parts.items()}
    return arrays.stream(found, request)


def _parts(files: Sequence[Path], request: ReadRequest) -> dict[str, tuple[ArrayFile, ArrayFile]]:
    """Returns images and labels of each part by its name, of which the headers are read."""
    found: dict[tuple[bool, bool], ArrayFile] = {}
    for file in filter(_is_idx, files):
        stored = _stored(file)
        key = (bool(re.search("t10k|test", file.name)), len(stored.shape) == 1)
        if key in found:
            raise DataError(
                f"holds the same part as {found[key].place.name}, expected one of them",
                Location(file),
            )
        found[key] = stored
    train, test = _pair(found, test=False), _pair(found, test=True)
    if train is None and test is not None and not request.needs_training:
        train, test = test, None
    if train is None:
        raise DataError("found no training images and labels beside it", Location(files[0]))
    return {"train": train, "test": test} if test else {"train": train}


def _pair(
    found: dict[tuple[bool, bool], ArrayFile], *, test: bool
) -> tuple[ArrayFile, ArrayFile] | None:
    images, labels = found.get((test, False)), found.get((test, True))
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        (there,) = (stored for stored in (images, labels) if stored)
        missing = "images" if images is None else "labels"
        raise DataError(f"found no file of {missing} that belongs to it", there.place)
    if images.shape[0] != labels.shape[0]:
        raise DataError(
            f"{labels.shape[0]} labels, but {images.place.name} has {images.shape[0]} images",
            labels.place,
        )
    return images, labels


def _is_idx(file: Path) -> bool:
    try:
        with _open(file) as content:
            head = content.read(4)
    except (OSError, EOFError, zlib.error):
        head = b""
    by_content = len(head) == 4 and head[:2] == b"\0\0" and head[2] in _DTYPES and 0 < head[3] < 9
    return by_content or is_named(file.name)


def is_named(name: str) -> bool:
    """Tells whether a file is named as IDX files are."""
    return bool(_NAME.search(name))


def unzipped(content: BufferedReader) -> Unzipped:
    """Returns a stream of what is in a file, gzipped or not, that is read from its start."""
    return gzip.GzipFile(fileobj=content) if content.peek(2)[:2] == _GZIP else content


def _stored(file: Path) -> ArrayFile:
    with _content(file) as content:
        shape, dtype = header(content, Location(file))
    check_example(Location(file), shape[1:])

    @contextlib.contextmanager
    def behind_header() -> Iterator[Unzipped]:
        with _content(file) as content:
            header(content, Location(file))
            yield content

    return ArrayFile(Location(file), shape, dtype, behind_header)


@contextlib.contextmanager
def _content(file: Path) -> Iterator[Unzipped]:
    """Gives the content of a file, gzipped or not."""
    try:
        with _open(file) as content:
            yield content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"damaged or truncated gzip: {error}", Location(file)) from None


def header(content: Unzipped, place: Location) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Reads the header of a file, and returns the shape and type of the array that follows.

    Args:
        content: of the file, from its start.
        place: of the file.

    Raises:
        DataError: it is no such header.
    """
    magic = content.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES or not magic[3]:
        raise DataError(
            f"found magic number 0x{magic.hex()}, expected one of IDX: 0x00000801 (labels) or "
            "0x00000803 (images)",
            place,
        )
    sizes = content.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError("ends within its header", place)
    return tuple(int(size) for size in np.frombuffer(sizes, ">u4")), np.dtype(_DTYPES[magic[2]])


def _open(file: Path) -> Unzipped:
    with file.open("rb") as start:
        zipped = start.read(2) == _GZIP
    return gzip.open(file) if zipped else file.open("rb")
