"""The training pass of a network, with batch normalisation by TensorFlow's fused kernel.

Keras composes it of some twenty operations, each of which goes through memory once. The layers and
their variables stay Keras's own; only what computes them here is another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

Forward = Callable[[Sequence[tf.Tensor]], list[tf.Tensor]]
# What batch normalisation saw of a microbatch, in order: the layer, its mean and its variance.
_Seen = list[tuple[keras.layers.BatchNormalization, tf.Tensor, tf.Tensor]]


def can_use_microbatches(network: keras.Model) -> bool:
    """Tells whether a batch may be cut into microbatches, each of which is passed on its own."""
    # Keras forgets penalties on activities when the network is called again, and its own batch
    # normalisation would move its averages once for each microbatch.
    return (
        _is_graph(network)
        and not _penalises_activities(network)
        and all(
            _is_fusible(layer) or not layer.trainable
            for layer in network._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization)
        )
    )


def training_pass(network: keras.Model) -> Forward:
    """Returns a function from microbatches of a batch to what `network(microbatch, training=True)` gives.

    Batch normalisation is over a microbatch, and its layer's averages move once, by the mean of all.
    A network that is no graph of layers is called as it is, with one microbatch.
    """
    if (
        not _is_graph(network)
        or _penalises_activities(network)
        or tf.distribute.get_strategy().num_replicas_in_sync > 1
    ):
        return lambda microbatches: [
            network(microbatch, training=True) for microbatch in microbatches
        ]

    def forward(microbatches: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        seen: list[_Seen] = [[] for _ in microbatches]
        outputs = [_passed(network, *each) for each in zip(microbatches, seen, strict=True)]
        for of_all in zip(*seen, strict=True):  # The same layer, in each microbatch.
            layers, means, variances = zip(*of_all, strict=True)
            _move(layers[0].moving_mean, means, layers[0].momentum)
            _move(layers[0].moving_variance, variances, layers[0].momentum)
        return outputs

    return forward


def _is_graph(network: keras.Model) -> bool:
    graph = _graph(network)
    return hasattr(graph, "_run_through_graph") and len(graph.inputs) == len(graph.outputs) == 1


def _graph(network: keras.Model) -> Any:
    return getattr(network, "_functional", None) or network  # A Sequential has one within.


def _penalises_activities(network: keras.Model) -> bool:
    return any(layer.activity_regularizer for layer in network._flatten_layers())


def _move(average: keras.Variable, values: Sequence[tf.Tensor], momentum: float) -> None:
    new = tf.add_n(values) / len(values)
    average.assign(average.value * momentum + new * (1 - momentum))


def _passed(network: keras.Model, inputs: tf.Tensor, seen: _Seen) -> tf.Tensor:
    """Runs inputs through a network, and notes what batch normalisation saw."""

    def computed(operation: Any) -> Any:
        if _is_fusible(operation):
            return functools.partial(_normalised, operation, seen)
        if isinstance(operation, keras.Model) and _is_graph(operation):
            return lambda within, **_: _passed(operation, within, seen)
        if isinstance(operation, keras.Layer):
            return functools.partial(_in_training, operation)
        return operation

    outputs = _graph(network)._run_through_graph([inputs], operation_fn=computed)
    return outputs[0] if isinstance(outputs, list) else outputs


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
    layer: keras.layers.BatchNormalization, seen: _Seen, inputs: tf.Tensor, **_: object
) -> tf.Tensor:
    """Normalises over all axes but the last, and notes mean and variance."""
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
    seen.append((layer, mean, variance))
    return tf.reshape(outputs, tf.shape(inputs))
