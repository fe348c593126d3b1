"""The training pass gives what Keras gives: outputs, gradients and moving averages."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.engine import fused_batch_norm

layers = keras.layers


def images(*more: keras.layers.Layer, **settings: object) -> keras.Model:
    body = [layers.Conv2D(8, 3), layers.BatchNormalization(**settings), layers.ReLU(), *more]
    return keras.Sequential([keras.Input((9, 9, 2)), *body, layers.Flatten(), layers.Dense(3)])


def vectors() -> keras.Model:
    normalised = [layers.Dense(5), layers.BatchNormalization(), layers.ReLU()]
    return keras.Sequential([keras.Input((9, 9, 2)), layers.Flatten(), *normalised])


def two_paths() -> keras.Model:
    inputs = keras.Input((9, 9, 2))
    normalised = layers.BatchNormalization()(inputs)
    return keras.Model(inputs, layers.Flatten()(layers.add([inputs, normalised])))


def within() -> keras.Model:
    inputs = keras.Input((9, 9, 2))
    return keras.Model(inputs, layers.ReLU()(images()(inputs)))


def frozen() -> keras.Model:
    model = images()
    model.layers[1].trainable = False
    return model


def duplicates() -> keras.Model:
    inputs = keras.Input((9, 9, 2))
    normalised = layers.BatchNormalization(momentum=0.9)
    return keras.Model(inputs, layers.Flatten()(normalised(3 * normalised(inputs) + 1)))


def in_one(network: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda inputs: fused_batch_norm.training_pass(network)([inputs])[0]


MODELS: dict[str, Callable[[], keras.Model]] = {
    "images": images,
    "no scale": lambda: images(scale=False),
    "no centre": lambda: images(center=False),
    "another momentum": lambda: images(momentum=0.7, epsilon=1e-2),
    "another axis": lambda: images(axis=1),
    "twice": lambda: images(layers.Conv2D(4, 3), layers.BatchNormalization()),
    "vectors": vectors,
    "two paths": two_paths,
    "within": within,
    "frozen": frozen,
    "one layer twice": duplicates,
    "pixels": lambda: keras.Sequential(
        [keras.Input((9, 9, 2), dtype="uint8"), layers.BatchNormalization(), layers.Flatten()]
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_gives_what_keras_gives(name: str) -> None:
    x = np.random.default_rng(0).normal(1, 2, (16, 9, 9, 2)).astype(np.float32)
    if name == "pixels":
        x = (100 + 10 * x).astype(np.uint8)
    keras.utils.set_random_seed(0)
    ours = MODELS[name]()
    keras.utils.set_random_seed(0)
    theirs = MODELS[name]()
    found = []
    for model, call in (
        (ours, in_one(ours)),
        (theirs, lambda inputs: theirs(inputs, training=True)),
    ):
        with tf.GradientTape() as tape:
            outputs = call(tf.constant(x))
            loss = tf.reduce_sum(outputs**3)
        gradients = tape.gradient(loss, model.trainable_variables)
        found.append([outputs, *gradients, *(v.value for v in model.non_trainable_variables)])
    for a, b in zip(*found, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(a, b, atol=2e-4 * max(1.0, np.abs(b).max()))


def test_each_share_is_normalised_by_itself_and_averages_move_by_all() -> None:
    x = np.random.default_rng(0).normal(1, 2, (2, 8, 9, 9, 2)).astype(np.float32)
    x[1] += 3
    keras.utils.set_random_seed(0)
    model = images(momentum=0.9)
    moved = []
    for microbatch in x:
        same = keras.models.clone_model(model)
        same.set_weights(model.get_weights())
        output = same(microbatch, training=True)
        moved.append((output, [np.array(v) for v in same.non_trainable_variables]))
    outputs = fused_batch_norm.training_pass(model)([tf.constant(microbatch) for microbatch in x])
    for output, (expected, _) in zip(outputs, moved, strict=True):
        np.testing.assert_allclose(output, expected, atol=1e-5)
    averages = [np.mean(both, axis=0) for both in zip(*(each for _, each in moved), strict=True)]
    for found, expected in zip(model.non_trainable_variables, averages, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_would_be_another_sum_over_shares_is_of_whole_batches() -> None:
    inputs = keras.Input((9,))
    penalised = layers.Dense(3, activity_regularizer="l2")
    assert not fused_batch_norm.can_use_microbatches(keras.Model(inputs, penalised(inputs)))
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
    "within": 1,
    "frozen": 0,
    "another axis": 0,
}


@pytest.mark.parametrize(("name", "fused"), FUSED.items())
def test_it_is_fused_where_it_can_be(name: str, fused: int) -> None:
    call = tf.function(in_one(MODELS[name]()))
    graph = call.get_concrete_function(tf.TensorSpec((None, 9, 9, 2), tf.float32)).graph
    assert [op.type for op in graph.get_operations()].count("FusedBatchNormV3") == fused


def test_a_model_cut_behind_its_preprocessing_is_fused_too() -> None:
    whole = images()
    cut = keras.Model(whole.layers[0].output, whole.outputs[0])
    call = tf.function(in_one(cut))
    graph = call.get_concrete_function(tf.TensorSpec((None, 7, 7, 8), tf.float32)).graph
    assert "FusedBatchNormV3" in {op.type for op in graph.get_operations()}
