"""Networks of keras.applications as backbones: from raw images to features, trained or not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from trainer import storage
from trainer.errors import DataError
from trainer.models import BACKBONE
from trainer.models.scaling import to_pixels

if TYPE_CHECKING:
    from trainer.data.dataset import Spec

# Pixels a side; smaller images are enlarged to it. By the docstrings of keras.applications.
_MIN_SIDE = 32
_MIN_SIDES = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}
_MOMENTUM = 0.9


def features(images: Any, spec: Spec, name: str, weights: str | None) -> Any:
    """Returns what a backbone gives for images, averaged over each: float32 (N, D).

    Args:
        images: of the data, symbolic (N, H, W, C).
        spec: of the data.
        name: of a function in keras.applications.
        weights: file with its weights, local or gs://; None begins from nothing. Trained averages
            of batch normalisation are not moved any more.

    Raises:
        DataError: images that are neither grey nor RGB, or weights of another network.
        StorageError: the weights cannot be read.
    """
    import keras
    from keras import layers

    height, width, channels = spec.shape
    if channels not in (1, 3):
        raise DataError(f"--backbone {name}: found images of {channels} channels, expected 1 or 3")
    function = getattr(keras.applications, name)
    least = _MIN_SIDES.get(name, _MIN_SIDE)
    side = (max(height, least), max(width, least))
    x = to_pixels(spec)(images)
    if channels == 1:
        x = layers.Concatenate()([x, x, x])
    if side != (height, width):
        x = layers.Resizing(*side)(x)
    # Each has its own way of scaling, in the module that defines it.
    x = sys.modules[function.__module__].preprocess_input(x)
    network = function(include_top=False, weights=None, input_shape=(*side, 3), pooling="avg")
    normalisations = [
        layer for layer in network._flatten_layers() if isinstance(layer, layers.BatchNormalization)
    ]
    for normalisation in normalisations:
        # Averages over millions of images are not to be moved by each small batch; and those that
        # begin from nothing must not take a thousand steps, as some of these do.
        normalisation.trainable = weights is None
        normalisation.momentum = min(normalisation.momentum, _MOMENTUM)
    if weights is not None:
        _load(network, name, weights)
    # Some of them look themselves up by their name, and so cannot be given this one.
    return keras.Model(network.input, network.output, name=BACKBONE)(x)


def _load(network: Any, name: str, weights: str) -> None:
    with storage.local_copy(weights) as path:
        try:
            network.load_weights(path)
        except (
            Exception
        ) as error:  # Keras and HDF5 raise nearly anything at a file of another kind.
            reason = " ".join(str(error).split())
            raise DataError(
                f"--weights {weights}: not those of {name} without its top: {reason[:200]}"
            ) from None
