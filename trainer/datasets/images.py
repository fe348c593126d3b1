"""Images in files of their own, PNG, JPEG and what else Pillow reads, as arrays of one shape."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import numpy as np

from trainer.datasets.dataset import Array
from trainer.errors import DataError

_GREY = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I;16N", "I", "F")


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
            # Pillow's limit is 89 million pixels, which a header can promise in a few bytes.
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(io.BytesIO(content)) as opened,
        ):
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
    except UnidentifiedImageError:  # Its message names an object in memory.
        raise DataError(f"{name}: no image, or a damaged one") from None
    except Exception as error:  # A damaged image raises nearly anything.
        raise DataError(f"{name}: no image, or a damaged one: {error}") from None
    return pixels.reshape(*pixels.shape[:2], -1)


def stacked(images: Sequence[Array], names: Sequence[str]) -> Array:
    """Returns images as one array, uint8 (N, H, W, C); grey ones get the colours of the others.

    Raises:
        DataError: they are of different sizes.
    """
    first = images[0].shape
    for image, name in zip(images, names, strict=True):
        if image.shape[:2] != first[:2]:
            raise DataError(
                f"{name}: an image of {_in_words(image)}, expected {_in_words(images[0])} as in "
                f"{names[0]}; --image-size 64 brings all to one size"
            )
    channels = max(image.shape[2] for image in images)
    return np.stack([np.broadcast_to(image, (*first[:2], channels)) for image in images])


def _in_words(image: Array) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
