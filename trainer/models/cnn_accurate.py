"""One more convolution than `cnn_fast`, and thirteen epochs: 99.67 % accuracy on MNIST.

Sources: those of `cnn_fast`; it uses the same schedule.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from trainer.models import OUTPUT, cnn_fast
from trainer.models.augmentation import Distort
from trainer.models.scaling import to_unit_range

if TYPE_CHECKING:
    import keras

    from trainer.data.dataset import Spec

RECIPE = dataclasses.replace(
    cnn_fast.RECIPE,
    optimizer=cnn_fast.one_cycle,
    learning_rate=0.01,
    batch_size=256,
    epochs=13,
    augmentation=Distort(pixels=2, degrees=10, zoom=0.1),
)


def build(spec: Spec) -> keras.Model:
    """Returns images (N, H, W, C) -> probabilities, float32 (N, classes).

    Raises:
        DataError: images smaller than 14x14.
    """
    import keras
    from keras import layers

    cnn_fast.check_side(spec, "cnn_accurate", min_side=14)
    return keras.Sequential(
        [
            keras.Input(spec.shape, dtype=spec.dtype, name=spec.kind),
            to_unit_range(spec),
            *cnn_fast.with_normalization(layers.Conv2D(16, 5, use_bias=False), pooled=True),
            *cnn_fast.with_normalization(layers.Conv2D(32, 3, use_bias=False)),
            *cnn_fast.with_normalization(layers.Conv2D(64, 3, use_bias=False), pooled=True),
            layers.Flatten(),
            *cnn_fast.with_normalization(layers.Dense(256, use_bias=False)),
            layers.Dense(len(spec.classes), activation="softmax", name=OUTPUT),
        ],
        name="cnn_accurate",
    )
