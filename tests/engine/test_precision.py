"""Training steps compute in 16 bits; weights and saved models stay float32."""

from __future__ import annotations

import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fitting import fit
from trainer import models
from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Dataset
from trainer.distributed.devices import Devices
from trainer.engine import loop
from trainer.engine.fused_batch_norm import training_pass
from trainer.engine.precision import autocast
from trainer.runs import filenames, model_files


@pytest.fixture(scope="module")
def data(digits: Path) -> Dataset:
    """Some 500 training examples; the others are held out."""
    options = DataOptions(data=str(digits), seed=0)
    return loader.load(options).subsample(600, seed=0)


def build(data: Dataset, dtype: str) -> keras.Model:
    model_entry = models.find("cnn_fast")
    return models.build(
        model_entry, data.spec, learning_rate=0.01, steps=80, seed=0, precision=dtype
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_steps_compute_in_the_precision_and_the_model_stays_float32(
    dtype: str, data: Dataset
) -> None:
    model = build(data, dtype)

    @tf.function
    def step(images: tf.Tensor) -> tf.Tensor:
        with autocast(model, dtype):
            return training_pass(model)([images])[0]

    graph = step.get_concrete_function(tf.TensorSpec([8, *data.spec.shape], tf.uint8)).graph
    convolutions = [
        op.outputs[0].dtype.name for op in graph.get_operations() if op.type == "Conv2D"
    ]
    assert convolutions == [dtype, dtype]
    dense = [op.outputs[0].dtype.name for op in graph.get_operations() if op.type == "MatMul"]
    assert dense == [dtype, "float32"]  # The last layer gives the probabilities.
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}


def train(data: Dataset, dtype: str) -> tuple[keras.Model, list[float]]:
    """Returns a trained model and its losses."""
    model = build(data, dtype)
    history = fit(
        model, data.train, None, epochs=4, batch_size=50, seed=0,
        devices=Devices(tf.distribute.get_strategy(), dtype), label_smoothing=0.1,
    )  # fmt: skip
    return model, [row["loss"] for row in history]


@pytest.fixture(scope="module")
def float32_losses(data: Dataset) -> list[float]:
    return train(data, "float32")[1]


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.long)])
def test_losses_are_close_to_float32_and_the_saved_model_is_float32(
    dtype: str, data: Dataset, float32_losses: list[float], tmp_path: Path
) -> None:
    model, losses = train(data, dtype)
    assert losses != float32_losses
    np.testing.assert_allclose(losses, float32_losses, rtol=0.05)
    model_files.write(model, tmp_path)
    loaded = keras.models.load_model(tmp_path / filenames.MODEL_KERAS)
    assert {layer.dtype_policy.name for layer in loaded.layers} == {"float32"}
    np.testing.assert_array_equal(
        loaded.predict(data.test.examples, batch_size=len(data.test), verbose=0),
        loop.predict(model, data.test, batch_size=100),
    )


def test_loss_scaling_skips_a_step_that_overflows(data: Dataset) -> None:
    """The optimizer halves its loss scale when gradients are not finite."""
    model = build(data, "float16")
    model.optimizer.build(model.trainable_variables)
    model.optimizer.dynamic_scale.assign(2.0**120)
    history = fit(
        model, data.train, None, epochs=1, batch_size=50, seed=0,
        devices=Devices(tf.distribute.get_strategy(), "float16"),
    )  # fmt: skip
    assert math.isfinite(history[0]["loss"])
    assert float(model.optimizer.dynamic_scale) < 2.0**120
    assert all(np.isfinite(weights).all() for weights in model.get_weights())


def test_a_layer_with_a_dtype_of_its_own_keeps_it() -> None:
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4, dtype="float64"),
            keras.layers.Dense(4),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    with autocast(model, "bfloat16"):
        assert [layer.compute_dtype for layer in model.layers] == ["float64", "bfloat16", "float32"]
    assert [layer.compute_dtype for layer in model.layers] == ["float64", "float32", "float32"]


class Custom(keras.layers.Layer):
    """A user's layer that adds a float32 constant to the output of a Keras layer inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = keras.layers.Dense(4)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.inner(inputs) + tf.ones([4])


def test_a_users_layer_and_the_layers_inside_it_stay_float32() -> None:
    custom = Custom()
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4), custom, keras.layers.Dense(2)]
    )
    with autocast(model, "bfloat16"):
        types = [layer.compute_dtype for layer in (model.layers[0], custom, custom.inner)]
        outputs = model(np.ones((3, 4), np.float32), training=True)
    assert types == ["bfloat16", "float32", "float32"]
    assert outputs.dtype == tf.float32
