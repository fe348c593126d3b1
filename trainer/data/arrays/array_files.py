"""Arrays in IDX and `.npz` files, read whole or in blocks of rows."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from trainer.data import checks
from trainer.data.arrays import array_labels
from trainer.data.dataset import Array, RawSplits, ReadRequest
from trainer.data.shards.external_shuffle import order_blocks
from trainer.data.shards.shard_format import Stream
from trainer.errors import DataError, Location
from trainer.runtime.log import LOGGER

_BLOCK_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 20
_UINT8 = np.dtype(np.uint8)
_CHANNELS = (1, 3, 4)


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


def raw_splits(
    pairs: Mapping[str, tuple[Array, Array]], names: Sequence[str] | None = None
) -> RawSplits:
    """Returns arrays as splits, with named classes, and images with their channels last.

    Args:
        pairs: by split, "train" first: examples (N, ...), and labels as `array_labels` reads them.
        names: class names that integer labels are indices of; None if the labels are the names.

    Raises:
        DataError: labels and examples do not fit; without a location.
    """
    for split, (examples, _) in pairs.items():
        _check_examples(split, examples.shape)
    classes, labels = array_labels.encode(
        {split: pair[1] for split, pair in pairs.items()},
        {split: len(pair[0]) for split, pair in pairs.items()},
        names,
    )
    present = {split: (_channels_last(split, pairs[split][0]), labels[split]) for split in labels}
    return RawSplits(
        train=present["train"],
        validation=present.get("validation"),
        test=present.get("test"),
        classes=classes,
        integer_labels=names is None and pairs["train"][1].dtype.kind in "iuf",
    )


def _check_examples(split: str, shape: tuple[int, ...]) -> None:
    if not shape:
        raise DataError(f"{checks.title(split)} examples: found a single value, expected (N, ...)")


def is_channels_first(split: str, shape: tuple[int, ...]) -> bool:
    """Returns whether images have their channels before height and width, as PyTorch has them.

    Args:
        split: name of the split.
        shape: (N, H, W, C), (N, C, H, W), or another one.

    Raises:
        DataError: it may be either; without a location.
    """
    if len(shape) != 4:
        return False
    _, first, rows, last = shape
    if last in _CHANNELS and first not in _CHANNELS:
        return False
    if first in _CHANNELS and last not in _CHANNELS:
        return True
    # (N, 1, 1, 1), or 5 channels, or images of 3 rows: not clear if both sides could be channels.
    unclear = first != last if last in _CHANNELS else first < rows == last
    if unclear:
        raise DataError(
            f"{checks.title(split)} examples: found images of shape {shape}, of which it is not "
            "clear whether the channels are first or last; save them as (N, height, width, "
            "channels) with 1 or 3 channels"
        )
    return False


def _channels_last(split: str, examples: Array) -> Array:
    """Returns images (N, C, H, W) as (N, H, W, C), and says so; other examples as they are."""
    if not is_channels_first(split, examples.shape):
        return examples
    LOGGER.info(
        "%s examples: images of shape %s have their channels first; read as (N, %d, %d, %d)",
        checks.title(split), examples.shape, *examples.shape[2:], examples.shape[1],
    )  # fmt: skip
    return np.moveaxis(examples, 1, -1)


def stream(
    files: Mapping[str, ArrayFile],
    labels: Mapping[str, Array],
    request: ReadRequest,
    names: Sequence[str] | None = None,
) -> Stream:
    """Returns arrays of numbers as a stream; channels must be last.

    Reads each array one or two times more than the stream is: to find its range.

    Args:
        files: by split, "train" first: the examples.
        labels: by split: the labels as read.
        request: how they are read.
        names: as in `raw_splits`.

    Raises:
        DataError: the data is damaged, or not trainable as `checks.check_split` defines it.
    """
    for split, file in files.items():
        _check_examples(split, file.shape)
    counts = {split: file.shape[0] for split, file in files.items()}
    classes, indices = array_labels.encode(labels, counts, names)
    files = {split: files[split] for split in indices}
    for split, file in files.items():
        checks.check_numeric(split, _with_channel_axis(file))
    checks.check_consistent(files)
    ranges = {split: _range(split, file) for split, file in files.items()}
    if _has_images(files["train"]):
        highs = {split: high for split, (_, high) in ranges.items()}
        checks.check_scale(highs, {split: file.dtype for split, file in files.items()})
    fits_uint8 = all(
        checks.storage_dtype(files[split].dtype, *ranges[split]) == _UINT8 for split in files
    )
    dtype = _UINT8 if fits_uint8 else np.dtype(np.float32)
    streams = {}
    for split, file in files.items():
        blocks = _converted_blocks(split, file, dtype)
        streams[split] = order_blocks(blocks, indices[split], shuffle=request.shuffled)
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
