"""Mixed precision: steps are computed in 16 bits; weights, and all that is saved, have 32.

Source: Micikevicius et al. 2017 (arXiv:1710.03740). Not Keras's global policy: a model would keep
it, and then the exported one too would compute in 16 bits, on whatever machine serves it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import keras


def of_gpus(capabilities: Sequence[tuple[int, int]]) -> str:
    """Returns the fastest type that all of the cards compute in, by their compute capabilities."""
    least = min(capabilities)
    if least >= (8, 0):
        return "bfloat16"
    return "float16" if least >= (7, 0) else "float32"


def of_processor(cpuinfo: str) -> str:
    """Returns bfloat16 if a processor has units for it, by the text of /proc/cpuinfo."""
    found = {"amx_bf16", "avx512_bf16"} & set(cpuinfo.split())
    return "bfloat16" if found else "float32"


@contextlib.contextmanager
def autocast(network: keras.Model, dtype: str) -> Iterator[None]:
    """Lets the layers of a network compute in `dtype` within, but for the last one.

    Layers with a type of their own choice keep it, and so do those that are not Keras's, with all
    that is within them: what they compute with may be float32. Of the last one, probabilities that
    round to 0 would be a loss without a gradient.
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
    layers = network._flatten_layers()
    kept = {
        id(inner)
        for layer in layers
        if isinstance(layer, keras.layers.Lambda) or not type(layer).__module__.startswith("keras.")
        for inner in layer._flatten_layers()
    }
    kept.add(id(network.layers[-1]))
    return [
        layer for layer in layers if id(layer) not in kept and layer.dtype_policy.name == "float32"
    ]
