"""Models: found by name, faithful to the seed, and from raw examples to probabilities."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from trainer import models
from trainer.config import Config, DataOptions
from trainer.data import loader
from trainer.data.dataset import Dataset, RawSplits, Split
from trainer.errors import DataError, UsageError
from trainer.models import MODELS, ModelEntry, Recipe


@pytest.fixture(scope="session")
def built(digits: Path, sentences: Path) -> dict[str, tuple[keras.Model, Dataset]]:
    """Every registered model, built for a small part of the data it is meant for."""
    small = {"mnist": digits, "movie_reviews": sentences}
    made = {}
    for name in MODELS:
        model_entry = models.find(name)
        data = loader.load(DataOptions(data=str(small[model_entry.recipe.data]), seed=0))
        made[name] = (
            models.build(model_entry, data.spec, learning_rate=0.1, steps=100, seed=0),
            data,
        )
    return made


@pytest.mark.parametrize("name", MODELS)
def test_raw_examples_go_in_and_probabilities_come_out(
    built: dict[str, tuple[keras.Model, Dataset]], name: str
) -> None:
    model, data = built[name]
    answer = np.asarray(model(models.as_input(data.test.examples[:7])))
    assert answer.shape == (7, len(data.spec.classes))
    assert answer.sum(axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", sorted({*MODELS} - {"ngram"}))  # Its weights begin at zero.
def test_a_seed_decides_the_first_weights(
    built: dict[str, tuple[keras.Model, Dataset]], name: str
) -> None:
    model, data = built[name]
    same, other = (
        models.build(models.find(name), data.spec, learning_rate=0.1, steps=100, seed=seed)
        for seed in (0, 1)
    )
    assert all(
        (np.asarray(a) == np.asarray(b)).all()
        for a, b in zip(model.get_weights(), same.get_weights(), strict=True)
    )
    assert not (model.get_weights()[0] == other.get_weights()[0]).all()


def shape_of(layer: keras.Layer) -> tuple[Any, ...]:
    """The settings of a layer that the seed gives."""
    config = layer.get_config()
    keys = ("units", "filters", "kernel_size", "pool_size", "rate", "activation")
    return (type(layer).__name__, *(config[key] for key in keys if key in config))


SEED_LAYERS = {
    "mlp": [
        ("Rescaling",),
        ("Flatten",),
        ("Dense", 512, "relu"),
        ("Dropout", 0.2),
        ("Dense", 512, "relu"),
        ("Dropout", 0.2),
        ("Dense", 10, "softmax"),
    ],
    "cnn": [
        ("Rescaling",),
        ("Conv2D", 32, (6, 6), "relu"),
        ("Conv2D", 20, (6, 6), "relu"),
        ("MaxPooling2D", (2, 2)),
        ("Dropout", 0.25),
        ("Flatten",),
        ("Dense", 128, "relu"),
        ("Dropout", 0.4),
        ("Dense", 10, "softmax"),
    ],
    "sentiment": [
        ("TextVectorization",),
        ("Dense", 200, "relu"),
        ("Dropout", 0.2),
        ("Dense", 2, "softmax"),
    ],
}


@pytest.mark.parametrize("name", SEED_LAYERS)
def test_layers_are_the_seeds(built: dict[str, tuple[keras.Model, Dataset]], name: str) -> None:
    assert [shape_of(layer) for layer in built[name][0].layers] == SEED_LAYERS[name]


@pytest.mark.parametrize(
    ("name", "optimizer", "batch_size"),
    [("mlp", "RMSprop", 128), ("cnn", "Adam", 128), ("sentiment", "RMSprop", 100)],
)
def test_recipes_are_the_seeds(
    built: dict[str, tuple[keras.Model, Dataset]], name: str, optimizer: str, batch_size: int
) -> None:
    assert type(built[name][0].optimizer).__name__ == optimizer
    assert float(built[name][0].optimizer.learning_rate) == pytest.approx(0.1)
    assert models.find(name).recipe.batch_size == batch_size


def test_the_small_vocabulary_follows_the_seeds_rule(reviews: Dataset) -> None:
    model = models.build(
        models.find("sentiment_small"), reviews.spec, learning_rate=0.1, steps=100, seed=0
    )
    words = model.get_layer(models.PREPROCESS).get_vocabulary(include_special_tokens=False)
    assert 330 <= len(words) <= 400
    assert "the" not in words


@pytest.mark.parametrize(
    ("name", "expected"), [("sentiment_small", [51, 999]), ("sentiment", [2, 50, 51, 999, 1000])]
)
def test_the_vocabulary_is_limited_by_counts(name: str, expected: list[int]) -> None:
    """Each word is written as often as it says, over texts of ten words."""
    counts = [1, 2, 50, 51, 999, 1000]
    words = [f"word{count}" for count in counts for _ in range(count)]
    texts = [" ".join(words[at : at + 10]) for at in range(0, len(words), 10)]
    examples, labels = np.array(texts, dtype=object), np.arange(len(texts)) % 2
    data = Dataset.split(
        RawSplits(train=(examples, labels), test=(examples, labels)), seed=0, validation=0
    )
    model = models.build(models.find(name), data.spec, learning_rate=0.1, steps=100, seed=0)
    found = model.get_layer(models.PREPROCESS).get_vocabulary(include_special_tokens=False)
    assert sorted(found) == sorted(f"word{count}" for count in expected)


def test_the_vocabulary_comes_from_the_training_part_only() -> None:
    texts = np.array(["good film", "bad film", "good play", "bad play"], dtype=object)
    labels = np.array([0, 1, 0, 1])
    secret = np.array(["secret secret secret film"] * 2, dtype=object)
    data = Dataset.split(
        RawSplits(train=(texts, labels), test=(secret, labels[:2])), seed=0, validation=0
    )
    model = models.build(models.find("sentiment"), data.spec, learning_rate=0.1, steps=100, seed=0)
    words = model.get_layer(models.PREPROCESS).get_vocabulary(include_special_tokens=False)
    assert sorted(words) == ["bad", "film", "good", "play"]


def ngram_of(texts: list[str], labels: list[int]) -> keras.Model:
    part = (np.array(texts, dtype=object), np.array(labels))
    data = Dataset.split(RawSplits(train=part, test=part), seed=0, validation=0)
    return models.build(models.find("ngram"), data.spec, learning_rate=0.1, steps=100, seed=0)


def test_an_ngrams_importance_is_its_log_count_ratio() -> None:
    model = ngram_of(["good film", "good play", "bad film", "bad play"], [0, 0, 1, 1])
    finders = [
        layer
        for layer in model.get_layer(models.PREPROCESS).layers
        if isinstance(layer, keras.layers.TextVectorization)
    ]
    tokens = [token for finder in finders for token in finder.get_vocabulary()]
    importance = model.get_layer("importance").get_weights()[0]
    assert importance.shape == (len(tokens), 1)
    assert sorted(tokens[2:6]) == [
        "bad",
        "film",
        "good",
        "play",
    ]  # "good film" is in one text only.
    weight = dict(zip(tokens[:6], importance[:6, 0], strict=True))
    # Twice in one class and never in the other, of 4 words in either, each counted once more.
    assert weight["good"] == pytest.approx(np.log((2 + 1) / (0 + 1)))
    assert weight["film"] == pytest.approx(0)
    # Padding and what is not known say nothing, of words nor of characters.
    specials = [number for number, token in enumerate(tokens) if token in ("", "[UNK]")]
    assert len(specials) == 4
    assert not importance[specials].any()


def test_an_ngram_model_knows_what_is_in_two_texts_and_of_training_only() -> None:
    with pytest.raises(DataError, match="no n-gram is in 2 texts of the training part"):
        ngram_of(["ab ab", "cd", "ef", "gh"], [0, 0, 1, 1])


def test_words_that_are_all_different_leave_characters() -> None:
    model = ngram_of(["Ivanov", "Petrov", "Rossi", "Bianchi"], [0, 0, 1, 1])
    assert model.get_layer("importance").get_weights()[0].any()


def test_sentiment_takes_ready_made_counts() -> None:
    path = Path(__file__).parents[1] / "datasets/files/seed-python2-protocol0.pickle"
    data = loader.load(DataOptions(data=str(path), seed=0, allow_pickle=True))
    model = models.build(models.find("sentiment"), data.spec, learning_rate=0.1, steps=100, seed=0)
    assert [shape_of(layer)[0] for layer in model.layers] == [
        "Rescaling", "Dense", "Dropout", "Dense"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cn", r"unknown model 'cn'\. Expected one of: mlp, cnn, "),
        (":build", "unknown model ':build'"),
        (".mine:build", "unknown model '.mine:build'"),
        ("no_such_module:build", "no module named 'no_such_module'"),
        ("trainer.no_such:build", "no module named 'trainer.no_such'"),
        ("trainer.models.cnn:missing", "found no function 'missing'"),
        ("trainer.models.cnn:RECIPE", "found no function 'RECIPE'"),
    ],
)
def test_a_model_that_is_not_there_is_named(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        models.find(name)


def test_data_of_the_wrong_kind_is_refused(reviews: Dataset, mnist: Dataset) -> None:
    with pytest.raises(DataError, match="--model cnn: takes examples of kind image, found texts"):
        models.check_data(models.find("cnn"), reviews.spec)
    with pytest.raises(DataError, match="takes examples of kind text or vector, found images"):
        models.check_data(models.find("sentiment"), mnist.spec)


def test_images_too_small_for_the_cnn_are_refused() -> None:
    images, labels = np.zeros((20, 11, 28), np.uint8), np.arange(20) % 2
    data = Dataset.split(RawSplits(train=(images, labels)), seed=0, validation=0)
    with pytest.raises(DataError, match="images of 11x28, expected at least 12x12"):
        models.build(models.find("cnn"), data.spec, learning_rate=0.1, steps=100, seed=0)


def no_model(spec: Any) -> Any:
    return "model"


def no_softmax(spec: Any) -> keras.Model:
    layers = [keras.Input(spec.shape), keras.layers.Flatten(), keras.layers.Dense(10)]
    return keras.Sequential(layers)


def too_few_classes(spec: Any) -> keras.Model:
    return keras.Sequential([*no_softmax(spec).layers[:1], keras.layers.Dense(2)])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_model, "returned str, expected a keras.Model"),
        (no_softmax, "do not sum to 1"),
        (too_few_classes, r"outputs of shape .2, 2. for 2 examples, expected .* .2, 10."),
    ],
)
def test_a_users_model_is_checked_before_training(
    mnist: Dataset, function: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        models.build(
            ModelEntry("m", function, Recipe()), mnist.spec, learning_rate=0.1, steps=100, seed=0
        )


OWN = """
import keras
from trainer.models import Recipe

