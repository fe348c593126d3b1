"""A model that is split behind its preprocessing gives the outputs of the whole model."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from trainer import models
from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Split
from trainer.engine.features import FeatureExtractor
from trainer.errors import DataError, DivergedError
from trainer.models import MODELS
from trainer.runtime import memory


@pytest.mark.parametrize("name", MODELS)
def test_features_and_network_give_the_outputs_of_the_model(
    name: str, digits: Path, sentences: Path
) -> None:
    model_entry = models.find(name)
    path = digits if model_entry.recipe.data == "mnist" else sentences
    data = loader.load(DataOptions(data=str(path), seed=0))
    model = models.build(model_entry, data.spec, learning_rate=0.1, steps=100, seed=0)
    features = FeatureExtractor(model)
    whole = np.asarray(model(models.as_input(data.test.examples), training=False))
    np.testing.assert_allclose(features.predict(features.extract(data.test), 100), whole, atol=1e-6)


def test_word_counts_take_one_byte_each(sentences: Path) -> None:
    data = loader.load(DataOptions(data=str(sentences), seed=0))
    model = models.build(models.find("sentiment"), data.spec, learning_rate=0.1, steps=100, seed=0)
    assert FeatureExtractor(model).extract(data.test).dtype == np.uint8


def texts(lengths: list[int]) -> Split:
    examples = np.array(["word " * length for length in lengths], dtype=object)
    return Split(examples, np.zeros(len(examples), np.int32))


def token_ids() -> keras.Model:
    text = keras.Input((), dtype="string")
    ids = keras.layers.TextVectorization(vocabulary=["word"], name=models.PREPROCESS)(text)
    summed = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(3, 2)(ids))
    return keras.Model(text, keras.layers.Softmax()(summed))


def test_sequences_of_all_batches_are_padded_to_one_length() -> None:
    """The layer pads each batch of 1,000 texts to the longest of that batch."""
    ids = FeatureExtractor(token_ids()).extract(texts([1] * 1000 + [5] + [2] * 999))
    assert ids.shape == (2000, 5)
    assert (ids != 0).sum(axis=1).tolist() == [1] * 1000 + [5] + [2] * 999


def test_a_text_that_is_too_long_is_refused_before_memory_runs_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "limit", lambda: 10_000_000)
    with pytest.raises(DataError, match="sequences of up to 3000 tokens takes 6 MB in memory"):
        FeatureExtractor(token_ids()).extract(texts([1] * 1000 + [3000] + [1] * 999))


@pytest.mark.parametrize(
    ("side", "batch_size", "expected"), [(2, 3, 10), (600, 3, 3), (600, 20, 10)]
)
def test_large_examples_are_predicted_in_batches_of_the_batch_size(
    side: int, batch_size: int, expected: int
) -> None:
    model = keras.Sequential(
        [
            keras.Input((side, side, 5)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    features = FeatureExtractor(model)
    sizes = []
    predict = features._predict
    features._predict = lambda inputs: (sizes.append(len(inputs)), predict(inputs))[1]
    assert features.predict(np.ones((10, side, side, 5), np.uint8), batch_size).shape == (10, 2)
    assert max(sizes) == expected


def test_probabilities_that_are_nan_are_refused() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    model.set_weights([np.full((3, 2), np.nan), np.zeros(2)])
    with pytest.raises(DivergedError, match="returns NaN for class probabilities"):
        FeatureExtractor(model).predict(np.ones((4, 3), np.float32), 4)
