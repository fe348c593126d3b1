"""The compiled training steps: their placement on a GPU, checked without one, and XLA."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

from tests.fitting import fit
from trainer import models
from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Dataset, Split
from trainer.distributed.devices import Devices, translate_errors
from trainer.engine import train_function
from trainer.engine.features import FeatureExtractor
from trainer.errors import DeviceError
from trainer.models import augmentation

# A TensorFlow with CUDA knows which inputs and outputs of its GPU kernels are in the host's memory,
# also on a machine without a GPU.
NEEDS_CUDA = pytest.mark.skipif(not tf.test.is_built_with_cuda(), reason="TensorFlow has no CUDA")

# Ops that compute nothing.
NO_COMPUTATION = {"Placeholder", "NoOp"}


def load(name: str, digits: Path, sentences: Path) -> tuple[keras.Model, Dataset]:
    model_entry = models.find(name)
    path = digits if model_entry.recipe.data == "mnist" else sentences
    data = loader.load(DataOptions(data=str(path), seed=0))
    return models.build(model_entry, data.spec, learning_rate=1e-3, steps=9, seed=0), data


def loop_body(name: str, model: keras.Model, data: Dataset, **settings: Any) -> tf.Graph:
    """Returns the graph of one step, from the loop over the steps of an execution."""
    devices = Devices(tf.distribute.get_strategy(), **{"xla": True, **settings})
    step_config = train_function.TrainStepConfig(0.0, models.find(name).recipe.augmentation)
    run_steps: Any = train_function.make_train_function(
        FeatureExtractor(model),
        data.train,
        model.optimizer,
        step_config,
        devices,
    )
    graph = run_steps._run.get_concrete_function().graph
    (loop_op,) = [op for op in graph.get_operations() if op.type == "While"]
    return graph._get_function(loop_op.get_attr("body").name).graph


def gpu_kernel(op: tf.Operation) -> Any:
    """Returns the kernel that runs an op on a GPU; None if it would run on the CPU."""
    for kernel in kernels.get_registered_kernels_for_op(op.type).kernel:
        fits = all(
            op.get_attr(limit.name).as_datatype_enum in limit.allowed_values.list.type
            for limit in kernel.constraint
            if isinstance(op.get_attr(limit.name), tf.DType)
        )
        if kernel.device_type in ("GPU", "DEFAULT") and fits:
            return kernel
    return None


def in_host_memory(op: tf.Operation, arguments: Any, tensors: Any) -> Iterator[bool]:
    """Yields for each input or output of an op whether it is in the host's memory."""
    if op.device.endswith("CPU:0"):
        yield from [True] * len(tensors)
        return
    kernel = gpu_kernel(op)
    on_host = set() if kernel is None else set(kernel.host_memory_arg)
    names: list[str] = []
    for argument in arguments:
        count = op.get_attr(argument.number_attr) if argument.number_attr else 1
        count = len(op.get_attr(argument.type_list_attr)) if argument.type_list_attr else count
        names += [argument.name] * count
    for name, tensor in zip(names, tensors, strict=True):
        # An argument or result of a function is on the host exactly if it is int32.
        crosses = op.type in ("Placeholder", "StatefulPartitionedCall", "Identity")
        yield tensor.dtype == tf.int32 if crosses else name in on_host


def transfers(graph: tf.Graph) -> list[str]:
    """Returns the tensors that are copied between host and device in each step."""
    source_on_host = {
        tensor.name: on_host
        for op in graph.get_operations()
        for tensor, on_host in zip(
            op.outputs, in_host_memory(op, op.op_def.output_arg, op.outputs), strict=True
        )
    }
    copies = []
    for op in graph.get_operations():
        if op.type in NO_COMPUTATION:
            continue
        target_on_host = in_host_memory(op, op.op_def.input_arg, op.inputs)
        for tensor, on_host in zip(op.inputs, target_on_host, strict=True):
            handle = tensor.dtype in (tf.resource, tf.variant)
            if source_on_host[tensor.name] != on_host and not handle:
                copies.append(f"{tensor.op.type} {tensor.name} -> {op.type} {op.name}")
    return copies