def optimizer(learning_rate, steps, *, epochs):
    return keras.optimizers.SGD(learning_rate, momentum=1 / epochs)

RECIPE = Recipe(optimizer=optimizer)

def choose(spec, config):
    return {"epochs": spec.sizes["train"], "width": 2 * (config.depth or 0)}

def build(spec, *, width=5, depth=3):
    layers = [keras.layers.Dense(width) for _ in range(depth)]
    outputs = keras.layers.Dense(len(spec.classes), activation="softmax")
    return keras.Sequential([keras.Input(spec.shape), keras.layers.Flatten(), *layers, outputs])
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelEntry:
    (tmp_path / "own_model.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_model", raising=False)
    return models.find("own_model:build")


def test_a_users_model_is_given_the_settings_that_it_names(own: ModelEntry, mnist: Dataset) -> None:
    settings = {"width": 4, "depth": None, "epochs": 8, "seed": 1}
    model = models.build(own, mnist.spec, learning_rate=0.1, steps=9, seed=0, settings=settings)
    assert [layer.units for layer in model.layers[1:]] == [4, 4, 4, 10]
    assert model.optimizer.momentum == 1 / 8


def test_a_users_model_may_choose_what_nobody_gave(own: ModelEntry, mnist: Dataset) -> None:
    assert models.choose(own, mnist.spec, Config()) == {"epochs": 60_000, "width": 0}
    assert models.choose(own, mnist.spec, Config(epochs=1, depth=2)) == {"width": 4}


