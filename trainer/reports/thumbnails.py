"""Encodes images as data: URLs, so that a page needs no other files."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from trainer.data.dataset import Array

_LOSSLESS_SIDE = 40  # Images up to this side, in pixels, are stored without loss.
_MAX_SIDE = 96  # Larger images are reduced to this side, in pixels.

# RGB colours that are visible on white and on black.
_CORRECT, _WRONG = (74, 134, 200), (224, 112, 62)


def encode_images(images: Array, *, low: float, high: float) -> list[str]:
    """Returns images as data: URLs.

    Args:
        images: (N, H, W, C); 3 channels are RGB, of other numbers of channels the mean is shown.
        low: value that is shown as black.
        high: value that is shown as white.
    """
    return [_encode_image(image, low, high) for image in images]


def encode_confusion(confusion: Array) -> str:
    """Returns a confusion matrix as a data: URL, with one pixel per pair of classes.

    Args:
        confusion: counts, int (classes, classes); rows are the true class.
    """
    fractions = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    # Square roots, so that small fractions are visible. Even values are correct, odd ones wrong.
    values = 2 * (127 * np.sqrt(fractions)).round().astype(np.uint8) + 1
    values[np.diag_indices(len(values))] -= 1
    image = Image.fromarray(values).convert("P")
    image.putpalette(bytes(_CORRECT + _WRONG) * 128)
    return _data_url(image, "png", transparency=bytes(value - value % 2 for value in range(256)))


def _encode_image(values: Array, low: float, high: float) -> str:
    if values.shape[2] != 3:
        values = values.mean(axis=2)
    pixels = np.clip((values - low) * (255 / ((high - low) or 1)), 0, 255)
    image = Image.fromarray(pixels.round().astype(np.uint8))
    if max(image.size) <= _LOSSLESS_SIDE:
        return _data_url(image, "png", optimize=True)
    image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    return _data_url(image, "webp", quality=85)


def _data_url(image: Image.Image, format_: str, **options: object) -> str:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return f"data:image/{format_};base64,{base64.b64encode(file.getvalue()).decode()}"
