"""Images of the report, each as text that a page holds itself."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from trainer.data.dataset import Array

_SMALL = 40  # Pixels a side up to which each of them is kept; larger images become
_LARGE = 96  # of this size at most.

# Red, green, blue, and how opaque a full share is: colours that show on white and on black.
_RIGHT, _WRONG = (74, 134, 200), (224, 112, 62)


def of_images(images: Array, *, low: float, high: float) -> list[str]:
    """Returns images as data: addresses.

    Args:
        images: (N, H, W, C); 3 channels are colours, of others the mean is shown.
        low: the value that is black.
        high: the value that is white.
    """
    return [_of_image(image, low, high) for image in images]


def of_confusion(confusion: Array) -> str:
    """Returns a confusion matrix as a data: address, a pixel a pair of classes.

    Args:
        confusion: counts, int (classes, classes); rows are the true class.
    """
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    # The root, so that what is rare can be seen. An even number for what is right, else odd.
    values = 2 * (127 * np.sqrt(shares)).round().astype(np.uint8) + 1
    values[np.diag_indices(len(values))] -= 1
    image = Image.fromarray(values).convert("P")
    image.putpalette(bytes(_RIGHT + _WRONG) * 128)
    return _address(image, "png", transparency=bytes(value - value % 2 for value in range(256)))


def _of_image(values: Array, low: float, high: float) -> str:
    if values.shape[2] != 3:
        values = values.mean(axis=2)
    pixels = np.clip((values - low) * (255 / ((high - low) or 1)), 0, 255)
    image = Image.fromarray(pixels.round().astype(np.uint8))
    if max(image.size) <= _SMALL:
        return _address(image, "png", optimize=True)
    image.thumbnail((_LARGE, _LARGE))
    return _address(image, "webp", quality=85)


def _address(image: Image.Image, form: str, **options: object) -> str:
    file = io.BytesIO()
    image.save(file, form, **options)
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"
