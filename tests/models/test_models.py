"""The models: looked up by name, as in the reference scripts, and checked before training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fitting import fit
from trainer import models
from trainer.config import Config, DataOptions
from trainer.data import loader
from trainer.data.dataset import Dataset, RawSplits, Split
from trainer.distributed.devices import Devices
from trainer.engine import loop
from trainer.errors import DataError, UsageError
from trainer.models import MODELS, ModelEntry, Recipe
from trainer.runs.metrics import loss_accuracy


@pytest.fixture(scope="session")
def built(digits: Path, sentences: Path) -> dict[str, tuple[keras.Model, Dataset]]:
    """Each registered model with a small data set that it was built for."""
    small = {"mnist": digits, "movie_reviews": sentences}
    pairs = {}
    for name in MODELS:
        model_entry = models.find(name)
        data = loader.load(DataOptions(data=str(small[model_entry.recipe.data]), seed=0))
        pairs[name] = (
            models.build(model_entry, data.spec, learning_rate=0.1, steps=100, seed=0),
            data,
        )
    return pairs


@pytest.mark.parametrize("name", MODELS)
def test_a_model_maps_raw_examples_to_probabilities(
    built: dict[str, tuple[keras.Model, Dataset]], name: str
) -> None:
    model, data = built[name]
    probabilities = np.asarray(model(models.as_input(data.test.examples[:7])))
    assert probabilities.shape == (7, len(data.spec.classes))
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", sorted({*MODELS} - {"ngram"}))  # Its initial weights are zero.
def test_initial_weights_are_a_function_of_the_seed(
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


def describe(layer: keras.Layer) -> tuple[Any, ...]:
    """Returns the type of a layer, and the arguments that the reference scripts set."""
    config = layer.get_config()
    keys = ("units", "filters", "kernel_size", "pool_size", "rate", "activation")
    return (type(layer).__name__, *(config[key] for key in keys if key in config))


REFERENCE_LAYERS = {
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


@pytest.mark.parametrize("name", REFERENCE_LAYERS)
def test_layers_are_those_of_the_reference_scripts(
    built: dict[str, tuple[keras.Model, Dataset]], name: str
) -> None:
    assert [describe(layer) for layer in built[name][0].layers] == REFERENCE_LAYERS[name]


@pytest.mark.parametrize(
    ("name", "optimizer", "batch_size"),
    [("mlp", "RMSprop", 128), ("cnn", "Adam", 128), ("sentiment", "RMSprop", 100)],
)
def test_recipes_are_those_of_the_reference_scripts(
    built: dict[str, tuple[keras.Model, Dataset]], name: str, optimizer: str, batch_size: int
) -> None:
    assert type(built[name][0].optimizer).__name__ == optimizer
    assert float(built[name][0].optimizer.learning_rate) == pytest.approx(0.1)
    assert models.find(name).recipe.batch_size == batch_size


def test_the_small_vocabulary_follows_the_rule_of_the_reference_script(reviews: Dataset) -> None:
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
    """Each word occurs as often as its name says, in texts of ten words."""
    counts = [1, 2, 50, 51, 999, 1000]
    words = [f"word{count}" for count in counts for _ in range(count)]
    texts = [" ".join(words[start : start + 10]) for start in range(0, len(words), 10)]
    examples, labels = np.array(texts, dtype=object), np.arange(len(texts)) % 2
    data = Dataset.split(
        RawSplits(train=(examples, labels), test=(examples, labels)), seed=0, validation_split=0
    )
    model = models.build(models.find(name), data.spec, learning_rate=0.1, steps=100, seed=0)
    vocabulary = model.get_layer(models.PREPROCESS).get_vocabulary(include_special_tokens=False)
    assert sorted(vocabulary) == sorted(f"word{count}" for count in expected)


def test_the_vocabulary_is_that_of_the_training_split_only() -> None:
    texts = np.array(["good film", "bad film", "good play", "bad play"], dtype=object)
    labels = np.array([0, 1, 0, 1])
    secret = np.array(["secret secret secret film"] * 2, dtype=object)
    data = Dataset.split(
        RawSplits(train=(texts, labels), test=(secret, labels[:2])), seed=0, validation_split=0
    )
    model = models.build(models.find("sentiment"), data.spec, learning_rate=0.1, steps=100, seed=0)
    words = model.get_layer(models.PREPROCESS).get_vocabulary(include_special_tokens=False)
    assert sorted(words) == ["bad", "film", "good", "play"]


def ngram_of(texts: list[str], labels: list[int]) -> keras.Model:
    split = (np.array(texts, dtype=object), np.array(labels))
    data = Dataset.split(RawSplits(train=split, test=split), seed=0, validation_split=0)
    return models.build(models.find("ngram"), data.spec, learning_rate=0.1, steps=100, seed=0)


def test_an_ngrams_importance_is_its_log_count_ratio() -> None:
    model = ngram_of(["good film", "good play", "bad film", "bad play"], [0, 0, 1, 1])
    vectorizations = [
        layer
        for layer in model.get_layer(models.PREPROCESS).layers
        if isinstance(layer, keras.layers.TextVectorization)
    ]
    tokens = [token for layer in vectorizations for token in layer.get_vocabulary()]
    importance = model.get_layer("importance").get_weights()[0]
    assert importance.shape == (len(tokens), 1)
    assert sorted(tokens[2:6]) == [
        "bad",
        "film",
        "good",
        "play",
    ]  # "good film" occurs in one text only.
    weight = dict(zip(tokens[:6], importance[:6, 0], strict=True))
    # 2 of the 4 words of one class and 0 of the other, with 1 added to each count.
    assert weight["good"] == pytest.approx(np.log((2 + 1) / (0 + 1)))
    assert weight["film"] == pytest.approx(0)
    # Padding and unknown n-grams have no importance, for words and for characters.
    specials = [number for number, token in enumerate(tokens) if token in ("", "[UNK]")]
    assert len(specials) == 4
    assert not importance[specials].any()


def test_texts_without_a_common_ngram_are_refused() -> None:
    with pytest.raises(DataError, match="no n-gram occurs in 2 training texts"):
        ngram_of(["ab ab", "cd", "ef", "gh"], [0, 0, 1, 1])


def test_texts_without_a_common_word_use_ngrams_of_characters() -> None:
    model = ngram_of(["Ivanov", "Petrov", "Rossi", "Bianchi"], [0, 0, 1, 1])
    assert model.get_layer("importance").get_weights()[0].any()


def test_sentiment_takes_vectors_of_word_counts() -> None:
    path = Path(__file__).parents[1] / "data/files/seed-python2-protocol0.pickle"
    data = loader.load(DataOptions(data=str(path), seed=0, allow_pickle=True))
    model = models.build(models.find("sentiment"), data.spec, learning_rate=0.1, steps=100, seed=0)
    assert [describe(layer)[0] for layer in model.layers] == [
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
def test_an_unknown_model_is_named(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        models.find(name)


def test_data_of_the_wrong_kind_is_refused(reviews: Dataset, mnist: Dataset) -> None:
    with pytest.raises(DataError, match="--model cnn: takes examples of kind image, found texts"):
        models.check_data(models.find("cnn"), reviews.spec)
    with pytest.raises(DataError, match="takes examples of kind text or vector, found images"):
        models.check_data(models.find("sentiment"), mnist.spec)


@pytest.mark.parametrize(("name", "side"), [("cnn", 12), ("cnn_accurate", 14)])
def test_images_too_small_for_a_convolutional_model_are_refused(name: str, side: int) -> None:
    images, labels = np.zeros((20, 11, 28), np.uint8), np.arange(20) % 2
    data = Dataset.split(RawSplits(train=(images, labels)), seed=0, validation_split=0)
    message = f"images of 11x28, expected at least {side}x{side}; --model image"
    with pytest.raises(DataError, match=message):
        models.build(models.find(name), data.spec, learning_rate=0.1, steps=100, seed=0)


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

def auto_settings(spec, config):
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


def test_a_users_model_receives_the_settings_that_it_names(own: ModelEntry, mnist: Dataset) -> None:
    settings = {"width": 4, "depth": None, "epochs": 8, "seed": 1}
    model = models.build(own, mnist.spec, learning_rate=0.1, steps=9, seed=0, settings=settings)
    assert [layer.units for layer in model.layers[1:]] == [4, 4, 4, 10]
    assert model.optimizer.momentum == 1 / 8


def test_a_users_model_may_have_auto_settings(own: ModelEntry, mnist: Dataset) -> None:
    assert models.auto_settings(own, mnist.spec, Config()) == {"epochs": 60_000, "width": 0}
    assert models.auto_settings(own, mnist.spec, Config(epochs=1, depth=2)) == {"width": 4}


def test_a_setting_that_a_model_does_not_have_is_refused(own: ModelEntry) -> None:
    models.check_settings(own, Config(width=3))
    message = "--sequence-length: --model own_model:build has no such setting"
    with pytest.raises(UsageError, match=message):
        models.check_settings(own, Config(sequence_length=3))
    with pytest.raises(UsageError, match="--width: --model cnn has no such setting"):
        models.check_settings(models.find("cnn"), Config(width=3))


def test_a_model_that_requires_an_unknown_setting_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "requiring.py").write_text("def build(spec, *, wings): pass")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="its build requires 'wings', which is not a setting"):
        models.find("requiring:build")


def test_a_callback_that_monitors_validation_needs_a_validation_split() -> None:
    recipe = Recipe(callbacks=lambda: [keras.callbacks.EarlyStopping(monitor="val_loss")])
    model_entry = ModelEntry("m", no_softmax, recipe)
    assert len(models.callbacks(model_entry, validation=True)) == 1
    with pytest.raises(
        UsageError, match=r"EarlyStopping monitors val_loss; give --validation-split"
    ):
        models.callbacks(model_entry, validation=False)


def test_a_model_can_read_the_training_split_only(mnist: Dataset) -> None:
    splits = [value for value in vars(mnist.spec).values() if isinstance(value, Split)]
    assert splits == [mnist.train]


def easy_images() -> RawSplits:
    """Noise of four classes, each with another bright quarter: 240 images to train, 80 to test."""
    rng = np.random.default_rng(0)
    labels = np.arange(320) % 4
    images = rng.integers(0, 100, (320, 28, 28), np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = 14 * (label // 2), 14 * (label % 2)
        image[row : row + 14, column : column + 14] += 100
    return RawSplits(train=(images[:240], labels[:240]), test=(images[240:], labels[240:]))


def easy_texts() -> RawSplits:
    """Random words and one word that depends on the class: 240 texts to train, 80 to test."""
    rng = np.random.default_rng(0)
    labels = np.arange(320) % 2
    words = [f"word{number}" for number in range(20)]
    texts = np.array(
        [" ".join([*rng.choice(words, 6), ("bad", "good")[label]]) for label in labels], object
    )
    return RawSplits(train=(texts[:240], labels[:240]), test=(texts[240:], labels[240:]))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_learns_an_easy_data_set(name: str) -> None:
    """The expected accuracy on test data is 0.25 for images and 0.5 for texts without training."""
    model_entry = models.find(name)
    splits = easy_images() if model_entry.recipe.data == "mnist" else easy_texts()
    data = Dataset.split(splits, seed=0, validation_split=0)
    model = models.build(
        model_entry, data.spec, learning_rate=model_entry.recipe.learning_rate, steps=60, seed=0
    )
    fit(
        model, data.train, epochs=4, batch_size=16, seed=0,
        devices=Devices(tf.distribute.get_strategy()),
        label_smoothing=model_entry.recipe.label_smoothing,
    )  # fmt: skip
    probabilities = loop.predict(model, data.test, batch_size=16)
    accuracy = loss_accuracy(probabilities, data.test.labels)["accuracy"]
    assert accuracy > 0.9
