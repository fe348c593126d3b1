"""The forward pass of training, with batch normalization computed by TensorFlow's fused kernel.

Keras composes batch normalization of some twenty operations, each of which reads and writes the
whole tensor. Layers and variables are Keras's; only the kernel differs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from trainer.runtime.keras_internals import flatten_layers, functional_graph, run_through_graph

Forward = Callable[[Sequence[tf.Tensor]], list[tf.Tensor]]
# Statistics of one microbatch: layer, mean and variance, in the order of the layers' calls.
_Statistics = list[tuple[keras.layers.BatchNormalization, tf.Tensor, tf.Tensor]]


def can_use_microbatches(network: keras.Model) -> bool:
    """Returns whether a batch may be computed as several microbatches."""
    # With several calls, Keras forgets the activity penalties of all but the last one, and its own
    # batch normalization would update the moving averages once per microbatch.
    return (
        _has_graph(network)
        and not _has_activity_penalties(network)
        and all(
            _is_fusible(layer) or not layer.trainable
            for layer in flatten_layers(network)
            if isinstance(layer, keras.layers.BatchNormalization)
        )
    )


def training_pass(network: keras.Model) -> Forward:
    """Returns the forward pass: from microbatches to `network(microbatch, training=True)` of each.

    Batch normalization uses the statistics of each microbatch. Its moving averages are updated
    once, with the mean over the microbatches. A network without a graph of layers is called as it
    is, with one microbatch.
    """
    if (
        not _has_graph(network)
        or _has_activity_penalties(network)
        or tf.distribute.get_strategy().num_replicas_in_sync > 1
    ):
        return lambda microbatches: [
            network(microbatch, training=True) for microbatch in microbatches
        ]

    def forward(microbatches: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        statistics: list[_Statistics] = [[] for _ in microbatches]
        outputs = [
            _run_graph(network, *each) for each in zip(microbatches, statistics, strict=True)
        ]
        for same_layer in zip(*statistics, strict=True):  # One entry per microbatch.
            layers, means, variances = zip(*same_layer, strict=True)
            _update_average(layers[0].moving_mean, means, layers[0].momentum)
            _update_average(layers[0].moving_variance, variances, layers[0].momentum)
        return outputs

    return forward


def _has_graph(network: keras.Model) -> bool:
    """Returns whether the network is a graph of layers with one input and one output."""
    graph = functional_graph(network)
    return graph is not None and len(graph.inputs) == len(graph.outputs) == 1


def _has_activity_penalties(network: keras.Model) -> bool:
    return any(layer.activity_regularizer for layer in flatten_layers(network))


def _update_average(average: keras.Variable, values: Sequence[tf.Tensor], momentum: float) -> None:
    mean = tf.add_n(values) / len(values)
    average.assign(average.value * momentum + mean * (1 - momentum))


def _run_graph(network: keras.Model, inputs: tf.Tensor, statistics: _Statistics) -> tf.Tensor:
    """Returns the outputs of a network; appends the statistics of its batch normalization."""

    def replace(operation: Any) -> Any:
        if _is_fusible(operation):
            return functools.partial(_fused_batch_norm, operation, statistics)
        if isinstance(operation, keras.Model) and _has_graph(operation):
            return lambda inner_inputs, **_: _run_graph(operation, inner_inputs, statistics)
        if isinstance(operation, keras.Layer):
            return functools.partial(_call_in_training, operation)
        return operation

    return run_through_graph(functional_graph(network), inputs, replace)


def _call_in_training(layer: keras.Layer, *inputs: Any, **arguments: Any) -> Any:
    # Keras does the same for a layer that was called with training=False when the model was built.
    return layer(*inputs, **{**arguments, "training": True})


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


def _fused_batch_norm(
    layer: keras.layers.BatchNormalization,
    statistics: _Statistics,
    inputs: tf.Tensor,
    **_: object,
) -> tf.Tensor:
    """Normalizes over all axes but the last; appends the mean and variance to `statistics`."""
    inputs = tf.cast(inputs, layer.compute_dtype)  # The inputs may be pixels, uint8.
    channels = inputs.shape[-1]
    images = tf.reshape(inputs, [-1, 1, 1, channels]) if len(inputs.shape) == 2 else inputs
    scale = layer.gamma.value if layer.scale else tf.ones([channels])
    offset = layer.beta.value if layer.center else tf.zeros([channels])
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=images, scale=scale, offset=offset, mean=[], variance=[], epsilon=layer.epsilon,
        is_training=True,
    )  # fmt: skip
    # The kernel returns the unbiased variance; Keras averages the biased one.
    count = tf.cast(tf.size(images) // channels, tf.float32)
    variance *= (count - 1) / count
    statistics.append((layer, mean, variance))
    return tf.reshape(outputs, tf.shape(inputs))
