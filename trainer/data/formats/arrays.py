"""Arrays in IDX and `.npz` files, read whole or in blocks of rows."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from trainer.data import checks
from trainer.data.dataset import Array, ReadRequest
from trainer.data.shards.external_shuffle import order_blocks
from trainer.data.shards.shard_format import Stream
from trainer.errors import DataError, Location

_BLOCK_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 20
_UINT8 = np.dtype(np.uint8)


class Readable(Protocol):
    """A binary stream that an array is read from."""

    def read(self, size: int, /) -> bytes:
        """Returns the next `size` bytes; fewer only at the end."""


@dataclass(frozen=True)
class ArrayFile:
    """An array in a file, of which only the header has been read.

    Attributes:
        location: of the array.
        shape: (N, ...), from the header.
        dtype: dtype of its values.
        open: yields a stream of the values, after the header; reading from it raises DataError.
    """

    location: Location
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    open: Callable[[], contextlib.AbstractContextManager[Readable]]

    @property
    def row_bytes(self) -> int:
        """Size of one example or label in bytes."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def read(self) -> Array:
        """Returns the whole array: (N, ...).

        Raises:
            DataError: it is too large for memory, or has more or fewer bytes than its header says.
        """
        checks.check_shape(self.location, self.shape, self.dtype.itemsize)
        expected = self.shape[0] * self.row_bytes
        # In chunks, so that a header that claims too much does not allocate that much memory.
        body = bytearray()
        with self.open() as content:
            while len(body) <= expected and (
                chunk := content.read(min(_CHUNK_BYTES, expected + 1 - len(body)))
            ):
                body += chunk
        if len(body) != expected:
            raise self._size_error("more" if len(body) > expected else str(len(body)))
        values = np.frombuffer(body, self.dtype).reshape(self.shape)
        return values.astype(self.dtype.newbyteorder("="), copy=False)

    def blocks(self) -> Iterator[Array]:
        """Yields the rows in order, in blocks (n, ...).

        Raises:
            DataError: there are more or fewer bytes than the header says.
        """
        block_rows = max(1, _BLOCK_BYTES // self.row_bytes)
        with self.open() as content:
            for start in range(0, self.shape[0], block_rows):
                count = min(block_rows, self.shape[0] - start)
                values = content.read(count * self.row_bytes)
                if len(values) < count * self.row_bytes:
                    raise self._size_error(str(start * self.row_bytes + len(values)))
                yield np.frombuffer(values, self.dtype).reshape(count, *self.shape[1:])
            if content.read(1):
                raise self._size_error("more")

    def _size_error(self, size: str) -> DataError:
        sizes = " x ".join(map(str, self.shape))
        return DataError(
            f"its header says {sizes} values in {self.shape[0] * self.row_bytes} bytes, found "
            f"{size}",
            self.location,
        )


def stream(splits: Mapping[str, tuple[ArrayFile, Array]], request: ReadRequest) -> Stream:
    """Returns arrays of numbers as a stream.

    Reads each array one or two times more than the stream is: to find its range.

    Args:
        splits: "train" and perhaps "test": examples, and labels as read.
        request: how they are read.

    Raises:
        DataError: the data is damaged, or not trainable as `checks.check_split` defines it.
    """
    labels = {
        name: checks.class_indices(name, file, split_labels)
        for name, (file, split_labels) in splits.items()
    }
    files = {name: file for name, (file, _) in splits.items()}
    for name, file in files.items():
        checks.check_numeric(name, _with_channel_axis(file))
    checks.check_consistent(files)
    classes = checks.class_names(labels["train"])
    for name, split_labels in labels.items():
        checks.check_label_range(name, split_labels, classes)
    ranges = {name: _range(name, file) for name, file in files.items()}
    fits_uint8 = all(
        checks.storage_dtype(files[name].dtype, *ranges[name]) == _UINT8 for name in files
    )
    dtype = _UINT8 if fits_uint8 else np.dtype(np.float32)
    streams = {}
    for name, file in files.items():
        blocks = _converted_blocks(name, file, dtype)
        streams[name] = order_blocks(blocks, labels[name], shuffle=request.shuffled)
    return Stream(streams, classes)


def _has_images(file: ArrayFile) -> bool:
    return len(file.shape) > 2


def _with_channel_axis(file: ArrayFile) -> ArrayFile:
    """Returns images (N, H, W) as (N, H, W, 1)."""
    shape = file.shape
    return dataclasses.replace(file, shape=(*shape, 1)) if len(shape) == 3 else file


def _range(name: str, file: ArrayFile) -> tuple[float, float]:
    """Returns the minimum and maximum value; 0 and 255 for uint8 images, which are not read."""
    if file.dtype == _UINT8 and _has_images(file):
        return 0.0, 255.0
    dtype = file.dtype if file.dtype.kind in "biu" else np.dtype(np.float32)
    lows, highs = [], []
    for block in _converted_blocks(name, file, dtype):
        lows.append(float(block.min()))
        highs.append(float(block.max()))
    return min(lows), max(highs)


def _converted_blocks(name: str, file: ArrayFile, dtype: np.dtype[Any]) -> Iterator[Array]:
    start = 0
    for block in file.blocks():
        if block.ndim == 3:
            block = block[..., np.newaxis]
        yield checks.convert_examples(name, block, dtype, start=start)
        start += len(block)
