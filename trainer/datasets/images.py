"""Images in files of their own, PNG, JPEG and what else Pillow reads, as arrays of one shape."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import itertools
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from trainer import memory
from trainer.datasets.dataset import Array
from trainer.errors import DamagedFilesError, DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")  # The usual ones.

_OPENING = threading.Lock()  # What is to become of warnings is not a thread's own.
_GREY = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I;16N", "I", "F")

_AT_ONCE = 64  # Images in memory that are not decoded yet.


def decode(
    content: bytes, name: str, *, size: tuple[int, int] | None = None, grey: bool = False
) -> Array:
    """Reads one image, turned upright as its EXIF data says.

    Args:
        content: of the file.
        name: of the file, for messages.
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
        raise DataError(f"{name}: no image, or a damaged one: found {found}") from None
    except Exception as error:  # A damaged image raises nearly anything.
        raise DataError(f"{name}: no image, or a damaged one: {error}") from None
    return pixels.reshape(*pixels.shape[:2], -1)


def read(names: Sequence[str], contents: Iterable[bytes], *, size: int | None = None) -> Array:
    """Reads images of one size, several at a time.

    Args:
        names: of the files, for messages.
        contents: of the files; no more of them are asked for than are worked on.
        size: pixels a side to bring all to; None leaves them as they are.

    Returns:
        Their pixels, uint8 (N, H, W, C).

    Raises:
        DataError: some are damaged, all of which are named; or they are of different sizes.
    """
    decoded: list[Array] = []
    for _, image in _decoded(names, contents, size):
        decoded.append(image)
        if len(decoded) == 1:  # All have its size in the end. Twice: one by one, and stacked.
            memory.check_data(2 * len(names) * image.nbytes, f"{len(names)} images")
    return _stacked(decoded, names)


def blocks(
    names: Sequence[str], contents: Iterable[bytes], *, channels: int, size: int | None = None
) -> Iterator[Array]:
    """Gives images of one size some at a time, so that they need not fit into memory.

    Args:
        names: of the files, for messages.
        contents: of the files; no more of them are asked for than are worked on.
        channels: 1 or 3, as `channels` finds them.
        size: pixels a side to bring all to; None leaves them as they are.

    Returns:
        Their pixels, uint8 (n, H, W, channels).

    Raises:
        DataError: as `read`.
    """
    shape: tuple[int, ...] | None = None
    held: list[tuple[str, Array]] = []
    for name, image in _decoded(names, contents, size):
        shape = shape or (*image.shape[:2], channels)
        held.append((name, np.broadcast_to(image, (*image.shape[:2], channels))))
        if len(held) == _AT_ONCE:
            yield _stack(held, names[0], shape)
            held = []
    if held and shape:
        yield _stack(held, names[0], shape)


def channels(files: Iterable[Path]) -> int:
    """Returns 1 if all images are grey by their headers, else 3."""
    from PIL import Image

    for file in files:
        with contextlib.suppress(Exception), Image.open(file) as image:  # Who decodes it tells.
            if image.mode not in _GREY:
                return 3
    return 1


def _decoded(
    names: Sequence[str], contents: Iterable[bytes], size: int | None
) -> Iterator[tuple[str, Array]]:
    """Gives each image with its name; a damaged one ends that, and all such are named."""
    side = None if size is None else (size, size)

    def attempt(name: str, content: bytes) -> Array | DataError:
        try:
            return decode(content, name, size=side)
        except DataError as error:
            return error

    damaged: list[DataError] = []
    pairs = zip(names, contents, strict=True)
    # Pillow lets go of the interpreter while it works.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        while some := list(itertools.islice(pairs, _AT_ONCE)):
            for (name, _), outcome in zip(
                some, pool.map(attempt, *zip(*some, strict=True)), strict=True
            ):
                if isinstance(outcome, DataError):
                    damaged.append(outcome)
                elif not damaged:
                    yield name, outcome
    if damaged:
        raise DamagedFilesError(list(map(str, damaged)), len(names))


def _stack(held: Sequence[tuple[str, Array]], first: str, shape: tuple[int, ...]) -> Array:
    for name, image in held:
        _check_size(name, image, first, shape)
    return np.stack([image for _, image in held])


def _stacked(images: Sequence[Array], names: Sequence[str]) -> Array:
    """Returns images as one array, uint8 (N, H, W, C); grey ones get the colours of the others."""
    first = images[0].shape
    for image, name in zip(images, names, strict=True):
        _check_size(name, image, names[0], first)
    channels = max(image.shape[2] for image in images)
    return np.stack([np.broadcast_to(image, (*first[:2], channels)) for image in images])


def _check_size(name: str, image: Array, first: str, shape: tuple[int, ...]) -> None:
    if image.shape[:2] != shape[:2]:
        found, expected = (f"{each[1]}x{each[0]}" for each in (image.shape, shape))
        raise DataError(
            f"{name}: an image of {found}, expected {expected} as in {first}; --image-size 64 "
            "brings all to one size"
        )
