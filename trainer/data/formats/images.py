"""Image files, PNG, JPEG and others that Pillow reads, as arrays of one shape."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer import storage
from trainer.data import damaged, splits
from trainer.data.dataset import Array, ImageLayout, ReadRequest
from trainer.data.formats import image_headers
from trainer.data.formats.image_headers import SUFFIXES as SUFFIXES
from trainer.data.formats.image_headers import is_image as is_image
from trainer.data.formats.image_headers import is_image_name as is_image_name
from trainer.data.shards.external_shuffle import pair_blocks, shuffle_rows
from trainer.data.shards.shard_format import Stream
from trainer.errors import DataError, Location, StorageError, TransientStorageError
from trainer.runtime import control_groups, memory

# Location of an image, and its content or the file with it: a local Path, or a gs:// str.
Item = tuple[Location, bytes | Path | str]

# Limits of the batch that a thread decodes; twice as many batches as threads are in memory.
_BATCH_IMAGES = 16
_BATCH_BYTES = 4 << 20
_BLOCK_IMAGES = 64
# The part of an object in a bucket that mostly holds the header of an image.
_HEAD_BYTES = 256 << 10
# Of images of 16 bits per channel: an image whose values are all below this part of the range
# certainly has another range, such as 12 bits.
_MIN_USED_16, _MIN_USED_8 = 1 << 14, 1 << 6


def decode(
    content: bytes,
    location: Location,
    *,
    size: tuple[int, int] | None = None,
    grey: bool = False,
    wide: bool = False,
) -> Array:
    """Decodes one image and rotates it as its EXIF orientation says; of several frames, the first.

    Args:
        content: of the file.
        location: of the file.
        size: (height, width) to resize to, by averaging; None keeps the size.
        grey: whether to convert to grey.
        wide: whether images of more than 8 bits are expected, whose values are kept as they are.

    Returns:
        Pixels, uint8 (H, W, 1) of a grey image, else (H, W, 3). Transparent pixels are black. If
        `wide`, float32 (H, W, 1).

    Raises:
        DataError: it is no image, damaged, too large, or of another depth.
    """
    try:
        with image_headers.open_image(content, side=None if size is None else max(size)) as opened:
            pixels = _decode(opened, size, grey=grey, wide=wide)
    except DataError as error:
        raise error.at(location) from None
    except Exception as error:  # Pillow raises nearly any exception for a damaged image.
        raise DataError(f"not an image, or a damaged one: {error}", location) from None
    return pixels.reshape(*pixels.shape[:2], -1)


def _decode(opened: Any, size: tuple[int, int] | None, *, grey: bool, wide: bool) -> Array:
    from PIL import Image, ImageOps

    depth = image_headers.depth(opened)
    if wide and depth == image_headers.EIGHT_BITS:
        raise DataError("an image of 8 bits, expected more than 8 bits as in the training images")
    has_16_bits = any(";16" in str(tile.args) for tile in opened.tile)
    grey = grey or image_headers.is_grey(opened)
    image_headers.orientation(opened)  # Before pixels are read, as for the header alone.
    image = ImageOps.exif_transpose(opened)
    if depth != image_headers.EIGHT_BITS:
        values = _values(opened, image)
        if wide:
            image = Image.fromarray(values)
            return np.asarray(_resize(image, size))
        image = Image.fromarray(_to_8_bits(values, opened.format, depth))
    image = _to_rgb(image)
    image = image.convert("L" if grey else "RGB")
    if has_16_bits and depth == image_headers.EIGHT_BITS:  # Pillow kept the upper 8 bits.
        _check_used(np.asarray(image).max(), _MIN_USED_8, 8)
    return np.asarray(_resize(image, size))


def _resize(image: Any, size: tuple[int, int] | None) -> Any:
    from PIL import Image

    return image if size is None else image.resize(size[::-1], Image.Resampling.BOX)


def _to_rgb(image: Any) -> Any:
    """Returns an image in mode RGB, with black where it is transparent."""
    from PIL import Image, ImageCms

    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode == "RGBA":
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image


def _values(opened: Any, image: Any) -> Array:
    """Returns the pixels of an image of more than 8 bits as they are, float32 (H, W)."""
    values = np.asarray(image)
    if image_headers.is_unsigned(opened):
        values = values.view(np.uint32)
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError("holds NaN or infinity")
    return values


def _to_8_bits(values: Array, kind: str, depth: str) -> Array:
    """Returns pixels of 16 bits as uint8, among images of 8 bits.

    Only PNG and PGM say that 65535 is white; other formats hold measured values of any range.

    Raises:
        DataError: the range of the values is not certain.
    """
    if depth != image_headers.SIXTEEN_BITS or kind not in ("PNG", "PPM"):
        raise DataError(
            f"an image of {depth}, expected 8 bits as in the other images; convert it to 8 bits"
        )
    _check_used(values.max(), _MIN_USED_16, 16)
    return (values // 257).astype(np.uint8)


def _check_used(maximum: Any, minimum: int, bits: int) -> None:
    if 0 < maximum < minimum:
        used = int(maximum).bit_length() + 16 - bits
        raise DataError(
            f"an image of 16 bits per channel that uses {used} of them, so that it would be nearly "
            "black; convert it to 8 bits"
        )


def survey(items: Iterable[Item], request: ReadRequest) -> ImageLayout:
    """Reads the headers of all images, and returns the form that they are decoded to.

    Damaged images have no influence; `read` and `ImageReader` report them.

    Args:
        items: the images of all splits; each is released before the next one is needed.
        request: how they are read.

    Raises:
        DataError: no header can be read; or they do not fit together.
        StorageError: an object in a bucket cannot be read.
    """
    collected, errors, count = image_headers.Headers(), [], 0

    def read_headers(batch: list[Item]) -> list[tuple[Location, Any]]:
        return [(location, _try(_read_header, source, location)) for location, source in batch]

    for batch in storage.concurrent_map(read_headers, _batches(items)):
        for location, header in batch:
            count += 1
            if isinstance(header, DataError):
                errors.append(header)
            else:
                collected.add(location, header)
    if not count:
        raise DataError("found no images, expected at least one")
    if len(errors) == count:
        damaged.check(errors, count, "images", request)
    if request.layout is not None:
        return request.layout
    return collected.layout(request.options.image_size)


def read(items: Sequence[Item], request: ReadRequest) -> tuple[Array, list[bool], ImageLayout]:
    """Decodes images to one size, in several threads; leaves out damaged ones, with a warning.

    Args:
        items: the images.
        request: how they are read.

    Returns:
        Pixels (n, H, W, C); for each item whether it is among them; and the form of the pixels.

    Raises:
        DataError: too many images are damaged; or as `survey`.
        StorageError: an object in a bucket cannot be read.
    """
    layout = survey(items, request)
    pixels_bytes = int(np.prod(layout.shape)) * np.dtype(layout.dtype).itemsize
    size = f"{layout.width}x{layout.height}"
    try:  # Twice: the splits are copied from it.
        memory.check_data(2 * len(items) * pixels_bytes, f"{len(items)} images of {size}")
    except DataError as error:
        raise DataError(
            f"{error.problem}; give a smaller --image-size, or use `trainer data convert`"
        ) from None
    examples = np.empty((len(items), *layout.shape), layout.dtype)
    readable: list[bool] = []
    errors: list[DataError] = []
    for image in _decode_all(items, layout):
        if isinstance(image, DataError):
            errors.append(image)
        else:
            examples[len(readable) - len(errors)] = image
        readable.append(not isinstance(image, DataError))
    damaged.report(errors, len(items), "images", request)
    return examples[: len(items) - len(errors)], readable, layout


class ImageReader:
    """Reads the images of a data set in blocks; the images of all splits have one form."""

    def __init__(self, layout: ImageLayout, count: int, request: ReadRequest) -> None:
        """Creates the reader.

        Args:
            layout: from `survey`.
            count: number of images of all splits.
            request: how they are read.
        """
        self._layout, self._count, self._request = layout, count, request
        self._errors: list[DataError] = []
        self._read = 0

    def blocks(self, items: Iterable[Item], left_out: set[int]) -> Iterator[Array]:
        """Yields the pixels of a split, (n, H, W, C); those of damaged images are zeros.

        Args:
            items: the images; read only as fast as they are decoded.
            left_out: receives the row numbers of damaged images, before their block is yielded.

        Raises:
            DataError: too many images are damaged.
        """
        row = 0
        decoded = _decode_all(items, self._layout)
        while block := list(itertools.islice(decoded, _BLOCK_IMAGES)):
            pixels = np.zeros((len(block), *self._layout.shape), self._layout.dtype)
            for position, image in enumerate(block):
                if isinstance(image, DataError):
                    left_out.add(row + position)
                    self._errors.append(image)
                else:
                    pixels[position] = image
            row += len(block)
            # After too many, the others are still tried, to name them all in one error.
            if not damaged.are_too_many(self._errors, self._count, self._request):
                yield pixels
        self._read += row
        damaged.check(self._errors, self._count, "images", self._request)
        if self._read == self._count:
            damaged.report(self._errors, self._count, "images", self._request)


def stream(
    items: Sequence[Item],
    labels: Sequence[str],
    split_names: Sequence[str],
    request: ReadRequest,
    layout: ImageLayout | None = None,
) -> Stream:
    """Returns images in files as a stream.

    Args:
        items: the images.
        labels: class name of each.
        split_names: split of each: "train", "validation" or "test".
        request: how they are read.
        layout: from `survey` of these images; None to read their headers here.

    Raises:
        DataError: as `splits.encode_labels` and `survey`; for too many damaged images when their
            block is read.
        StorageError: a file is missing or cannot be read.
    """
    classes, indices, rows_of = splits.encode_labels(labels, split_names)
    layout = layout or survey(items, request)
    reader = ImageReader(layout, len(items), request)
    streams = {}
    for split, rows in rows_of.items():
        order = shuffle_rows(rows) if request.shuffled else rows
        left_out: set[int] = set()
        blocks = reader.blocks((items[row] for row in order), left_out)
        split_labels = indices[order]
        pairs = pair_blocks(blocks, split_labels, left_out=left_out)
        streams[split] = splits.check_kept(split, pairs, split_labels, classes), split_labels
    return Stream(streams, classes, layout=layout)


def file_items(files: Iterable[Path | str]) -> list[Item]:
    """Returns images in files, local Paths or gs:// str, as items."""
    return [(Location(file), file) for file in files]


