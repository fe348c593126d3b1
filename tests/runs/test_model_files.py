"""Tests that the files of a model give the same outputs as the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fitting import fit
from trainer import models
from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Spec
from trainer.distributed.devices import Devices
from trainer.engine import loop
from trainer.models import MODELS, ModelEntry, Recipe
from trainer.runs import filenames, model_files


def augmenting(spec: Spec) -> keras.Model:
    layers = keras.layers
    body = [
        layers.RandomTranslation(0.3, 0.3),
        layers.Rescaling(1 / 255),
        layers.Flatten(),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        layers.Dense(len(spec.classes), activation="softmax"),
    ]
    return keras.Sequential([keras.Input(spec.shape, dtype=spec.dtype), *body])


def augmenting_within(spec: Spec) -> keras.Model:
    layers = keras.layers
    images = keras.Input(spec.shape, dtype=spec.dtype)
    augmented = keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.3)])(images)
    features = layers.BatchNormalization()(layers.Flatten()(augmented))
    classes = layers.Dense(len(spec.classes), activation="softmax")
    return keras.Model(images, classes(layers.Dropout(0.5)(features)))


@pytest.mark.parametrize("function", [augmenting, augmenting_within])
def test_augmentation_layers_are_inactive_in_saved_models(
    function: Callable[[Spec], keras.Model], digits: Path, tmp_path: Path
) -> None:
    data = loader.load(DataOptions(data=str(digits), seed=0))
    model_entry = ModelEntry("mine:build", function, Recipe())
    model = models.build(model_entry, data.spec, learning_rate=0.01, steps=100, seed=0)
    devices = Devices(tf.distribute.get_strategy())
    fit(model, data.train, None, epochs=1, batch_size=50, seed=0, devices=devices)
    expected = loop.predict(model, data.test, batch_size=100)
    model_files.write(model, tmp_path)
    saved = tf.saved_model.load(tmp_path / filenames.SAVED_MODEL)
    files = (tmp_path / filenames.MODEL_KERAS, tmp_path / filenames.MODEL_H5)
    loaded = map(keras.models.load_model, files)
    outputs = saved.serve(data.test.examples)[models.OUTPUT]
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    for function in (model, *loaded):
        np.testing.assert_allclose(function(data.test.examples), expected, atol=1e-5)
    training_outputs = model(data.test.examples, training=True)
    assert np.abs(training_outputs - expected).max() > 0.1


SLOW = ("image", "ngram")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.long) if name in SLOW else name for name in MODELS],
)
def test_every_file_gives_the_outputs_of_the_trained_model(
    name: str, digits: Path, sentences: Path, tmp_path: Path
) -> None:
    model_entry = models.find(name)
    path = digits if model_entry.recipe.data == "mnist" else sentences
    data = loader.load(DataOptions(data=str(path), seed=0))
    model = models.build(model_entry, data.spec, learning_rate=0.01, steps=100, seed=0)
    model_files.check_saveable(model, name)
    devices = Devices(tf.distribute.get_strategy())
    train = data.subsample(300, seed=0).train
    fit(model, train, None, epochs=1, batch_size=50, seed=0, devices=devices)
    expected = loop.predict(model, data.test, batch_size=100)
    model_files.write(model, tmp_path)

    raw = models.as_input(data.test.examples)
    saved = tf.saved_model.load(tmp_path / filenames.SAVED_MODEL)
    signature = saved.signatures["serving_default"]
    assert list(signature.structured_input_signature[1]) == [data.spec.kind]
    assert list(signature.structured_outputs) == ["probabilities"]
    loaded = keras.models.load_model(tmp_path / filenames.MODEL_KERAS)
    assert [tensor.name for tensor in loaded.inputs] == [data.spec.kind]
    assert loaded.layers[-1].name == "probabilities"
    assert type(loaded.optimizer) is type(model.optimizer)
    for ours, theirs in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    outputs = {
        filenames.MODEL_KERAS: loaded(raw),
        filenames.MODEL_H5: keras.models.load_model(tmp_path / filenames.MODEL_H5)(raw),
        filenames.SAVED_MODEL: saved.serve(raw)[models.OUTPUT],
    }
    for name, output in outputs.items():
        np.testing.assert_allclose(output, expected, atol=1e-6, err_msg=name)


def test_the_names_of_input_and_output_do_not_depend_on_earlier_models(
    digits: Path, tmp_path: Path
) -> None:
    spec = loader.load(DataOptions(data=str(digits), seed=0)).spec
    model_entry = ModelEntry("mine:build", augmenting, Recipe())
    for number in range(2):
        model = models.build(model_entry, spec, learning_rate=0.01, steps=100, seed=0)
        (tmp_path / str(number)).mkdir()
        model_files.write(model, tmp_path / str(number))
        saved = tf.saved_model.load(tmp_path / str(number) / filenames.SAVED_MODEL)
        for signature in saved.signatures.values():
            assert list(signature.structured_input_signature[1]) == ["image"]
            assert list(signature.structured_outputs) == ["probabilities"]
