"""Images in files of their own, PNG, JPEG and what else Pillow reads, as arrays of one shape."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from trainer import storage
from trainer.data import splits
from trainer.data.dataset import Array, ReadRequest
from trainer.data.shards.external_shuffle import shuffled
from trainer.data.shards.shard_format import Stream
from trainer.errors import DamagedFilesError, DataError, Location
from trainer.runtime import memory

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")  # The usual ones.

_OPENING = threading.Lock()  # What is to become of warnings is not a thread's own.
_GREY = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I;16N", "I", "F")

# A file, and its content.
Item = tuple[Location, bytes]

# What a thread is given, of which there are twice as many in memory as threads.
_AT_ONCE = 16
_AT_ONCE_BYTES = 4 << 20
_BLOCK = 64


def decode(
    content: bytes, place: Location, *, size: tuple[int, int] | None = None, grey: bool = False
) -> Array:
    """Reads one image, turned upright as its EXIF data says.

    Args:
        content: of the file.
        place: of the file.
        size: height and width to bring it to, by averaging; None leaves it as it is.
        grey: whether colours are dropped.

    Returns:
        Its pixels, uint8 (H, W, 1) if it is grey, else (H, W, 3); what is transparent is black.

    Raises:
        DataError: it is no image, damaged, or too large.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with (
            _OPENING,
            # Pillow's limit is 89 million pixels, which a header can promise in a few bytes.
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
        ):
            opened = Image.open(io.BytesIO(content))
        with opened:
            grey = grey or opened.mode in _GREY
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits; to 8 of them Pillow would cut, not scale.
                image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
            if image.mode == "RGBA":
                black = Image.new("RGBA", image.size, (0, 0, 0, 255))
                image = Image.alpha_composite(black, image)
            image = image.convert("L" if grey else "RGB")
            if size is not None:
                image = image.resize(size[::-1], Image.Resampling.BOX)
            pixels = np.asarray(image)
    except UnidentifiedImageError:
        found = f"{len(content)} bytes of something else" if content else "an empty file"
        raise DataError(f"no image, or a damaged one: found {found}", place) from None
    except Exception as error:  # A damaged image raises nearly anything.
        raise DataError(f"no image, or a damaged one: {error}", place) from None
    return pixels.reshape(*pixels.shape[:2], -1)


def read(items: Iterable[Item], count: int, *, size: int | None = None) -> Array:
    """Reads images of one size, several at a time.

    Args:
        items: the files; no more of them are asked for than are worked on.
        count: how many there are.
        size: pixels a side to bring all to; None leaves them as they are.

    Returns:
        Their pixels, uint8 (N, H, W, C).

    Raises:
        DataError: some are damaged, all of which are named; or they are of different sizes.
    """
    held: list[tuple[Location, Array]] = []
    for place, image in _decoded(items, count, size):
        held.append((place, image))
        if len(held) == 1:  # All have its size in the end. Twice: one by one, and stacked.
            memory.check_data(2 * count * image.nbytes, f"{count} images")
    channels = max(image.shape[2] for _, image in held)
    return _stacked(held, (*held[0][1].shape[:2], channels), held[0][0])


class ImageReader:
    """The images of a data set, some at a time, so that they need not fit into memory."""

    def __init__(self, channels: int, size: int | None) -> None:
        """Makes it.

        Args:
            channels: 1 or 3, as the function `channels` finds them.
            size: pixels a side to bring all to; None leaves them as they are.
        """
        self._channels, self._size = channels, size
        self._first: tuple[Location, Array] | None = None  # Of all parts; the others have its size.

    def blocks(self, items: Iterable[Item], count: int) -> Iterator[Array]:
        """Gives the pixels of a part: uint8 (n, H, W, channels).

        Args:
            items: the files; no more of them are asked for than are worked on.
            count: how many there are.

        Raises:
            DataError: as `read`.
        """
        decoded = _decoded(items, count, self._size)
        while held := list(itertools.islice(decoded, _BLOCK)):
            self._first = self._first or held[0]
            place, like = self._first
            yield _stacked(held, (*like.shape[:2], self._channels), place)