def _try(function: Any, source: Any, location: Location) -> Any:
    """Returns the result of a function of an image, or its DataError with the location."""
    try:
        return function(source)
    except DataError as error:
        return error.at(location)


def _read_header(source: bytes | Path | str) -> image_headers.Header:
    if isinstance(source, str):
        start = _read_start(source)
        if start is not None:
            with contextlib.suppress(DataError):  # The header may be longer, or at the end.
                return image_headers.read_header(start)
        source = _read_content(source)
    try:
        return image_headers.read_header(source)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from None


def _read_start(path: str) -> bytes | None:
    """Returns the first bytes of an object in a bucket; None if it must be read as a whole."""
    if storage.is_pattern(path):
        return None
    try:
        file = next(storage.files(path), None)
    except TransientStorageError:
        raise
    except StorageError:
        return None  # Reading it says why.
    if file is None or file.path != path:
        return None
    with file.open() as content:
        return content.read(_HEAD_BYTES)


def _read_content(source: bytes | Path | str) -> bytes:
    """Returns the content of an image.

    Raises:
        DataError: there is no such file, or it cannot be read; without a location.
        StorageError: an object in a bucket cannot be read.
    """
    if isinstance(source, bytes):
        return source
    if isinstance(source, str):
        folder, name = storage.parent(source)
        content = folder.read(name)
        if content is None:
            raise DataError("no such file")
        return content
    try:
        return source.read_bytes()
    except FileNotFoundError:
        raise DataError("no such file") from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from None


