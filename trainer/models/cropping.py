"""Crops the constant border of images, as a layer inside the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trainer.data.shards.reader import Shards

if TYPE_CHECKING:
    import keras

    from trainer.data.dataset import Spec

_MAX_SAMPLED = 1000  # Images.
_MAX_LOST = 0.005  # Fraction of the variance of all pixels.
_MAX_CROPPED = 0.1  # Fraction of a side.


def to_content(spec: Spec, *, min_side: int) -> list[keras.layers.Layer]:
    """Returns a layer that crops the border that is constant over the training images, if any.

    Args:
        spec: of the data.
        min_side: minimum pixels per side after cropping.
    """
    from keras import layers

    width = border(spec, min_side)
    return [layers.Cropping2D(width)] if width else []


def border(spec: Spec, min_side: int = 1) -> int:
    """Returns the width of the border to crop on each side, in pixels.

    The cropped pixels hold at most `_MAX_LOST` of the variance over the training images. At most
    `_MAX_CROPPED` of the shorter side is cropped on each side.
    """
    examples = spec.train.examples
    if isinstance(examples, Shards):
        images = next(examples.blocks())[:_MAX_SAMPLED]
    else:
        images = examples[:: max(1, len(examples) // _MAX_SAMPLED)]
    variance = images.var(axis=0, dtype=np.float32).sum(axis=-1)  # (H, W)
    min_variance = variance.sum() * (1 - _MAX_LOST)
    width = 0
    side = min(spec.shape[:2])
    for candidate in range(1, min(int(side * _MAX_CROPPED), (side - min_side) // 2) + 1):
        if variance[candidate:-candidate, candidate:-candidate].sum() < min_variance:
            break
        width = candidate
    return width
