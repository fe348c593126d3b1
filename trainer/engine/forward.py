"""The training pass of a network, with batch normalisation by TensorFlow's fused kernel.

Keras composes it of some twenty operations, each of which goes through memory once. The layers and
their variables stay Keras's own; only what computes them here is another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

Forward = Callable[..., tf.Tensor]


def training_pass(network: keras.Model) -> Forward:
    """Returns a function from inputs to what `network(inputs, training=True)` gives.

    A network that is no graph of layers is called as it is.
    """
    graph = getattr(network, "_functional", None) or network  # A Sequential has one within.
    if (
        not hasattr(graph, "_run_through_graph")
        or len(graph.inputs) != 1
        or len(graph.outputs) != 1
        or any(layer.activity_regularizer for layer in network._flatten_layers())
        or tf.distribute.get_strategy().num_replicas_in_sync > 1
    ):
        return lambda inputs, **_: network(inputs, training=True)
    calls: dict[int, Callable[..., tf.Tensor]] = {}
    for operation in graph.operations:
        if _is_fusible(operation):
            calls[id(operation)] = functools.partial(_normalised, operation)
        elif isinstance(operation, keras.Model):
            calls[id(operation)] = training_pass(operation)
        elif isinstance(operation, keras.Layer):
            calls[id(operation)] = functools.partial(_in_training, operation)

    def forward(inputs: tf.Tensor, **_: object) -> tf.Tensor:
        outputs = graph._run_through_graph(
            [inputs], operation_fn=lambda operation: calls.get(id(operation), operation)
        )
        return outputs[0] if isinstance(outputs, list) else outputs

    return forward


def _in_training(layer: keras.Layer, *inputs: Any, **settings: Any) -> Any:
    # As Keras does, even where the model was put together with training=False.
    return layer(*inputs, **{**settings, "training": True})


def _is_fusible(layer: keras.Operation) -> bool:
    return (
        type(layer) is keras.layers.BatchNormalization
        and layer.built
        and layer.trainable
        and not layer.synchronized
        and layer.axis in (-1, len(layer.input.shape) - 1)
        and len(layer.input.shape) in (2, 4)
        and layer.compute_dtype in ("float32", "bfloat16", "float16")
    )


def _normalised(
    layer: keras.layers.BatchNormalization, inputs: tf.Tensor, **_: object
) -> tf.Tensor:
    """Normalises over all axes but the last, and moves the layer's averages."""
    inputs = tf.cast(inputs, layer.compute_dtype)  # Of pixels, say.
    channels = inputs.shape[-1]
    images = tf.reshape(inputs, [-1, 1, 1, channels]) if len(inputs.shape) == 2 else inputs
    scale = layer.gamma.value if layer.scale else tf.ones([channels])
    offset = layer.beta.value if layer.center else tf.zeros([channels])
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=images, scale=scale, offset=offset, mean=[], variance=[], epsilon=layer.epsilon,
        is_training=True,
    )  # fmt: skip
    # The kernel gives the variance of a sample; Keras averages that of the batch itself.
    count = tf.cast(tf.size(images) // channels, tf.float32)
    variance *= (count - 1) / count
    for average, new in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        average.assign(average.value * layer.momentum + new * (1 - layer.momentum))
    return tf.reshape(outputs, tf.shape(inputs))
