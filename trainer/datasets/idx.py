"""IDX, the format of MNIST: big-endian arrays, gzip or not, four files in a folder.

Source: http://yann.lecun.com/exdb/mnist/ (section "FILE FORMATS").
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from trainer.datasets.checks import check_shape
from trainer.datasets.dataset import Array, Reading, Source
from trainer.errors import DataError, Place

NAME = "IDX files of images and labels (train-images, train-labels, t10k-images, t10k-labels)"

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"
_NAME = re.compile(r"idx\d?-ubyte|\.idx\d?(\.gz)?$")
_CHUNK_BYTES = 1 << 20

Stream = gzip.GzipFile | BufferedReader


def recognises(files: Sequence[Path]) -> bool:
    """Tells whether any of the files is IDX, by content or, for one that is damaged, by name."""
    return any(_is_idx(file) for file in files)


def read(files: Sequence[Path], options: Reading) -> Source:
    """Reads images and labels; files named t10k or test are the test part.

    Raises:
        DataError: a file is damaged, missing or there twice.
    """
    parts: dict[tuple[bool, bool], tuple[Path, Array]] = {}
    for file in (file for file in files if _is_idx(file)):
        array = _read_array(file)
        key = (bool(re.search("t10k|test", file.name)), array.ndim == 1)
        if key in parts:
            raise DataError(
                f"holds the same part as {parts[key][0].name}, expected one of them", Place(file)
            )
        parts[key] = (file, array)
    train, test = _pair(parts, test=False), _pair(parts, test=True)
    if train is None and test is not None and not options.needs_training:
        train, test = test, None
    if train is None:
        raise DataError("found no training images and labels beside it", Place(files[0]))
    return Source(train=train, test=test)


def _pair(
    parts: dict[tuple[bool, bool], tuple[Path, Array]], *, test: bool
) -> tuple[Array, Array] | None:
    images, labels = parts.get((test, False)), parts.get((test, True))
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        (there,) = (part[0] for part in (images, labels) if part)
        missing = "images" if images is None else "labels"
        raise DataError(f"found no file of {missing} that belongs to it", Place(there))
    if len(images[1]) != len(labels[1]):
        raise DataError(
            f"{len(labels[1])} labels, but {images[0].name} has {len(images[1])} images",
            Place(labels[0]),
        )
    return images[1], labels[1]


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


def unzipped(content: BufferedReader) -> Stream:
    """Returns a stream of what is in a file, gzipped or not, that is read from its start."""
    return gzip.GzipFile(fileobj=content) if content.peek(2)[:2] == _GZIP else content


def _read_array(file: Path) -> Array:
    try:
        with _open(file) as content:
            shape, dtype = header(content, Place(file))
            check_shape(Place(file), shape, dtype.itemsize)
            expected = math.prod(shape) * dtype.itemsize
            # In pieces: the memory taken follows what is there, not what the header promises.
            body = bytearray()
            while len(body) <= expected and (
                chunk := content.read(min(_CHUNK_BYTES, expected + 1 - len(body)))
            ):
                body += chunk
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"damaged or truncated gzip: {error}", Place(file)) from None
    if len(body) != expected:
        found = "more" if len(body) > expected else len(body)
        raise DataError(
            f"its header promises {' x '.join(map(str, shape))} values in {expected} bytes, found "
            f"{found}",
            Place(file),
        )
    return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def header(content: Stream, place: Place) -> tuple[tuple[int, ...], np.dtype[Any]]:
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


def _open(file: Path) -> Stream:
    with file.open("rb") as start:
        zipped = start.read(2) == _GZIP
    return gzip.open(file) if zipped else file.open("rb")
