"""The training pass of a network, with batch normalisation by TensorFlow's fused kernel.

Keras composes it of some twenty operations, each of which goes through memory once. The layers and
their variables stay Keras's own; only what computes them here is another.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

Forward = Callable[[tf.Tensor], tf.Tensor]


def training_pass(network: keras.Model) -> Forward:
    """Returns a function from inputs to what `network(inputs, training=True)` gives.

    A network that is no plain chain of layers is called as it is.
    """
    chain = _chain(network)
    if chain is None or tf.distribute.get_strategy().num_replicas_in_sync > 1:
        return lambda inputs: network(inputs, training=True)

    def forward(inputs: tf.Tensor) -> tf.Tensor:
        outputs = inputs
        for layer in chain:
            if _is_fusible(layer):
                outputs = _normalised(layer, outputs)
            else:
                outputs = layer(outputs, training=True)
        return outputs

    return forward


def _chain(network: keras.Model) -> list[keras.layers.Layer] | None:
    """Returns the layers of a network in which each takes what the one before it gives."""
    layers = [layer for layer in network.layers if not isinstance(layer, keras.layers.InputLayer)]
    nodes = [layer._inbound_nodes for layer in layers]
    tensor = network.inputs[0] if len(network.inputs) == len(network.outputs) == 1 else None
    for layer in layers:
        # A layer may have other nodes, of models that share it; one of them must continue here.
        found = [
            n for n in layer._inbound_nodes if [id(t) for t in n.input_tensors] == [id(tensor)]
        ]
        if len(found) != 1 or len(found[0].output_tensors) != 1 or layer.activity_regularizer:
            return None
        tensor = found[0].output_tensors[0]
    return layers if nodes and tensor is network.outputs[0] else None


def _is_fusible(layer: keras.layers.Layer) -> bool:
    return (
        type(layer) is keras.layers.BatchNormalization
        and layer.built
        and layer.trainable
        and not layer.synchronized
        and layer.axis in (-1, len(layer.input.shape) - 1)
        and len(layer.input.shape) in (2, 4)
        and layer.compute_dtype in ("float32", "bfloat16", "float16")
    )


def _normalised(layer: keras.layers.BatchNormalization, inputs: tf.Tensor) -> tf.Tensor:
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
