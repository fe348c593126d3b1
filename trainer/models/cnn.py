"""Two 6x6 convolutions: the network of the reference scripts, 99.3 % accuracy on MNIST.

Source: the reference script "Convolutional Neural Network for MNIST".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.errors import DataError
from trainer.models import OUTPUT, Recipe
from trainer.models.scaling import to_unit_range

if TYPE_CHECKING:
    import keras

    from trainer.data.dataset import Spec

RECIPE = Recipe(
    data="mnist",
    accepts=("image",),
    optimizer="adam",
    batch_size=128,
    epochs=15,  # As in the log of the reference script. The script has 10: 99.26 %.
)

_MIN_SIDE = 12  # Two 6x6 convolutions without padding leave 2x2 for the pooling.


def build(spec: Spec) -> keras.Model:
    """Returns images (N, H, W, C) -> probabilities, float32 (N, classes).

    Raises:
        DataError: images smaller than 12x12.
    """
    import keras
    from keras import layers

    height, width, _ = spec.shape
    if min(height, width) < _MIN_SIDE:
        raise DataError(
            f"--model cnn: found images of {height}x{width}, expected at least "
            f"{_MIN_SIDE}x{_MIN_SIDE}; --model image takes images of any size"
        )
    return keras.Sequential(
        [
            keras.Input(spec.shape, dtype=spec.dtype, name=spec.kind),
            to_unit_range(spec),
            layers.Conv2D(32, 6, activation="relu"),
            layers.Conv2D(20, 6, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.4),
            layers.Dense(len(spec.classes), activation="softmax", name=OUTPUT),
        ],
        name="cnn",
    )