def test_a_setting_that_a_model_has_not_is_refused(own: ModelEntry) -> None:
    models.check_settings(own, Config(width=3))
    with pytest.raises(
        UsageError, match="--sequence-length: is no setting of --model own_model:build"
    ):
        models.check_settings(own, Config(length=3))
    with pytest.raises(UsageError, match="--width: is no setting of --model cnn"):
        models.check_settings(models.find("cnn"), Config(width=3))


def test_a_model_that_wants_what_is_no_setting_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wanting.py").write_text("def build(spec, *, wings): pass")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="its build wants 'wings', which is no setting"):
        models.find("wanting:build")


def test_callbacks_may_not_watch_what_is_not_measured() -> None:
    recipe = Recipe(callbacks=lambda: [keras.callbacks.EarlyStopping(monitor="val_loss")])
    model_entry = ModelEntry("m", no_softmax, recipe)
    assert len(models.callbacks(model_entry, validation=True)) == 1
    with pytest.raises(
        UsageError, match=r"EarlyStopping watches val_loss; give --validation-split"
    ):
        models.callbacks(model_entry, validation=False)


def test_a_model_cannot_see_more_than_the_training_part(mnist: Dataset) -> None:
    splits = [value for value in vars(mnist.spec).values() if isinstance(value, Split)]
    assert splits == [mnist.train]
