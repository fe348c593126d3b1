"""Networks of keras.applications as backbones: from raw images to features."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from trainer import storage
from trainer.errors import DataError
from trainer.models import BACKBONE
from trainer.models.scaling import to_pixels

if TYPE_CHECKING:
    from trainer.data.dataset import Spec

# Minimum pixels per side, by the docstrings of keras.applications; smaller images are enlarged.
_MIN_SIDE = 32
_MIN_SIDES = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}
_MAX_MOMENTUM = 0.9


def features(images: Any, spec: Spec, name: str, weights: str | None) -> Any:
    """Returns the features of images by a backbone, averaged over each image: float32 (N, D).

    Args:
        images: of the data, symbolic (N, H, W, C).
        spec: of the data.
        name: of a function in keras.applications.
        weights: file with pretrained weights, local or gs://; None for random initial weights.
            Pretrained moving averages of batch normalization stay fixed.

    Raises:
        DataError: images that are neither grey nor RGB, or weights of another network.
        StorageError: the weights cannot be read.
    """
    import keras
    from keras import layers

    from trainer.runtime.keras_internals import flatten_layers

    height, width, channels = spec.shape
    if channels not in (1, 3):
        raise DataError(f"--backbone {name}: found images of {channels} channels, expected 1 or 3")
    function = getattr(keras.applications, name)
    min_side = _MIN_SIDES.get(name, _MIN_SIDE)
    side = (max(height, min_side), max(width, min_side))
    x = to_pixels(spec)(images)
    if channels == 1:
        x = layers.Concatenate()([x, x, x])
    if side != (height, width):
        x = layers.Resizing(*side)(x)
    # Each family scales pixels differently, in the module that defines it.
    x = sys.modules[function.__module__].preprocess_input(x)
    network = function(include_top=False, weights=None, input_shape=(*side, 3), pooling="avg")
    for layer in flatten_layers(network):
        if isinstance(layer, layers.BatchNormalization):
            # Pretrained averages, over millions of images, must not follow small batches. Averages
            # that start at random weights must not take a thousand steps, as with a momentum of
            # 0.999.
            layer.trainable = weights is None
            layer.momentum = min(layer.momentum, _MAX_MOMENTUM)
    if weights is not None:
        _load(network, name, weights)
    # Some of the functions look up their layer by its own name, so that it cannot be set above.
    return keras.Model(network.input, network.output, name=BACKBONE)(x)


def _load(network: Any, name: str, weights: str) -> None:
    with storage.local_copy(weights) as path:
        try:
            network.load_weights(path)
        except Exception as error:  # Keras and HDF5 raise many types for a file of another kind.
            reason = " ".join(str(error).split())
            raise DataError(
                f"--weights {weights}: not the weights of {name} without its top: {reason[:200]}"
            ) from None
