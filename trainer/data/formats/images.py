"""Image files, PNG, JPEG and whatever else Pillow reads, as arrays of one shape."""

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
from trainer.data.shards.external_shuffle import shuffle_rows
from trainer.data.shards.shard_format import Stream
from trainer.errors import DamagedFilesError, DataError, Location
from trainer.runtime import memory

# Usual file name extensions; other files of a folder are not taken for images.
SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")

_OPEN_LOCK = threading.Lock()  # Warning filters are shared by all threads.
_GREY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I;16N", "I", "F")

# Location and content of a file.
ImageFile = tuple[Location, bytes]

# Limits of the batch that a thread decodes; twice as many batches as threads are in memory.
_BATCH_IMAGES = 16
_BATCH_BYTES = 4 << 20
_BLOCK_IMAGES = 64


def decode(
    content: bytes, location: Location, *, size: tuple[int, int] | None = None, grey: bool = False
) -> Array:
    """Decodes one image and rotates it as its EXIF orientation says.

    Args:
        content: of the file.
        location: of the file.
        size: (height, width) to resize to, by averaging; None keeps the size.
        grey: whether to convert to grey.

    Returns:
        Pixels, uint8 (H, W, 1) of a grey image, else (H, W, 3). Transparent pixels are black.

    Raises:
        DataError: it is no image, damaged, or too large.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with (
            _OPEN_LOCK,
            # Pillow only warns above 89 million pixels, which a header of a few bytes can claim.
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
        ):
            opened = Image.open(io.BytesIO(content))
        with opened:
            grey = grey or opened.mode in _GREY_MODES
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to 8, not scale.
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
        kind = f"{len(content)} bytes of another kind" if content else "an empty file"
        raise DataError(f"not an image, or a damaged one: found {kind}", location) from None
    except Exception as error:  # Pillow raises nearly any exception for a damaged image.
        raise DataError(f"not an image, or a damaged one: {error}", location) from None
    return pixels.reshape(*pixels.shape[:2], -1)


def read(items: Iterable[ImageFile], count: int, *, size: int | None = None) -> Array:
    """Decodes images of one size, in several threads.

    Args:
        items: the files; read only as fast as they are decoded.
        count: number of files.
        size: pixels per side to resize to; None keeps the size.

    Returns:
        Pixels, uint8 (N, H, W, C).

    Raises:
        DataError: files are damaged, with the first ones named; or sizes differ.
    """
    decoded: list[tuple[Location, Array]] = []
    for location, image in _decode_all(items, count, size):
        decoded.append((location, image))
        if len(decoded) == 1:  # All have this size, and are in memory twice: single and stacked.
            memory.check_data(2 * count * image.nbytes, f"{count} images")
    channels = max(image.shape[2] for _, image in decoded)
    return _stack(decoded, (*decoded[0][1].shape[:2], channels), decoded[0][0])


class ImageReader:
    """Reads the images of a data set in blocks; the images of all splits must have one size."""

    def __init__(self, channels: int, size: int | None) -> None:
        """Creates the reader.

        Args:
            channels: 1 or 3, from `count_channels`.
            size: pixels per side to resize to; None keeps the size.
        """
        self._channels, self._size = channels, size
        self._first: tuple[Location, Array] | None = None  # First image of all splits.

    def blocks(self, items: Iterable[ImageFile], count: int) -> Iterator[Array]:
        """Yields the pixels of a split: uint8 (n, H, W, channels).

        Args:
            items: the files; read only as fast as they are decoded.
            count: number of files.

        Raises:
            DataError: as `read`.
        """
        decoded = _decode_all(items, count, self._size)
        while block := list(itertools.islice(decoded, _BLOCK_IMAGES)):
            self._first = self._first or block[0]
            location, like = self._first
            yield _stack(block, (*like.shape[:2], self._channels), location)


def stream(
    files: Sequence[Path | str],
    labels: Sequence[str],
    split_names: Sequence[str],
    request: ReadRequest,
) -> Stream:
    """Returns images in files as a stream.

    Args:
        files: local files as Path, files in a bucket as gs:// str.
        labels: class name of each file.
        split_names: split of each file: "train", "validation" or "test".
        request: how they are read.

    Raises:
        DataError: as `splits.encode_labels`; for damaged images when their block is read.
        StorageError: a file is missing or cannot be read.
    """
    classes, indices, rows_of = splits.encode_labels(labels, split_names)
    reader = ImageReader(count_channels(files), request.options.image_size)
    streams = {}
    for split, rows in rows_of.items():
        order = shuffle_rows(rows) if request.shuffled else rows
        items = read_files([files[row] for row in order])
        streams[split] = reader.blocks(items, len(order)), indices[order]
    return Stream(streams, classes)


def count_channels(files: Sequence[Path | str]) -> int:
    """Returns 1 if all images are grey, by their headers, else 3.

    Args:
        files: as in `stream`; files in a bucket are downloaded up to the first colour image.
    """
    local = (file for file in files if isinstance(file, Path))
    remote = storage.read_all([file for file in files if isinstance(file, str)])
    headers: Iterable[Path | bytes] = itertools.chain(local, remote)
    return 3 if any(map(is_colour, headers)) else 1


def is_colour(file: Path | bytes) -> bool:
    """Returns whether an image has colours, by its header; False for a damaged image."""
    from PIL import Image

    opened = io.BytesIO(file) if isinstance(file, bytes) else file
    # `decode` raises the error of a damaged image.
    with contextlib.suppress(Exception), Image.open(opened) as image:
        return image.mode not in _GREY_MODES
    return False


def read_files(files: Iterable[Path | str]) -> Iterator[ImageFile]:
    """Yields the location and content of each file, in order; reads several at a time.

    Args:
        files: as in `stream`.

    Raises:
        DataError: a local file is missing or cannot be read.
        StorageError: a file in a bucket is missing or cannot be read.
    """

    def read_item(file: Path | str) -> ImageFile:
        try:
            content = file.read_bytes() if isinstance(file, Path) else storage.read(file)
        except FileNotFoundError:
            raise DataError("no such file", Location(file)) from None
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", Location(file)) from None
        return Location(file), content

    return storage.concurrent_map(read_item, files)


def _decode_all(
    items: Iterable[ImageFile], count: int, size: int | None
) -> Iterator[tuple[Location, Array]]:
    """Yields the location and pixels of each image, in order.

    After the first damaged image it yields no more, but tries all others, to name all damaged
    files in one error.
    """
    height_and_width = None if size is None else (size, size)

    def try_decode(item: ImageFile) -> tuple[Location, Array] | DataError:
        location, content = item
        try:
            return location, decode(content, location, size=height_and_width)
        except DataError as error:
            return error

    damaged: list[DataError] = []
    # Threads, because Pillow releases the GIL while it decodes.
    batches = storage.concurrent_map(
        lambda batch: list(map(try_decode, batch)),
        _batches(items),
        threads=len(os.sched_getaffinity(0)),
    )
    for outcome in itertools.chain.from_iterable(batches):
        if isinstance(outcome, DataError):
            damaged.append(outcome)
        elif not damaged:
            yield outcome
    if damaged:
        raise DamagedFilesError(damaged, count)


def _batches(items: Iterable[ImageFile]) -> Iterator[list[ImageFile]]:
    """Yields files in batches: large enough to be worth a task, small enough for memory."""
    batch: list[ImageFile] = []
    for item in items:
        batch.append(item)
        size_bytes = sum(len(content) for _, content in batch)
        if len(batch) == _BATCH_IMAGES or size_bytes > _BATCH_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


def _stack(
    images: Sequence[tuple[Location, Array]], shape: tuple[int, ...], first: Location
) -> Array:
    """Returns images as one array, uint8 (N, *shape); repeats the channel of grey ones if needed.

    Args:
        images: locations and pixels.
        shape: (H, W, C) of the result; height and width of all images.
        first: location of the image that set height and width.

    Raises:
        DataError: an image has another size.
    """
    for location, image in images:
        _check_size(location, image, first, shape)
    return np.stack([np.broadcast_to(image, shape) for _, image in images])


def _check_size(location: Location, image: Array, first: Location, shape: tuple[int, ...]) -> None:
    if image.shape[:2] != shape[:2]:
        size, expected = (f"{each[1]}x{each[0]}" for each in (image.shape, shape))
        raise DataError(
            f"an image of {size}, expected {expected} as in {first.name}; --image-size 64 resizes "
            "all images to one size",
            location,
        )
