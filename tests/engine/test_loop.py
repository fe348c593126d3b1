"""The training loop gives the results of Keras's own, and drives its callbacks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import fitting
from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Dataset
from trainer.distributed.devices import Devices
from trainer.engine import loop
from trainer.engine.train_state import TrainState
from trainer.errors import DivergedError
from trainer.runs.metrics import loss_accuracy


@pytest.fixture(scope="module")
def data(digits: Path) -> Dataset:
    return loader.load(DataOptions(data=str(digits), seed=0, validation_split=0.2))


def small_model(*, learning_rate: float = 0.01, penalty: float = 0.0) -> keras.Model:
    """A network without dropout, so that two ways to train it can be compared."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    regularizer = keras.regularizers.L2(penalty) if penalty else None
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1), dtype="uint8"),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(16, activation="relu", kernel_regularizer=regularizer, name="backbone"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(learning_rate), "sparse_categorical_crossentropy")
    return model


def fit(model: keras.Model, data: Dataset, **settings: Any) -> list[loop.Logs]:
    settings = {"epochs": 2, "batch_size": 96, "seed": 5, "validation": None, **settings}
    validation = settings.pop("validation")
    devices = Devices(tf.distribute.get_strategy(), microbatches=settings.pop("microbatches", 1))
    return fitting.fit(model, data.train, validation, devices=devices, **settings)


@pytest.mark.parametrize("penalty", [0.0, 0.01])
@pytest.mark.parametrize("microbatches", [1, 2, 5])
def test_weights_are_those_of_train_on_batch(
    data: Dataset, penalty: float, microbatches: int
) -> None:
    """Also with the last batch of an epoch, which is smaller."""
    ours, theirs = small_model(penalty=penalty), small_model(penalty=penalty)
    fit(ours, data, microbatches=microbatches)
    for epoch in range(2):
        order = data.train.order(5, epoch)
        for start in range(0, len(order), 96):
            batch = order[start : start + 96]
            theirs.train_on_batch(data.train.examples[batch], data.train.labels[batch])
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("microbatches", [1, 2])
def test_weights_with_class_weights_are_those_of_train_on_batch(
    data: Dataset, microbatches: int
) -> None:
    weights = np.linspace(0.1, 2, 10, dtype=np.float32)
    ours, theirs = small_model(), small_model()
    fit(ours, data, epochs=1, class_weights=weights, microbatches=microbatches)
    order = data.train.order(5, 0)
    for start in range(0, len(order), 96):
        batch = order[start : start + 96]
        theirs.train_on_batch(
            data.train.examples[batch],
            data.train.labels[batch],
            class_weight=dict(enumerate(weights)),
        )
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_weights_with_label_smoothing_are_those_of_train_on_batch(data: Dataset) -> None:
    ours, theirs = small_model(), small_model()
    fit(ours, data, epochs=1, label_smoothing=0.1)
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
    theirs.compile(keras.optimizers.Adam(0.01), loss)
    order = data.train.order(5, 0)
    for start in range(0, len(order), 96):
        batch = order[start : start + 96]
        targets = keras.utils.to_categorical(data.train.labels[batch], 10)
        theirs.train_on_batch(data.train.examples[batch], targets)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


