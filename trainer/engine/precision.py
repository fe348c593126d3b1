"""Mixed precision: layers compute in 16 bits; weights and saved models stay float32.

Source: Micikevicius et al. 2017 (arXiv:1710.03740). Keras's global policy is not used: a model
keeps it, so that the exported model would compute in 16 bits too, on any machine that serves it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras

from trainer.runtime.keras_internals import flatten_layers


@contextlib.contextmanager
def autocast(network: keras.Model, dtype: str) -> Iterator[None]:
    """Lets all layers of a network except the last compute in `dtype` within the context.

    A layer with a dtype of its own keeps it. A layer that is not Keras's stays float32, with all
    layers inside it, because it may compute with float32 constants. The last layer stays float32
    because a probability that rounds to 0 gives a loss without a gradient.

    Args:
        network: built.
        dtype: "float32", "bfloat16" or "float16".
    """
    layers = [] if dtype == "float32" else _autocast_layers(network)
    before = [layer.dtype_policy for layer in layers]
    for layer in layers:
        layer.dtype_policy = f"mixed_{dtype}"
    try:
        yield
    finally:
        for layer, policy in zip(layers, before, strict=True):
            layer.dtype_policy = policy


def _autocast_layers(network: keras.Model) -> list[keras.Layer]:
    layers = flatten_layers(network)
    excluded = {
        id(inner)
        for layer in layers
        if isinstance(layer, keras.layers.Lambda) or not type(layer).__module__.startswith("keras.")
        for inner in flatten_layers(layer)
    }
    excluded.add(id(network.layers[-1]))
    return [
        layer
        for layer in layers
        if id(layer) not in excluded and layer.dtype_policy.name == "float32"
    ]
