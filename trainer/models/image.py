"""Images of any size and number of channels: a small residual network, or one to fine-tune.

Without `--backbone`: residual blocks after He et al. 2016, "Identity Mappings in Deep Residual
Networks" (arXiv:1603.05027), with the one-cycle schedule of cnn_fast. With it: a network of
keras.applications. If that is pretrained, the last layer is trained first, and then all layers at a
lower rate, after Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features"
(arXiv:2202.10054).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from trainer.models import OUTPUT, Recipe, backbones
from trainer.models.cnn_fast import one_cycle
from trainer.models.scaling import to_unit_range

if TYPE_CHECKING:
    import keras

    from trainer.config import Config
    from trainer.data.dataset import Spec

# Width of the first stage, for training data of as many values (pixels times channels) as MNIST. It
# doubles with each factor of four in the number of values.
_WIDTH, _VALUES, _MAX_DOUBLINGS = 16, 47e6, 2
# The first convolution reduces larger images to `_FIRST_SIDE` at most; stages halve that until
# `_LAST_SIDE`.
_FIRST_SIDE, _LAST_SIDE = 64, 8
_DROPOUT = 0.2
# Learning rate of a pretrained network, relative to that of the new layer behind it.
_FINE_TUNING_RATE = 0.1


def auto_settings(spec: Spec, config: Config) -> dict[str, Any]:
    """Returns settings by the number, size and channels of the training images."""
    count = spec.sizes["train"]
    # Less data gives more epochs, but fewer steps in total.
    epochs = min(100, max(3, round(1500 / math.sqrt(count))))
    settings: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": min(128, max(16, 2 ** round(math.log2(count / 50)))),
        "augmentation": "flip" if spec.shape[2] == 3 else "shift",
    }
    if config.weights is not None:
        frozen = epochs if config.frozen_epochs is None else config.frozen_epochs
        fine_tuning = max(3, epochs // 2)
        return settings | {
            "learning_rate": 0.003,
            "frozen_epochs": frozen,
            "epochs": frozen + fine_tuning,
        }
    if config.backbone is not None:
        return settings | {"learning_rate": 0.001}
    doublings = round(math.log(count * math.prod(spec.shape) / _VALUES, 4))
    doublings = min(max(doublings, 0), _MAX_DOUBLINGS)
    return settings | {
        "learning_rate": 0.01,
        "width": _WIDTH * 2**doublings,
        "depth": 1 + doublings,
    }


def optimizer(
    learning_rate: float, steps: int, *, epochs: int = 1, frozen_epochs: int = 0
) -> keras.Optimizer:
    """Returns Adam with one cycle; with frozen epochs, one cycle for them and a lower one after."""
    import keras

    frozen = steps * frozen_epochs // epochs
    if not 0 < frozen < steps:
        return one_cycle(learning_rate, steps)
    rate = keras.optimizers.schedules.CosineDecayRestarts(
        learning_rate,
        first_decay_steps=frozen,
        t_mul=(steps - frozen) / frozen,
        m_mul=_FINE_TUNING_RATE,
    )
    # With the default of 0.999, the first steps of unfrozen layers would be three times as long.
    return keras.optimizers.Adam(rate, beta_2=0.99)


RECIPE = Recipe(data="mnist", accepts=("image",), optimizer=optimizer, label_smoothing=0.1)


def build(
    spec: Spec,
    *,
    width: int = _WIDTH,
    depth: int = 1,
    backbone: str | None = None,
    weights: str | None = None,
) -> keras.Model:
    """Returns images (N, H, W, C) -> probabilities, float32 (N, classes).

    Args:
        spec: of the data.
        width: channels of the first stage; each later stage has twice as many as the one before.
        depth: residual blocks per stage.
        backbone: name of a network of keras.applications to use instead of the stages.
        weights: file with the weights of the backbone, local or gs://.

    Raises:
        DataError: images that the backbone cannot take, or weights of another one.
        StorageError: the weights cannot be read.
    """
    import keras
    from keras import layers

    images = keras.Input(spec.shape, dtype=spec.dtype, name=spec.kind)
    if backbone is None:
        features = _residual(to_unit_range(spec)(images), width, depth)
    else:
        features = backbones.features(images, spec, backbone, weights)
    features = layers.Dropout(_DROPOUT)(features)
    outputs = layers.Dense(len(spec.classes), activation="softmax", name=OUTPUT)(features)
    return keras.Model(images, outputs, name="image")


def _residual(x: Any, width: int, depth: int) -> Any:
    """Returns features (N, D) of images (N, H, W, C); each stage halves the sides."""
    from keras import layers

    stride = 1
    while min(x.shape[1:3]) > _FIRST_SIDE * stride:
        stride *= 2
    x = layers.Conv2D(width, 2 * stride + 1, stride, padding="same", use_bias=False)(x)
    x = _stage(x, width, depth)
    while min(x.shape[1:3]) > _LAST_SIDE:
        width *= 2
        x = _stage(layers.MaxPooling2D(2, padding="same")(x), width, depth)
    return layers.GlobalAveragePooling2D()(_normalize(x))


def _stage(x: Any, width: int, depth: int) -> Any:
    for _ in range(depth):
        x = _block(x, width)
    return x


def _block(x: Any, width: int) -> Any:
    """Returns images (N, H, W, C) plus the output of two convolutions: (N, H, W, width)."""
    from keras import layers

    inner = _normalize(x)
    shortcut = x if x.shape[-1] == width else layers.Conv2D(width, 1, use_bias=False)(inner)
    inner = layers.Conv2D(width, 3, padding="same", use_bias=False)(inner)
    inner = layers.Conv2D(width, 3, padding="same", use_bias=False)(_normalize(inner))
    return layers.Add()([shortcut, inner])


def _normalize(x: Any) -> Any:
    from keras import layers

    return layers.ReLU()(layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x))
