"""The files of a model answer as the model itself does."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import datasets, models
from trainer.engine import loop
from trainer.engine.devices import Devices
from trainer.models import MODELS
from trainer.results import exports, names


@pytest.mark.parametrize("name", MODELS)
def test_every_export_answers_as_the_training_graph(
    name: str, digits: Path, sentences: Path, tmp_path: Path
) -> None:
    definition = models.find(name)
    path = digits if definition.recipe.data == "mnist" else sentences
    data = datasets.load(str(path), seed=0)
    model = models.build(definition, data.spec, learning_rate=0.01, steps=100, seed=0)
    exports.rehearse(model, name)
    here = Devices(tf.distribute.get_strategy())
    loop.fit(model, data.train, None, epochs=1, batch_size=50, seed=0, devices=here)
    expected = loop.predict(model, data.test, batch_size=100)
    exports.write(model, tmp_path)

    raw = models.as_input(data.test.examples)
    saved = tf.saved_model.load(tmp_path / names.SAVED_MODEL)
    loaded = keras.models.load_model(tmp_path / names.MODEL_KERAS)
    assert type(loaded.optimizer) is type(model.optimizer)
    for ours, theirs in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    answers = {
        names.MODEL_KERAS: loaded(raw),
        names.MODEL_H5: keras.models.load_model(tmp_path / names.MODEL_H5)(raw),
        names.SAVED_MODEL: saved.serve(raw),
    }
    for form, answer in answers.items():
        np.testing.assert_allclose(answer, expected, atol=1e-6, err_msg=form)
