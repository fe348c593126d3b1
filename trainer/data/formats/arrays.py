"""Arrays in files, as IDX and `.npz` hold them, of which some rows are read at a time."""

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
from trainer.data.shards.external_shuffle import in_order
from trainer.data.shards.shard_format import Stream
from trainer.errors import DataError, Location

_BLOCK_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 20
_PIXEL = np.dtype(np.uint8)


class Readable(Protocol):
    """What an array is read from."""

    def read(self, size: int, /) -> bytes:
        """Returns so many bytes, or fewer at the end."""


@dataclass(frozen=True)
class ArrayFile:
    """An array in a file.

    Attributes:
        place: of the array.
        shape: (N, ...), as its header says.
        dtype: of its values.
        open: gives the content behind the header; reading from it raises DataError.
    """

    place: Location
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    open: Callable[[], contextlib.AbstractContextManager[Readable]]

    @property
    def row_bytes(self) -> int:
        """Of one example, or label."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def read(self) -> Array:
        """Returns all of it: (N, ...).

        Raises:
            DataError: it is too large for memory, or not what the header promises.
        """
        checks.check_shape(self.place, self.shape, self.dtype.itemsize)
        expected = self.shape[0] * self.row_bytes
        # In pieces: the memory taken follows what is there, not what the header promises.
        body = bytearray()
        with self.open() as content:
            while len(body) <= expected and (
                chunk := content.read(min(_CHUNK_BYTES, expected + 1 - len(body)))
            ):
                body += chunk
        if len(body) != expected:
            raise self._broken("more" if len(body) > expected else str(len(body)))
        values = np.frombuffer(body, self.dtype).reshape(self.shape)
        return values.astype(self.dtype.newbyteorder("="), copy=False)

    def blocks(self) -> Iterator[Array]:
        """Gives its rows in order, some at a time: (n, ...).

        Raises:
            DataError: it is not what the header promises.
        """
        most = max(1, _BLOCK_BYTES // self.row_bytes)
        with self.open() as content:
            for at in range(0, self.shape[0], most):
                count = min(most, self.shape[0] - at)
                values = content.read(count * self.row_bytes)
                if len(values) < count * self.row_bytes:
                    raise self._broken(str(at * self.row_bytes + len(values)))
                yield np.frombuffer(values, self.dtype).reshape(count, *self.shape[1:])
            if content.read(1):
                raise self._broken("more")

    def _broken(self, found: str) -> DataError:
        sizes = " x ".join(map(str, self.shape))
        return DataError(
            f"its header promises {sizes} values in {self.shape[0] * self.row_bytes} bytes, found "
            f"{found}",
            self.place,
        )


def stream(parts: Mapping[str, tuple[ArrayFile, Array]], request: ReadRequest) -> Stream:
    """Gives arrays of numbers piece by piece.

    Args:
        parts: "train" and perhaps "test": examples, and labels as they were read.
        request: how they are to be read.

    Raises:
        DataError: they cannot be trained on, which is found as `checks.part` would; or damaged.
    """
    labels = {
        name: checks.class_numbers(name, stored, found) for name, (stored, found) in parts.items()
    }
    arrays = {name: stored for name, (stored, _) in parts.items()}
    for name, stored in arrays.items():
        checks.check_numbers(name, _with_channel(stored))
    checks.check_alike(arrays)
    classes = checks.class_names(labels["train"])
    for name, numbers in labels.items():
        checks.check_known(name, numbers, classes)
    limits = {name: _limits(name, stored) for name, stored in arrays.items()}
    small = all(
        checks.storage_dtype(arrays[name].dtype, *limits[name]) == _PIXEL for name in arrays
    )
    dtype = _PIXEL if small else np.dtype(np.float32)
    low, high = limits["train"]
    if small and _are_images(arrays["train"]):
        low, high = 0.0, 255.0
    pieces = {}
    for name, stored in arrays.items():
        blocks = _converted(name, stored, dtype)
        pieces[name] = in_order(blocks, labels[name], mix=request.shuffled)
    return Stream(pieces, classes, low, high)


def _are_images(stored: ArrayFile) -> bool:
    return len(stored.shape) > 2


def _with_channel(stored: ArrayFile) -> ArrayFile:
    """Returns grey images without a channel as what they become."""
    shape = stored.shape
    return dataclasses.replace(stored, shape=(*shape, 1)) if len(shape) == 3 else stored


def _limits(name: str, stored: ArrayFile) -> tuple[float, float]:
    """Returns the least value and the greatest one; of pixels those that they can have."""
    if stored.dtype == _PIXEL and _are_images(stored):
        return 0.0, 255.0
    kept = stored.dtype if stored.dtype.kind in "biu" else np.dtype(np.float32)
    lows, highs = [], []
    for block in _converted(name, stored, kept):
        lows.append(float(block.min()))
        highs.append(float(block.max()))
    return min(lows), max(highs)


def _converted(name: str, stored: ArrayFile, dtype: np.dtype[Any]) -> Iterator[Array]:
    first = 0
    for block in stored.blocks():
        if block.ndim == 3:
            block = block[..., np.newaxis]
        yield checks.converted(name, block, dtype, first=first)
        first += len(block)
