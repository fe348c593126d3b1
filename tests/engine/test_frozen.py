"""The backbone is frozen in the first epochs; then all layers are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import fitting
from trainer import models
from trainer.checkpoint import state
from trainer.checkpoint.state import Checkpoint
from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Dataset
from trainer.distributed.devices import Devices
from trainer.engine import loop
from trainer.engine.train_state import TrainState

layers = keras.layers
STEPS = 9  # Per epoch: 800 examples in batches of 96.


@pytest.fixture(scope="module")
def data(digits: Path) -> Dataset:
    return loader.load(DataOptions(data=str(digits), seed=0, validation_split=0.2))


def model() -> keras.Model:
    keras.utils.set_random_seed(3)
    inner = [layers.Flatten(), layers.Dense(16), layers.BatchNormalization(), layers.ReLU()]
    images = keras.Input((28, 28, 1), dtype="uint8")
    backbone = keras.Sequential([keras.Input((28, 28, 1)), *inner], name=models.BACKBONE)
    features = backbone(layers.Rescaling(1 / 255)(images))
    outputs = layers.Dense(10, activation="softmax")(layers.Dropout(0.2)(features))
    built = keras.Model(images, outputs)
    built.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return built


def fit(trained: keras.Model, data: Dataset, **settings: Any) -> list[loop.Logs]:
    settings = {"epochs": 2, "frozen_epochs": 1, "batch_size": 96, "seed": 5, **settings}
    here = Devices(tf.distribute.get_strategy())
    return fitting.fit(trained, data.train, data.validation, devices=here, **settings)


def variables(model: keras.Model) -> list[np.ndarray]:
    return [np.array(v) for v in (*model.variables, *model.optimizer.variables)]


def test_only_layers_behind_the_backbone_are_trained_in_frozen_epochs(data: Dataset) -> None:
    trained, untouched = model(), model()
    history = fit(trained, data, epochs=2, frozen_epochs=2)
    for a, b in zip(
        trained.get_layer(models.BACKBONE).get_weights(),
        untouched.get_layer(models.BACKBONE).get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    assert history[1]["loss"] < history[0]["loss"]
    assert history[1]["val_loss"] < history[0]["val_loss"]
    assert int(trained.optimizer.iterations) == 2 * STEPS


def test_the_whole_model_is_trained_after_frozen_epochs(data: Dataset) -> None:
    trained, untouched = model(), model()
    fit(trained, data, epochs=2, frozen_epochs=1)
    for a, b in zip(
        trained.get_layer(models.BACKBONE).get_weights(),
        untouched.get_layer(models.BACKBONE).get_weights(),
        strict=True,
    ):
        assert (a != b).any()


def test_frozen_epochs_give_the_weights_of_keras_with_a_layer_that_is_not_trainable(
    data: Dataset,
) -> None:
    def without_dropout() -> keras.Model:
        built = model()
        for layer in built.layers:
            if isinstance(layer, layers.Dropout):
                layer.rate = 0.0
        return built

    ours, theirs = without_dropout(), without_dropout()
    fit(ours, data, epochs=1, frozen_epochs=1)
    theirs.get_layer(models.BACKBONE).trainable = False
    theirs.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    order = data.train.order(5, 0)
    for start in range(0, len(order), 96):
        batch = order[start : start + 96]
        theirs.train_on_batch(data.train.examples[batch], data.train.labels[batch])
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


class Stop(Exception):
    pass


class StopsAt(loop.TrainingHook):
    """Takes a checkpoint after a number of steps, and stops the training."""

    def __init__(self, trained: keras.Model, steps: int) -> None:
        self._model, self._remaining = trained, steps

    def max_steps(self) -> int:
        return 1

    def after_steps(self, train_state: TrainState, steps: int, *, epoch_end: bool = False) -> None:
        self._remaining -= steps
        if self._remaining == 0:
            metadata: Any = {"identity": {}, "environment": {}, "seconds": 0.0}
            self.checkpoint = state.capture(self._model, [], train_state, **metadata)
            if train_state.step < STEPS:  # After the last step, the epoch end follows.
                raise Stop


class Resumes(loop.TrainingHook):
    def __init__(self, trained: keras.Model, checkpoint: Checkpoint) -> None:
        self._model, self._checkpoint = trained, checkpoint

    def restore(self) -> TrainState:
        return state.restore(self._checkpoint, self._model, [])


@pytest.mark.parametrize("steps", [2, STEPS, STEPS + 4])
def test_a_run_resumed_before_or_after_the_backbone_is_unfrozen_is_bit_identical(
    data: Dataset, steps: int
) -> None:
    whole, stopped, resumed = model(), model(), model()
    fit(whole, data)
    hook = StopsAt(stopped, steps)
    with pytest.raises(Stop):
        fit(stopped, data, hook=hook)
    fit(resumed, data, hook=Resumes(resumed, hook.checkpoint))
    for a, b in zip(variables(whole), variables(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_frozen_epochs_are_not_augmented(data: Dataset) -> None:
    """The augmentation raises an error, so that any use of it fails."""

    class Refusing:
        values_per_example = 1

        def __call__(self, examples: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
            raise Stop

    fit(model(), data, epochs=1, frozen_epochs=1, augmentation=Refusing())
    with pytest.raises(Stop):
        fit(model(), data, epochs=2, frozen_epochs=1, augmentation=Refusing())
