"""IDX, the format of MNIST: big-endian arrays, gzipped or not, in four files of one folder.

Source: http://yann.lecun.com/exdb/mnist/ (section "FILE FORMATS").
"""

from __future__ import annotations

import contextlib
import gzip
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data import splits
from trainer.data.arrays import array_files
from trainer.data.arrays.array_files import ArrayFile
from trainer.data.checks import check_example_shape
from trainer.data.dataset import SPLITS, RawSplits, ReadRequest
from trainer.data.listing import Candidate
from trainer.data.shards.shard_format import Stream
from trainer.errors import DataError, Location

NAME = "IDX files of images and labels (train-images, train-labels, t10k-images, t10k-labels)"

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_AXES = 8  # Files with more are recognised by their names only.
# The parts of a file's name that are the same in every data set.
_SET_PARTS = re.compile(
    r"t10k|train(ing)?|test(ing)?|val(idation)?|images?|labels?|[-.]?idx\d?|[-.]?ubyte|\.gz"
)
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
    pairs = {
        name: (images.read(), labels.read())
        for name, (images, labels) in _split_files(candidate.files, request).items()
    }
    return array_files.raw_splits(pairs)


def stream(candidate: Candidate, request: ReadRequest) -> Stream | None:
    """Returns the images as a stream; None if their channels are first.

    Raises:
        DataError: as `read`; perhaps when a damaged block is read.
    """
    pairs = _split_files(candidate.files, request)
    files = {name: images for name, (images, _) in pairs.items()}
    if any(array_files.is_channels_first(name, file.shape) for name, file in files.items()):
        return None
    return array_files.stream(files, {name: y.read() for name, (_, y) in pairs.items()}, request)


def _split_files(
    files: Sequence[Path], request: ReadRequest
) -> dict[str, tuple[ArrayFile, ArrayFile]]:
    """Returns the files of images and labels by split; reads their headers."""
    by_role: dict[tuple[str, bool], ArrayFile] = {}
    opened = {file: _array_file(file) for file in files if _is_idx(file)}
    _check_one_set(opened)
    for file, array_file in opened.items():
        role = _split(file.name), _holds_labels(file.name, array_file)
        other = by_role.setdefault(role, array_file)
        if other is not array_file:
            raise DataError(
                f"holds the same split as {other.location.name}, expected one of them",
                Location(file),
            )
    pairs = {
        split: pair for split in SPLITS if (pair := _images_and_labels(by_role, split)) is not None
    }
    if "train" not in pairs and len(pairs) == 1 and not request.needs_training:
        (pair,) = pairs.values()
        return {"train": pair}
    if "train" not in pairs:
        raise DataError("found no training images and labels beside it", Location(files[0]))
    return pairs


def _split(name: str) -> str:
    return "test" if "t10k" in name else splits.from_name(name) or "train"


def _holds_labels(name: str, array_file: ArrayFile) -> bool:
    """Returns whether a file holds labels, by its name or else by its shape."""
    if "label" in name.lower() or "image" in name.lower():
        return "label" in name.lower()
    return len(array_file.shape) == 1


def _check_one_set(files: Mapping[Path, ArrayFile]) -> None:
    """Raises DataError if files are of several data sets, such as EMNIST's letters and digits."""
    roles: dict[str, set[tuple[str, bool]]] = {}
    for file, array_file in files.items():
        role = _split(file.name), _holds_labels(file.name, array_file)
        roles.setdefault(_SET_PARTS.sub("", file.name.lower()).strip("-_. "), set()).add(role)
    complete = [
        name for name, found in roles.items() if {("train", False), ("train", True)} <= found
    ]
    if len(complete) > 1:
        raise DataError(
            f"found several data sets: {', '.join(sorted(complete))}; give the files of one of "
            f"them to --data, by a pattern such as {complete[0]}*"
        )


def _images_and_labels(
    by_role: Mapping[tuple[str, bool], ArrayFile], split: str
) -> tuple[ArrayFile, ArrayFile] | None:
    """Returns the two files of a split; None if it has neither.

    Args:
        by_role: files by (split, is labels).
        split: name of the split.
    """
    images, labels = by_role.get((split, False)), by_role.get((split, True))
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