@NEEDS_CUDA
@pytest.mark.parametrize("name", ["mlp", "cnn_fast", "cnn_accurate", "sentiment_small", "ngram"])
def test_a_step_stays_on_the_gpu(
    name: str, digits: Path, sentences: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(augmentation, "_on_gpu", lambda: True)
    graph = loop_body(name, *load(name, digits, sentences))
    operations = [op for op in graph.get_operations() if op.type not in NO_COMPUTATION]
    assert [op.type for op in operations if gpu_kernel(op) is None] == []
    assert transfers(graph) == []
    # The whole network is in one call, which XLA must compile.
    calls = [op for op in operations if op.type == "StatefulPartitionedCall"]
    assert [op.get_attr("_XlaMustCompile") for op in calls] == [True]
    # Data is gathered from variables, which are on the same device as the step.
    assert [op.type for op in operations if "Gather" in op.type] == ["ResourceGather"] * 2


@NEEDS_CUDA
def test_transfers_are_detected(digits: Path, sentences: Path) -> None:
    """With data on the host, a batch is copied; with dropout outside of XLA, its seed."""
    model, data = load("mlp", digits, sentences)
    small = loop_body("mlp", model, data, memory_bytes=2 * data.train.examples.nbytes - 1)
    on_host, on_gpu = [op for op in small.get_operations() if "Gather" in op.type]
    assert (on_host.type, on_gpu.type) == ("GatherV2", "ResourceGather")
    # On a GPU, the gather would need a copy of all examples.
    assert on_host.device.endswith("CPU:0")
    copies = transfers(small)
    assert len(copies) == 2
    assert copies[0].endswith(f"-> GatherV2 {on_host.name}")
    assert copies[1].startswith(f"GatherV2 {on_host.name}")
    assert transfers(loop_body("mlp", model, data, xla=False)) != []


@pytest.mark.parametrize(
    ("name", "tolerance"),
    # XLA draws different random numbers for dropout.
    [
        ("mlp", 0.05),
        ("cnn_fast", 2e-3),
        ("sentiment_small", 0.05),
        pytest.param("ngram", 2e-3, marks=pytest.mark.long),
    ],
)
def test_losses_with_xla_are_those_without(
    name: str, tolerance: float, digits: Path, sentences: Path
) -> None:
    recipe = models.find(name).recipe
    losses = []
    for xla in (False, True):
        model, data = load(name, digits, sentences)
        train = Split(data.train.examples[:300], data.train.labels[:300])
        history = fit(
            model,
            train,
            None,
            epochs=3,
            batch_size=128,
            seed=0,
            devices=Devices(tf.distribute.get_strategy(), xla=xla),
            label_smoothing=recipe.label_smoothing,
            augmentation=recipe.augmentation,
        )
        losses.append([row["loss"] for row in history])
    assert losses[0] == pytest.approx(losses[1], rel=tolerance)
    assert losses[0][2] < losses[0][0]


def test_xla_is_off_for_texts(sentences: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = loader.load(DataOptions(data=str(sentences), seed=0))
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((), dtype="string"),
            layers.TextVectorization(vocabulary=["good", "bad"], output_mode="multi_hot"),
            layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    fit(
        model, data.train, None, epochs=1, batch_size=128, seed=0,
        devices=Devices(tf.distribute.get_strategy(), xla=True),
    )  # fmt: skip
    assert "XLA is off: the network takes texts" in caplog.text


class InPython(keras.layers.Layer):
    """Computes in Python, which XLA does not support."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(
            tf.numpy_function(lambda values: values, [inputs], tf.float32), inputs.shape
        )


def test_an_error_of_xla_is_one_line(digits: Path) -> None:
    data = loader.load(DataOptions(data=str(digits), seed=0))
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            InPython(),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    devices = Devices(tf.distribute.get_strategy(), xla=True)
    message = r"--xla: .*PyFunc.*; give --xla off$"
    with pytest.raises(DeviceError, match=message), translate_errors():
        fit(model, data.train, None, epochs=1, batch_size=128, seed=0, devices=devices)


def test_random_values_differ_in_each_step() -> None:
    drawn = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        key, counters = train_function.epoch_rng(seed, epoch, 5)
        for counter in counters:
            drawn.append(
                tf.raw_ops.StatelessRandomUniformV2(
                    shape=[1000], key=key, counter=counter, alg=1
                ).numpy()
            )
    assert len(np.unique(drawn)) > 0.99 * np.size(drawn)
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.02)


def test_random_numbers_are_the_same_on_every_machine() -> None:
    key, counters = train_function.epoch_rng(7, 2, 4)
    drawn = tf.raw_ops.StatelessRandomUniformV2(shape=[3], key=key, counter=counters[3], alg=1)
    assert key.tolist() == [18279110831140952437]
    np.testing.assert_array_equal(
        drawn, np.float32([0.5721423625946045, 0.4757145643234253, 0.6830878257751465])
    )
