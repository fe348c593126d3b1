"""The training pass gives the outputs, gradients and moving averages of Keras."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.engine import fused_batch_norm

layers = keras.layers


def images(*further: keras.layers.Layer, **settings: object) -> keras.Model:
    body = [layers.Conv2D(8, 3), layers.BatchNormalization(**settings), layers.ReLU(), *further]
    return keras.Sequential([keras.Input((9, 9, 2)), *body, layers.Flatten(), layers.Dense(3)])


def vectors() -> keras.Model:
    body = [layers.Dense(5), layers.BatchNormalization(), layers.ReLU()]
    return keras.Sequential([keras.Input((9, 9, 2)), layers.Flatten(), *body])


def two_paths() -> keras.Model:
    inputs = keras.Input((9, 9, 2))
    normalized = layers.BatchNormalization()(inputs)
    return keras.Model(inputs, layers.Flatten()(layers.add([inputs, normalized])))


def nested() -> keras.Model:
    inputs = keras.Input((9, 9, 2))
    return keras.Model(inputs, layers.ReLU()(images()(inputs)))


def frozen() -> keras.Model:
    model = images()
    model.layers[1].trainable = False
    return model


def shared() -> keras.Model:
    inputs = keras.Input((9, 9, 2))
    normalized = layers.BatchNormalization(momentum=0.9)
    return keras.Model(inputs, layers.Flatten()(normalized(3 * normalized(inputs) + 1)))


def one_microbatch(network: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda inputs: fused_batch_norm.training_pass(network)([inputs])[0]


MODELS: dict[str, Callable[[], keras.Model]] = {
    "images": images,
    "no scale": lambda: images(scale=False),
    "no center": lambda: images(center=False),
    "another momentum": lambda: images(momentum=0.7, epsilon=1e-2),
    "another axis": lambda: images(axis=1),
    "twice": lambda: images(layers.Conv2D(4, 3), layers.BatchNormalization()),
    "vectors": vectors,
    "two paths": two_paths,
    "nested": nested,
    "frozen": frozen,
    "one layer twice": shared,
    "pixels": lambda: keras.Sequential(
        [keras.Input((9, 9, 2), dtype="uint8"), layers.BatchNormalization(), layers.Flatten()]
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_outputs_gradients_and_averages_are_those_of_keras(name: str) -> None:
    x = np.random.default_rng(0).normal(1, 2, (16, 9, 9, 2)).astype(np.float32)
    if name == "pixels":
        x = (100 + 10 * x).astype(np.uint8)
    keras.utils.set_random_seed(0)
    ours = MODELS[name]()
    keras.utils.set_random_seed(0)
    theirs = MODELS[name]()
    results = []
    for model, call in (
        (ours, one_microbatch(ours)),
        (theirs, lambda inputs: theirs(inputs, training=True)),
    ):
        with tf.GradientTape() as tape:
            outputs = call(tf.constant(x))
            loss = tf.reduce_sum(outputs**3)
        gradients = tape.gradient(loss, model.trainable_variables)
        results.append([outputs, *gradients, *(v.value for v in model.non_trainable_variables)])
    for a, b in zip(*results, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(a, b, atol=2e-4 * max(1.0, np.abs(b).max()))


def test_each_microbatch_has_its_own_statistics_and_averages_move_by_their_mean() -> None:
    x = np.random.default_rng(0).normal(1, 2, (2, 8, 9, 9, 2)).astype(np.float32)
    x[1] += 3
    keras.utils.set_random_seed(0)
    model = images(momentum=0.9)
    by_keras = []
    for microbatch in x:
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        output = clone(microbatch, training=True)
        by_keras.append((output, [np.array(v) for v in clone.non_trainable_variables]))
    outputs = fused_batch_norm.training_pass(model)([tf.constant(microbatch) for microbatch in x])
    for output, (expected, _) in zip(outputs, by_keras, strict=True):
        np.testing.assert_allclose(output, expected, atol=1e-5)
    averages = [np.mean(both, axis=0) for both in zip(*(each for _, each in by_keras), strict=True)]
    for average, expected in zip(model.non_trainable_variables, averages, strict=True):
        np.testing.assert_allclose(average, expected, rtol=1e-5)


def test_a_batch_is_not_divided_if_its_sums_would_change() -> None:
    inputs = keras.Input((9,))
    penalized = layers.Dense(3, activity_regularizer="l2")
    assert not fused_batch_norm.can_use_microbatches(keras.Model(inputs, penalized(inputs)))
    assert fused_batch_norm.can_use_microbatches(
        keras.Model(inputs, layers.Dense(3, kernel_regularizer="l2")(inputs))
    )
    assert {
        name for name in MODELS if not fused_batch_norm.can_use_microbatches(MODELS[name]())
    } == {"another axis"}


FUSED = {
    "images": 1,
    "twice": 2,
    "vectors": 1,
    "two paths": 1,
    "nested": 1,
    "frozen": 0,
    "another axis": 0,
}


@pytest.mark.parametrize(("name", "fused"), FUSED.items())
def test_batch_normalization_is_fused_where_the_kernel_supports_it(name: str, fused: int) -> None:
    call = tf.function(one_microbatch(MODELS[name]()))
    graph = call.get_concrete_function(tf.TensorSpec((None, 9, 9, 2), tf.float32)).graph
    assert [op.type for op in graph.get_operations()].count("FusedBatchNormV3") == fused


def test_a_model_split_behind_its_preprocessing_is_fused_too() -> None:
    whole = images()
    rest = keras.Model(whole.layers[0].output, whole.outputs[0])
    call = tf.function(one_microbatch(rest))
    graph = call.get_concrete_function(tf.TensorSpec((None, 7, 7, 8), tf.float32)).graph
    assert "FusedBatchNormV3" in {op.type for op in graph.get_operations()}