def _decode_all(items: Iterable[Item], layout: ImageLayout) -> Iterator[Array | DataError]:
    """Yields the pixels of each image in the form of `layout`, or its error, in order."""

    def decode_item(item: tuple[Location, bytes | DataError]) -> Array | DataError:
        location, content = item
        if isinstance(content, DataError):
            return content
        try:
            return fit(content, location, layout)
        except DataError as error:
            return error

    # Threads, because Pillow releases the GIL while it decodes.
    batches = storage.concurrent_map(
        lambda batch: list(map(decode_item, batch)),
        _batches(_contents(items)),
        threads=control_groups.cores(),
    )
    return itertools.chain.from_iterable(batches)


def is_wide(content: bytes) -> bool:
    """Returns whether an image has more than 8 bits per pixel; False for a damaged one."""
    try:
        return image_headers.read_header(content).depth != image_headers.EIGHT_BITS
    except DataError:
        return False


def fit(content: bytes, location: Location, layout: ImageLayout) -> Array:
    """Decodes an image to the form of a layout.

    Raises:
        DataError: as `decode`.
    """
    pixels = decode(
        content,
        location,
        size=(layout.height, layout.width),
        grey=layout.channels == 1,
        wide=layout.dtype != "uint8",
    )
    return np.broadcast_to(pixels, layout.shape)


def _contents(items: Iterable[Item]) -> Iterator[tuple[Location, bytes | DataError]]:
    """Yields the location and content of each image, in order; reads several files at a time."""

    def read(item: Item) -> tuple[Location, bytes | DataError]:
        location, content = item
        if isinstance(content, bytes):
            return location, content
        return location, _try(_read_content, content, location)

    for in_memory, group in itertools.groupby(items, lambda item: isinstance(item[1], bytes)):
        if in_memory:
            yield from map(read, group)
        else:
            yield from storage.concurrent_map(read, group)


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Yields items in batches: large enough to be worth a task, small enough for memory."""
    batch, size_bytes = [], 0
    for item in items:
        batch.append(item)
        size_bytes += len(item[1]) if isinstance(item[1], bytes) else 0
        if len(batch) == _BATCH_IMAGES or size_bytes > _BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch
