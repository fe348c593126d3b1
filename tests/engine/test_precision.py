"""TrainFunction in 16 bits, weights and saved models in 32."""

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
from trainer.engine import loop, precision
from trainer.engine.fused_batch_norm import training_pass
from trainer.runs import filenames, model_files


@pytest.fixture
def data(digits: Path) -> Dataset:
    return loader.load(
        DataOptions(data=str(digits), seed=0, validation_split=0.0, allow_pickle=False)
    )


def build(data: Dataset, kind: str) -> keras.Model:
    model_entry = models.find("cnn_fast")
    return models.build(
        model_entry, data.spec, learning_rate=0.01, steps=80, seed=0, precision=kind
    )


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
def test_steps_compute_in_the_precision_and_the_model_stays_float32(
    kind: str, data: Dataset
) -> None:
    model = build(data, kind)

    @tf.function
    def step(images: tf.Tensor) -> tf.Tensor:
        with precision.autocast(model, kind):
            return training_pass(model)([images])[0]

    graph = step.get_concrete_function(tf.TensorSpec([8, *data.spec.shape], tf.uint8)).graph
    kinds = [op.outputs[0].dtype.name for op in graph.get_operations() if op.type == "Conv2D"]
    assert kinds == [kind, kind]
    dense = [op.outputs[0].dtype.name for op in graph.get_operations() if op.type == "MatMul"]
    assert dense == [kind, "float32"]  # The last one gives the probabilities.
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_it_learns_as_in_float32_and_the_saved_model_is_ordinary(
    kind: str, data: Dataset, tmp_path: Path
) -> None:
    losses = {}
    for each in ("float32", kind):
        model = build(data, each)
        history = fit(
            model, data.train, None, epochs=4, batch_size=50, seed=0,
            devices=Devices(tf.distribute.get_strategy(), each), label_smoothing=0.1,
        )  # fmt: skip
        losses[each] = [row["loss"] for row in history]
    assert losses[kind] != losses["float32"]
    np.testing.assert_allclose(losses[kind], losses["float32"], rtol=0.05)
    model_files.write(model, tmp_path)
    loaded = keras.models.load_model(tmp_path / filenames.MODEL_KERAS)
    assert {layer.dtype_policy.name for layer in loaded.layers} == {"float32"}
    np.testing.assert_array_equal(
        loaded.predict(data.test.examples, verbose=0),
        loop.predict(model, data.test, batch_size=100),
    )


def test_loss_scaling_skips_a_step_that_overflows(data: Dataset) -> None:
    """The scale begins at 2**15, and is halved when gradients are not finite."""
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


def test_a_layer_with_a_type_of_its_own_keeps_it() -> None:
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4, dtype="float64"),
            keras.layers.Dense(4),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    with precision.autocast(model, "bfloat16"):
        assert [layer.compute_dtype for layer in model.layers] == ["float64", "bfloat16", "float32"]
    assert [layer.compute_dtype for layer in model.layers] == ["float64", "float32", "float32"]


class Added(keras.layers.Layer):
    """A layer of a user's, which computes with what is float32, and has one of Keras's within."""

    def __init__(self) -> None:
        super().__init__()
        self.within = keras.layers.Dense(4)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.within(inputs) + tf.ones([4])


def test_layers_that_are_not_kerass_stay_float32() -> None:
    own = Added()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), own, keras.layers.Dense(2)])
    with precision.autocast(model, "bfloat16"):
        types = [layer.compute_dtype for layer in (model.layers[0], own, own.within)]
        outputs = model(np.ones((3, 4), np.float32), training=True)
    assert types == ["bfloat16", "float32", "float32"]
    assert outputs.dtype == tf.float32


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ([(9, 0)], "bfloat16"),
        ([(8, 0), (8, 9)], "bfloat16"),
        ([(7, 5)], "float16"),
        ([(8, 9), (7, 5)], "float16"),
        ([(6, 1)], "float32"),
        ([(0, 0)], "float32"),
    ],
)
def test_auto_goes_by_the_least_card(capabilities: list[tuple[int, int]], expected: str) -> None:
    assert precision.of_gpus(capabilities) == expected


def test_auto_goes_by_the_units_of_the_processor() -> None:
    assert precision.of_processor("flags\t\t: fpu amx_bf16 avx512_fp16\n") == "bfloat16"
    assert precision.of_processor("flags\t\t: fpu amx_bf16\nbugs\t\t:\n") == "bfloat16"
    assert precision.of_processor("flags\t\t: fpu avx512_bf16\n") == "bfloat16"
    assert precision.of_processor("flags\t\t: fpu avx512f avx512_vnni\n") == "float32"
    assert precision.of_processor("") == "float32"
