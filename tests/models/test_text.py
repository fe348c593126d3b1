"""The model for texts of any kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from trainer import models
from trainer.config import Config, DataOptions
from trainer.data import loader
from trainer.data.dataset import Dataset, RawSplits
from trainer.models import text
from trainer.models.sentiment import splitting


def data_of(texts: list[str]) -> Dataset:
    split = (np.array(texts, dtype=object), np.arange(len(texts)) % 2)
    return Dataset.split(RawSplits(train=split, test=split), seed=0, validation_split=0)


def build(data: Dataset, **settings: Any) -> keras.Model:
    return models.build(
        models.find("text"), data.spec, learning_rate=0.1, steps=9, seed=0, settings=settings
    )


def test_the_sequence_length_is_that_of_nearly_all_texts() -> None:
    texts = ["word " * length for length in (*range(1, 100), 5000)]
    settings = models.auto_settings(models.find("text"), data_of(texts).spec, Config())
    assert settings["sequence_length"] == 98
    long = data_of(["word " * 1000] * 4)
    assert models.auto_settings(models.find("text"), long.spec, Config())["sequence_length"] == 400


def test_ngram_has_its_own_hyperparameters(sentences: Path) -> None:
    spec = loader.load(DataOptions(data=str(sentences), seed=0)).spec
    recipe = models.find("ngram").recipe
    settings = models.auto_settings(models.find("text"), spec, Config(architecture="ngram"))
    assert settings == recipe.hyperparameters()
    others = models.auto_settings(models.find("text"), spec, Config(architecture="ngram", epochs=2))
    assert others == {"batch_size": recipe.batch_size, "learning_rate": recipe.learning_rate}


def test_the_vocabulary_is_the_most_frequent_training_words() -> None:
    data = data_of(["a a a a b b", "b c c c c", "d", "a b c"])
    vectorization = build(data, max_tokens=2).get_layer(models.PREPROCESS)
    assert vectorization.get_vocabulary(include_special_tokens=False) == ["c", "a"]


def test_words_after_the_sequence_length_are_ignored() -> None:
    model = build(data_of(["a b c d", "b a d c"] * 2), sequence_length=3, width=4, depth=1)
    texts = np.array(["a b c d", "a b c a", "a b d d"], dtype=object)
    first, same, other = np.asarray(model(models.as_input(texts)))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


@pytest.mark.parametrize("text", ["", "  ", "unknown", "a" * 10_000])
def test_any_text_has_probabilities(text: str) -> None:
    model = build(data_of(["a b", "b a"] * 2), sequence_length=3, width=4, depth=1)
    probabilities = np.asarray(model(models.as_input(np.array([text], dtype=object))))
    assert probabilities.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "texts",
    [
        ["这部电影很好看", "这部电影很难看", "演员很好", "故事很难看"],
        ["とても良い映画です", "とても悪い映画です"],
        ["หนังเรื่องนี้ดีมาก", "หนังเรื่องนี้แย่มาก"],
    ],
)
def test_texts_without_spaces_are_split_into_characters(texts: list[str]) -> None:
    data = data_of(texts * 10)
    assert splitting(texts) == "character"
    assert text.auto_settings(data.spec, Config(model="text"))["sequence_length"] > 3
    model = build(data)
    layer = model.get_layer("preprocess")
    assert all(len(word) == 1 for word in layer.get_vocabulary()[2:])
    assert {texts[0][0], texts[0][-1]} <= set(layer.get_vocabulary())


@pytest.mark.parametrize(
    "texts", [["고양이가 좋다", "나쁜 영화"], ["ok", "no"], ["🎉🎉", "😀"], ["Straße"]]
)
def test_other_texts_are_split_at_spaces(texts: list[str]) -> None:
    assert splitting(texts) == "whitespace"
