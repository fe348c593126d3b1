"""First epochs with a backbone that stays as it is, then all of the model."""

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
STEPS = 9  # Of 800 examples in batches of 96.


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


def variables(of: keras.Model) -> list[np.ndarray]:
    return [np.array(v) for v in (*of.variables, *of.optimizer.variables)]


def test_only_what_is_behind_the_backbone_is_trained_in_frozen_epochs(data: Dataset) -> None:
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


def test_the_whole_model_is_trained_behind_them(data: Dataset) -> None:
    trained, untouched = model(), model()
    fit(trained, data, epochs=2, frozen_epochs=1)
    for a, b in zip(
        trained.get_layer(models.BACKBONE).get_weights(),
        untouched.get_layer(models.BACKBONE).get_weights(),
        strict=True,
    ):
        assert (a != b).any()


def test_frozen_epochs_do_what_keras_does_with_a_layer_that_is_not_trainable(
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
    for at in range(0, len(order), 96):
        batch = order[at : at + 96]
        theirs.train_on_batch(data.train.examples[batch], data.train.labels[batch])
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


class Stop(Exception):
    pass


class StopsAt(loop.TrainingHook):
    """Takes a checkpoint after so many steps, and ends the training."""

    def __init__(self, trained: keras.Model, steps: int) -> None:
        self._model, self._left = trained, steps

    def max_steps(self) -> int:
        return 1

    def after_steps(self, state: TrainState, steps: int, *, epoch_end: bool = False) -> None:
        self._left -= steps
        if self._left == 0:
            facts: Any = {"identity": "", "environment": {}, "seconds": 0.0}
            self.checkpoint = state.capture(self._model, [], state, **facts)
            if state.step < STEPS:  # At the end of an epoch, the checkpoint behind it.
                raise Stop


class GoesOn(loop.TrainingHook):
    def __init__(self, trained: keras.Model, checkpoint: Checkpoint) -> None:
        self._model, self._checkpoint = trained, checkpoint

    def restore(self) -> TrainState:
        return state.restore(self._checkpoint, self._model, [], "")


@pytest.mark.parametrize("steps", [2, STEPS, STEPS + 4])
def test_a_run_that_is_resumed_in_either_part_ends_to_the_bit_as_one_that_was_not(
    data: Dataset, steps: int
) -> None:
    whole, stopped, resumed = model(), model(), model()
    fit(whole, data)
    hook = StopsAt(stopped, steps)
    with pytest.raises(Stop):
        fit(stopped, data, hook=hook)
    fit(resumed, data, hook=GoesOn(resumed, hook.checkpoint))
    for a, b in zip(variables(whole), variables(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_frozen_epochs_are_not_augmented(data: Dataset) -> None:
    """Augmented by an error, so that any would be noticed."""

    class Refusing:
        values_per_example = 1

        def __call__(self, examples: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
            raise Stop

    fit(model(), data, epochs=1, frozen_epochs=1, augmentation=Refusing())
    with pytest.raises(Stop):
        fit(model(), data, epochs=2, frozen_epochs=1, augmentation=Refusing())
