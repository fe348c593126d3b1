"""Cropping of a border in which there is nothing, as a layer inside the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trainer.data.shards.reader import Shards

if TYPE_CHECKING:
    import keras

    from trainer.data.dataset import Spec

_LOOKED_AT = 1000  # Images.
_MAX_LOST = 0.005  # Of the variance of all pixels.
_MAX_CROPPED = 0.1  # Of a side.


def to_content(spec: Spec, *, min_side: int) -> list[keras.layers.Layer]:
    """Returns a layer that takes off what is the same in nearly all training images, if there is.

    Args:
        spec: of the data.
        min_side: pixels of a side that are left in any case.
    """
    from keras import layers

    width = border(spec, min_side)
    return [layers.Cropping2D(width)] if width else []


def border(spec: Spec, min_side: int = 1) -> int:
    """Returns the width of what may be cropped on each side of images, in pixels.

    That is where pixels have next to none of the variance that all have, up to a tenth of a side.
    """
    examples = spec.train.examples
    if isinstance(examples, Shards):
        images = next(examples.blocks())[:_LOOKED_AT]
    else:
        images = examples[:: max(1, len(examples) // _LOOKED_AT)]
    variance = images.var(axis=0, dtype=np.float32).sum(axis=-1)  # (H, W)
    kept = variance.sum() * (1 - _MAX_LOST)
    width = 0
    side = min(spec.shape[:2])
    for tried in range(1, min(int(side * _MAX_CROPPED), (side - min_side) // 2) + 1):
        if variance[tried:-tried, tried:-tried].sum() < kept:
            break
        width = tried
    return width