class Flip:
    """Turns images upside down, and records its random values."""

    values_per_example = 3

    def __init__(self) -> None:
        self.uniform: list[np.ndarray] = []

    def __call__(self, examples: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        def record(values: np.ndarray) -> None:
            self.uniform.append(values)

        tf.numpy_function(record, [uniform], [], stateful=True)
        return examples[:, ::-1]


def test_random_values_are_a_function_of_seed_epoch_and_step(data: Dataset) -> None:
    """They depend neither on the steps per execution, nor on where a run was resumed."""

    class OneStep(loop.TrainingHook):
        def max_steps(self) -> int:
            return 1

    class FromSecondEpoch(loop.TrainingHook):
        def restore(self) -> TrainState:
            return TrainState(epoch=1, step=2, loss_sum=1.0, seconds=1.0)

    whole, one, resumed, other = (Flip() for _ in range(4))
    fit(small_model(), data, augmentation=whole)
    fit(small_model(), data, augmentation=one, hook=OneStep())
    fit(small_model(), data, augmentation=resumed, hook=FromSecondEpoch())
    fit(small_model(), data, augmentation=other, seed=6, epochs=1)
    steps = math.ceil(len(data.train) / 96)
    assert [values.shape for values in whole.uniform] == [(96, 3)] * 2 * steps
    drawn = np.array(whole.uniform)
    np.testing.assert_array_equal(drawn, one.uniform)
    np.testing.assert_array_equal(drawn[steps + 2 :], resumed.uniform)
    assert len(np.unique(np.concatenate([drawn.ravel(), np.ravel(other.uniform)]))) > 0.99 * (
        drawn.size + np.size(other.uniform)
    )


def test_examples_are_augmented_in_training_and_nowhere_else(data: Dataset) -> None:
    """A model trained on images upside down is wrong on those that are not."""
    model = small_model()
    trained = fit(model, data, epochs=8, augmentation=Flip(), validation=data.validation)
    assert trained[-1]["accuracy"] > 0.9 > trained[-1]["val_accuracy"] + 0.2


def test_a_run_ends_with_the_moving_averages_of_the_weights(data: Dataset) -> None:
    model = small_model()
    optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    fit(model, data)
    averages = optimizer._model_variables_moving_average
    for weight, average in zip(model.trainable_variables, averages, strict=True):
        np.testing.assert_array_equal(np.array(weight), np.array(average))


def test_the_history_counts_every_example_once(data: Dataset) -> None:
    model = small_model(
        learning_rate=1e-12
    )  # The weights stay, so that the loss can be computed again.
    history = fit(model, data, epochs=1, validation=data.validation)
    expected = loss_accuracy(loop.predict(model, data.train, batch_size=100), data.train.labels)
    assert history[0]["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert history[0]["accuracy"] == expected["accuracy"]
    assert data.validation is not None
    validation = loss_accuracy(
        loop.predict(model, data.validation, batch_size=100), data.validation.labels
    )
    assert history[0]["val_loss"] == validation["loss"]
    assert history[0]["epoch"] == 1


def test_the_speed_is_measured_with_the_clock(data: Dataset) -> None:
    seconds = iter(float(n) for n in range(10_000))
    history = fit(small_model(), data, epochs=1, clock=lambda: next(seconds))
    assert history[0]["examples_per_second"] == len(data.train) / history[0]["seconds"]


def test_the_steps_per_execution_do_not_change_the_result(data: Dataset) -> None:
    slow = iter(float(n) for n in range(10_000))  # Each execution takes a second.
    one_by_one, many = small_model(), small_model()
    histories = [
        fit(one_by_one, data, clock=lambda: next(slow)),
        fit(many, data, clock=lambda: 0.0 + next(slow) * 1e-9),
    ]
    assert [row["loss"] for row in histories[0]] == [row["loss"] for row in histories[1]]
    for a, b in zip(one_by_one.get_weights(), many.get_weights(), strict=True):
        assert (a == b).all()


def test_the_steps_per_execution_grow_to_a_whole_epoch(data: Dataset) -> None:
    """Python waits for the device once per execution."""

    class Recording(loop.TrainingHook):
        steps: list[int] = []

        def after_steps(self, state: TrainState, steps: int, *, epoch_end: bool = False) -> None:
            self.steps.append(0 if epoch_end else steps)

    instant = iter(n * 1e-9 for n in range(10_000))
    fit(small_model(), data, epochs=4, hook=Recording(), clock=lambda: next(instant))
    assert Recording.steps == [1, 2, 4, 2, 0, 8, 1, 0, 9, 0, 9, 0]


def test_an_execution_ends_where_a_checkpoint_is_due(data: Dataset) -> None:
    class EveryFour(loop.TrainingHook):
        ends: list[int] = []

        def max_steps(self) -> int:
            return 4 - sum(self.ends) % 4

        def after_steps(self, state: TrainState, steps: int, *, epoch_end: bool = False) -> None:
            self.ends.append(steps)

    instant = iter(n * 1e-9 for n in range(10_000))
    fit(small_model(), data, epochs=2, hook=EveryFour(), clock=lambda: next(instant))
    finished_steps = np.cumsum(EveryFour.ends)
    assert {4, 8, 12, 16} <= set(finished_steps.tolist())


class Recorder(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.batches: list[int] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.events.append("begin")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.events.append(f"epoch {epoch}: {', '.join(sorted(logs))}")
        self.model.stop_training = epoch == 1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches.append(batch)

    def on_train_end(self, logs: Any = None) -> None:
        self.events.append("end")


def test_keras_callbacks_are_called_and_can_stop_the_training(data: Dataset) -> None:
    recorder = Recorder()
    history = fit(small_model(), data, epochs=5, callbacks=[recorder])
    figures = "accuracy, examples_per_second, learning_rate, loss, seconds"
    assert recorder.events == ["begin", f"epoch 0: {figures}", f"epoch 1: {figures}", "end"]
    assert len(history) == 2
    assert recorder.batches[-1] == 8  # 800 examples in steps of 96.


def test_a_callback_can_stop_the_training_within_an_epoch(data: Dataset) -> None:
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = batch == 2

    model = small_model()
    history = fit(model, data, callbacks=[Stop()])
    assert len(history) == 1
    assert int(model.optimizer.iterations) == 3


def test_a_run_resumed_after_the_last_step_of_an_epoch_begins_no_batch_in_it(data: Dataset) -> None:
    class RecordingBatches(keras.callbacks.Callback):
        batches: list[int] = []

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.batches.append(batch)

    class AtTheEnd(loop.TrainingHook):
        def restore(self) -> TrainState:
            return TrainState(epoch=0, step=9, loss_sum=1.0, seconds=1.0)

    fit(small_model(), data, callbacks=[RecordingBatches()], hook=AtTheEnd())
    assert RecordingBatches.batches == list(range(9))


def test_keras_own_callbacks_work(data: Dataset) -> None:
    model = small_model(learning_rate=0.01)
    stop = keras.callbacks.EarlyStopping(
        monitor="val_loss", patience=0, min_delta=100.0, restore_best_weights=True
    )
    slower = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    history = fit(model, data, epochs=9, callbacks=[stop, slower], validation=data.validation)
    assert len(history) == 2
    assert history[1]["learning_rate"] == pytest.approx(0.0025)


def test_a_loss_that_is_nan_or_infinite_stops_the_run(data: Dataset) -> None:
    with pytest.raises(DivergedError, match=r"the loss became (nan|inf) in epoch 1, step 2"):
        fit(small_model(learning_rate=1e30), data, epochs=5)


def test_dropout_and_order_are_functions_of_the_seed(data: Dataset) -> None:
    def train(seed: int) -> list[np.ndarray]:
        keras.utils.set_random_seed(seed)
        layers = [*small_model().layers, keras.layers.Dropout(0.5), keras.layers.Softmax()]
        model = keras.Sequential([keras.Input((28, 28, 1), dtype="uint8"), *layers])
        model.compile("adam", "sparse_categorical_crossentropy")
        fit(model, data, seed=seed)
        return list(model.get_weights())

    first, again, other = train(1), train(1), train(2)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert not (first[0] == other[0]).all()


@pytest.mark.parametrize("examples", [1, 95, 96, 97, 800])
@pytest.mark.parametrize("microbatches", [1, 2, 3, 4])
def test_batches_hold_every_example_once(examples: int, microbatches: int) -> None:
    order = np.random.default_rng(0).permutation(examples).astype(np.int32)
    indices = loop.batches(order, 96, microbatches)
    assert (indices[indices >= 0] == order).all()
    assert (np.maximum(indices, ~indices) < examples).all()
    assert indices.shape[1] % microbatches == 0
    assert indices.shape[1] < min(96, examples) + microbatches


@pytest.mark.parametrize(
    ("read", "recorded"),
    [
        (lambda params: params["epochs"], True),
        (lambda params: params.get("epochs"), True),
        (lambda params: dict(params), True),
        (lambda params: {**params}, True),
        (lambda params: params.copy(), True),
        (lambda params: list(params.items()), True),
        (lambda params: list(params.values()), True),
        (json.dumps, True),
        (lambda params: params["steps"], False),
        (lambda params: params.get("samples"), False),
        (lambda params: list(params), False),
    ],
)
def test_a_callback_that_reads_the_number_of_epochs_is_noticed(
    read: Callable[[dict[str, Any]], Any], recorded: bool
) -> None:
    params = loop._RecordingParams({"epochs": 3, "steps": 4})
    read(params)
    assert params.epochs_read is recorded
