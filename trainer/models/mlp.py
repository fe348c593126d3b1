"""Two hidden layers of 512: the network of the reference scripts, 98.2 % accuracy on MNIST.

Source: the reference script "Simple Feed-Forward Network for MNIST" (Keras's mnist_mlp example).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.models import OUTPUT, Recipe
from trainer.models.scaling import to_unit_range

if TYPE_CHECKING:
    import keras

    from trainer.data.dataset import Spec

RECIPE = Recipe(
    data="mnist",
    accepts=("image", "vector"),
    optimizer="rmsprop",
    batch_size=128,
    epochs=10,
)


def build(spec: Spec) -> keras.Model:
    """Returns examples (N, *spec.shape) -> probabilities, float32 (N, classes)."""
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input(spec.shape, dtype=spec.dtype, name=spec.kind),
            to_unit_range(spec),
            layers.Flatten(),
            layers.Dense(512, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(512, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(len(spec.classes), activation="softmax", name=OUTPUT),
        ],
        name="mlp",
    )
