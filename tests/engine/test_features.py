"""A model cut behind its preprocessing is still the same model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer import datasets, models
from trainer.engine.features import Features
from trainer.models import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_the_parts_give_what_the_whole_gives(name: str, digits: Path, sentences: Path) -> None:
    definition = models.find(name)
    path = digits if definition.recipe.data == "mnist" else sentences
    data = datasets.load(str(path), seed=0)
    model = models.build(definition, data.spec, learning_rate=0.1, steps=100, seed=0)
    features = Features(model)
    whole = np.asarray(model(models.as_input(data.test.examples), training=False))
    np.testing.assert_allclose(features.predict(features.of(data.test)), whole, atol=1e-6)


def test_word_counts_take_a_byte_each(sentences: Path) -> None:
    data = datasets.load(str(sentences), seed=0)
    model = models.build(models.find("sentiment"), data.spec, learning_rate=0.1, steps=100, seed=0)
    assert Features(model).of(data.test).dtype == np.uint8
