"""IDX, the format of MNIST: big-endian arrays, gzipped or not, in four files of one folder.

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

from trainer.data.checks import check_example_shape
from trainer.data.dataset import RawSplits, ReadRequest
from trainer.data.formats import arrays
from trainer.data.formats.arrays import ArrayFile
from trainer.data.listing import Candidate
from trainer.data.shards.shard_format import Stream
from trainer.errors import DataError, Location

NAME = "IDX files of images and labels (train-images, train-labels, t10k-images, t10k-labels)"

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_AXES = 8  # Files with more are recognised by their names only.
_GZIP = b"\x1f\x8b"
_NAME = re.compile(r"idx\d?-ubyte|\.idx\d?(\.gz)?$")

Unzipped = gzip.GzipFile | BufferedReader


def recognises(files: Sequence[Path]) -> bool:
    """Returns whether any file is IDX, by its content or, if it is damaged, by its name."""
    return any(_is_idx(file) for file in files)


def read(candidate: Candidate, request: ReadRequest) -> RawSplits:
    """Reads images and labels; files named t10k or test are the test split.

    Raises:
        DataError: a file is damaged, missing, or there are two files for the same split.
    """
    splits = {
        name: (images.read(), labels.read())
        for name, (images, labels) in _split_files(candidate.files, request).items()
    }
    return RawSplits(splits["train"], splits.get("test"))


def stream(candidate: Candidate, request: ReadRequest) -> Stream:
    """Returns the images as a stream.

    Raises:
        DataError: as `read`; perhaps when a damaged block is read.
    """
    splits = {
        name: (images, labels.read())
        for name, (images, labels) in _split_files(candidate.files, request).items()
    }
    return arrays.stream(splits, request)


def _split_files(
    files: Sequence[Path], request: ReadRequest
) -> dict[str, tuple[ArrayFile, ArrayFile]]:
    """Returns the files of images and labels by split; reads their headers."""
    by_role: dict[tuple[bool, bool], ArrayFile] = {}
    for file in filter(_is_idx, files):
        array_file = _array_file(file)
        is_test, is_labels = bool(re.search("t10k|test", file.name)), len(array_file.shape) == 1
        other = by_role.setdefault((is_test, is_labels), array_file)
        if other is not array_file:
            raise DataError(
                f"holds the same split as {other.location.name}, expected one of them",
                Location(file),
            )
    train, test = _images_and_labels(by_role, test=False), _images_and_labels(by_role, test=True)
    if train is None and test is not None and not request.needs_training:
        train, test = test, None
    if train is None:
        raise DataError("found no training images and labels beside it", Location(files[0]))
    return {"train": train, "test": test} if test else {"train": train}


def _images_and_labels(
    by_role: dict[tuple[bool, bool], ArrayFile], *, test: bool
) -> tuple[ArrayFile, ArrayFile] | None:
    """Returns the two files of a split; None if it has neither.

    Args:
        by_role: files by (is test, is labels).
        test: whether the test split is wanted.
    """
    images, labels = by_role.get((test, False)), by_role.get((test, True))
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        (present,) = (file for file in (images, labels) if file)
        missing = "images" if images is None else "labels"
        raise DataError(f"found no file of {missing} for it, expected one", present.location)
    if images.shape[0] != labels.shape[0]:
        raise DataError(
            f"{labels.shape[0]} labels, but {images.location.name} has {images.shape[0]} images",
            labels.location,
        )
    return images, labels


def _is_idx(file: Path) -> bool:
    try:
        with _open(file) as content:
            head = content.read(4)
    except (OSError, EOFError, zlib.error):
        head = b""
    by_content = (
        len(head) == 4 and head[:2] == b"\0\0" and head[2] in _DTYPES and 0 < head[3] <= _MAX_AXES
    )
    return by_content or is_idx_name(file.name)


def is_idx_name(name: str) -> bool:
    """Returns whether a file has a name that is usual for IDX."""
    return bool(_NAME.search(name))


def unzip(content: BufferedReader) -> Unzipped:
    """Returns a stream of the content of a file, which may be gzipped; reads from its start."""
    return gzip.GzipFile(fileobj=content) if content.peek(2)[:2] == _GZIP else content


def _array_file(file: Path) -> ArrayFile:
    with _open_unzipped(file) as content:
        shape, dtype = read_header(content, Location(file))
    check_example_shape(Location(file), shape[1:])

    @contextlib.contextmanager
    def open_values() -> Iterator[Unzipped]:
        with _open_unzipped(file) as content:
            read_header(content, Location(file))
            yield content

    return ArrayFile(Location(file), shape, dtype, open_values)


@contextlib.contextmanager
def _open_unzipped(file: Path) -> Iterator[Unzipped]:
    """Yields a stream of the content of a file, gzipped or not; reading raises DataError."""
    try:
        with _open(file) as content:
            yield content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"damaged or truncated gzip: {error}", Location(file)) from None


def read_header(content: Unzipped, location: Location) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Reads the header of a file; returns the shape and dtype of the array that follows.

    Args:
        content: stream at the start of the file.
        location: of the file.

    Raises:
        DataError: it is not a header of IDX.
    """
    magic = content.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES or not magic[3]:
        raise DataError(
            f"found magic number 0x{magic.hex()}, expected one of IDX: 0x00000801 (labels) or "
            "0x00000803 (images)",
            location,
        )
    sizes = content.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError("the file ends within its header, expected images or labels", location)
    return tuple(int(size) for size in np.frombuffer(sizes, ">u4")), np.dtype(_DTYPES[magic[2]])


def _open(file: Path) -> Unzipped:
    with file.open("rb") as start:
        zipped = start.read(2) == _GZIP
    return gzip.open(file) if zipped else file.open("rb")
