"""Scales raw values, as a layer inside the model, so that training and serving are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

    from trainer.data.dataset import Spec


def to_unit_range(spec: Spec) -> keras.layers.Layer:
    """Returns a layer that maps the data's range, 0-255 for pixels, to 0-1 in float32."""
    import keras

    width = (spec.high - spec.low) or 1.0
    return keras.layers.Rescaling(1 / width, offset=-spec.low / width)


def to_pixels(spec: Spec) -> keras.layers.Layer:
    """Returns a layer that maps the data's range to 0-255 in float32."""
    import keras

    width = (spec.high - spec.low) or 1.0
    return keras.layers.Rescaling(255 / width, offset=-255 * spec.low / width)