def stream(
    files: Sequence[Path | str], labels: Sequence[str], part_of: Sequence[str], request: ReadRequest
) -> Stream:
    """Gives images in files some at a time, so that they need not fit into memory.

    Args:
        files: local ones as Path, those in a bucket as gs://.
        labels: the class of each.
        part_of: of each, "train", "validation" or "test".
        request: how they are to be read.

    Raises:
        DataError: as `parts.class_names`; of what is damaged when its block is asked for.
        StorageError: one is not there, or may not be read.
    """
    classes, numbers, rows = splits.class_names(labels, part_of)
    pieces = ImageReader(channels(files), request.options.image_size)
    found = {}
    for name, at in rows.items():
        order = shuffled(at) if request.shuffled else at
        items = of_files([files[row] for row in order])
        found[name] = pieces.blocks(items, len(order)), numbers[order]
    return Stream(found, classes)


def channels(files: Sequence[Path | str]) -> int:
    """Returns 1 if all images are grey by their headers, else 3.

    Args:
        files: as `stream` takes them; those in a bucket are read until one has colours.
    """
    local = (file for file in files if isinstance(file, Path))
    remote = storage.read_all([file for file in files if isinstance(file, str)])
    headers: Iterable[Path | bytes] = itertools.chain(local, remote)
    return 3 if any(map(has_colours, headers)) else 1


def has_colours(file: Path | bytes) -> bool:
    """Tells whether an image has colours, by its header."""
    from PIL import Image

    opened = io.BytesIO(file) if isinstance(file, bytes) else file
    with contextlib.suppress(Exception), Image.open(opened) as image:  # Who decodes it tells.
        return image.mode not in _GREY
    return False


def of_files(files: Iterable[Path | str]) -> Iterator[Item]:
    """Gives files with their contents; as `stream` takes them, several are read at a time.

    Raises:
        DataError: a local one is not there, or cannot be read.
        StorageError: one in a bucket is not there, or may not be read.
    """

    def item(file: Path | str) -> Item:
        try:
            content = file.read_bytes() if isinstance(file, Path) else storage.read(file)
        except FileNotFoundError:
            raise DataError("no such file", Location(file)) from None
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", Location(file)) from None
        return Location(file), content

    return storage.concurrent_map(item, files)


def _decoded(
    items: Iterable[Item], count: int, size: int | None
) -> Iterator[tuple[Location, Array]]:
    """Gives each image with its place; a damaged one ends that, and all such are named."""
    side = None if size is None else (size, size)

    def attempt(item: Item) -> tuple[Location, Array] | DataError:
        place, content = item
        try:
            return place, decode(content, place, size=side)
        except DataError as error:
            return error

    damaged: list[DataError] = []
    # Pillow lets go of the interpreter while it works.
    several = storage.concurrent_map(
        lambda some: list(map(attempt, some)), _some(items), threads=len(os.sched_getaffinity(0))
    )
    for outcome in itertools.chain.from_iterable(several):
        if isinstance(outcome, DataError):
            damaged.append(outcome)
        elif not damaged:
            yield outcome
    if damaged:
        raise DamagedFilesError(damaged, count)


def _some(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Gives some images at a time: a thread's work on one would be too little, on many too much."""
    some: list[Item] = []
    for item in items:
        some.append(item)
        if len(some) == _AT_ONCE or sum(len(content) for _, content in some) > _AT_ONCE_BYTES:
            yield some
            some = []
    if some:
        yield some


def _stacked(
    held: Sequence[tuple[Location, Array]], shape: tuple[int, ...], first: Location
) -> Array:
    """Returns images as one array, uint8 (N, *shape); grey ones get the colours of the others.

    Args:
        held: the images, with their places.
        shape: that all must have, but for colours.
        first: where the one lies that has it.

    Raises:
        DataError: one has another size.
    """
    for place, image in held:
        _check_size(place, image, first, shape)
    return np.stack([np.broadcast_to(image, shape) for _, image in held])


def _check_size(place: Location, image: Array, first: Location, shape: tuple[int, ...]) -> None:
    if image.shape[:2] != shape[:2]:
        found, expected = (f"{each[1]}x{each[0]}" for each in (image.shape, shape))
        raise DataError(
            f"an image of {found}, expected {expected} as in {first.name}; --image-size 64 brings "
            "all to one size",
            place,
        )
