"""A small convolutional network and a one-cycle schedule: 99.4 % accuracy on MNIST in one epoch.

Sources: one-cycle schedules, Smith and Topin 2017 (arXiv:1708.07120); label smoothing, Szegedy et
al. 2015 (arXiv:1512.00567). Batch normalization comes before each activation, and pooling before
both. A constant border of the images is cropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.errors import DataError
from trainer.models import OUTPUT, Recipe, cropping
from trainer.models.augmentation import Shift
from trainer.models.scaling import to_unit_range

if TYPE_CHECKING:
    import keras

    from trainer.data.dataset import Spec

_MIN_SIDE = 10  # Pixels.


def one_cycle(learning_rate: float, steps: int, beta_2: float = 0.99) -> keras.Optimizer:
    """Returns Adam; its rate rises to `learning_rate` in a quarter of the steps, then falls."""
    import keras

    warmup = max(1, steps // 4)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.1 * learning_rate,
        warmup_target=learning_rate,
        warmup_steps=warmup,
        decay_steps=max(1, steps - warmup),
        alpha=0.02,
    )
    return keras.optimizers.Adam(schedule, beta_1=0.8, beta_2=beta_2)


def short_cycle(learning_rate: float, steps: int) -> keras.Optimizer:
    """Returns `one_cycle` with a lower beta_2, for runs of few steps."""
    return one_cycle(learning_rate, steps, beta_2=0.95)


RECIPE = Recipe(
    data="mnist",
    accepts=("image",),
    optimizer=short_cycle,
    learning_rate=0.015,
    batch_size=192,
    epochs=1,
    label_smoothing=0.1,
    augmentation=Shift(1),
)


def build(spec: Spec) -> keras.Model:
    """Returns images (N, H, W, C) -> probabilities, float32 (N, classes).

    Raises:
        DataError: images smaller than 10x10.
    """
    import keras
    from keras import layers

    check_side(spec, "cnn_fast", min_side=_MIN_SIDE)
    return keras.Sequential(
        [
            keras.Input(spec.shape, dtype=spec.dtype, name=spec.kind),
            *cropping.to_content(spec, min_side=_MIN_SIDE),
            to_unit_range(spec),
            *with_normalization(layers.Conv2D(16, 5, use_bias=False), pooled=True),
            *with_normalization(layers.Conv2D(64, 3, use_bias=False), pooled=True),
            layers.Flatten(),
            *with_normalization(layers.Dense(256, use_bias=False)),
            layers.Dense(len(spec.classes), activation="softmax", name=OUTPUT),
        ],
        name="cnn_fast",
    )


def check_side(spec: Spec, name: str, *, min_side: int) -> None:
    """Raises DataError for images of which the last pooling would leave no pixel."""
    height, width, _ = spec.shape
    if min(height, width) < min_side:
        raise DataError(
            f"--model {name}: found images of {height}x{width}, expected at least "
            f"{min_side}x{min_side}; --model image takes images of any size"
        )


def with_normalization(
    layer: keras.layers.Layer, *, pooled: bool = False
) -> list[keras.layers.Layer]:
    """Returns a layer followed by max pooling if `pooled`, batch normalization and ReLU."""
    from keras import layers

    pooling = [layers.MaxPooling2D(2)] if pooled else []
    normalization = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    return [layer, *pooling, normalization, layers.ReLU()]
