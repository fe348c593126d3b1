"""The model for images of any size, and backbones that are fine-tuned."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from trainer import models
from trainer.config import Config
from trainer.config.options import BACKBONES
from trainer.data.dataset import Dataset, RawSplits, Spec
from trainer.errors import DataError
from trainer.models import backbones, image

SMALLEST = "MobileNetV3Small"


def spec(shape: tuple[int, int, int], count: int = 20) -> Spec:
    images = np.random.default_rng(0).integers(0, 256, (20, *shape), np.uint8)
    data = Dataset.split(RawSplits(train=(images, np.arange(20) % 2)), seed=0, validation_split=0)
    return dataclasses.replace(data.spec, sizes={"train": count})


def build(shape: tuple[int, int, int], **settings: Any) -> keras.Model:
    return models.build(
        models.find("image"), spec(shape), learning_rate=0.1, steps=9, seed=0, settings=settings
    )


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 8, 1), (9, 30, 2), (28, 28, 1), (150, 90, 3)])
def test_the_model_takes_images_of_any_size_and_number_of_channels(
    shape: tuple[int, int, int],
) -> None:
    model = build(shape)
    probabilities = np.asarray(model(np.zeros((3, *shape), np.uint8)))
    assert probabilities.shape == (3, 2)


def test_images_of_any_size_have_features_of_about_the_same_size() -> None:
    sides = {}
    for side in (16, 64, 224, 500):
        model = build((side, side, 3), width=4)
        (pooling,) = (
            each for each in model.layers if isinstance(each, keras.layers.GlobalAveragePooling2D)
        )
        sides[side] = pooling.input.shape[1]
    assert sides == {16: 8, 64: 8, 224: 7, 500: 8}


def auto_settings(shape: tuple[int, int, int], count: int, **settings: Any) -> dict[str, Any]:
    return models.auto_settings(models.find("image"), spec(shape, count), Config(**settings))


def test_more_data_gives_larger_networks_and_fewer_epochs() -> None:
    few, mnist, cifar, many = (
        auto_settings((28, 28, 1), 1000),
        auto_settings((28, 28, 1), 60_000),
        auto_settings((32, 32, 3), 50_000),
        auto_settings((128, 128, 3), 100_000),
    )
    assert [each["width"] for each in (few, mnist, cifar, many)] == [16, 16, 32, 64]
    assert [each["depth"] for each in (few, mnist, cifar, many)] == [1, 1, 2, 3]
    epochs = [each["epochs"] for each in (few, mnist, many)]
    assert epochs == sorted(epochs, reverse=True)
    assert few["batch_size"] < mnist["batch_size"]
    assert (mnist["augmentation"], cifar["augmentation"]) == ("shift", "flip")


def test_given_settings_are_not_auto_settings() -> None:
    settings = auto_settings((28, 28, 1), 1000, width=8, epochs=2)
    assert "width" not in settings
    assert "epochs" not in settings
    assert "depth" in settings


def test_the_backbone_flag_accepts_all_networks_of_keras() -> None:
    names = [name for name in dir(keras.applications) if name[0].isupper()]
    assert list(BACKBONES) == names


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[keras.Model, dict[str, Path]]:
    """A network with random weights, in the file formats in which Keras publishes weights."""
    folder = tmp_path_factory.mktemp("weights")
    keras.utils.set_random_seed(1)
    network = getattr(keras.applications, SMALLEST)(
        include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg"
    )
    files = {suffix: folder / f"w{suffix}" for suffix in (".weights.h5", ".keras", ".h5")}
    network.save_weights(files[".weights.h5"])
    network.save(files[".keras"])
    network.save(files[".h5"], include_optimizer=False)
    return network, files


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras", ".h5"])
def test_weights_are_loaded_from_the_file_and_saved_with_the_model(
    published: tuple[keras.Model, dict[str, Path]], suffix: str, tmp_path: Path
) -> None:
    network, files = published
    model = build((32, 32, 3), backbone=SMALLEST, weights=str(files[suffix]))
    inner = model.get_layer(models.BACKBONE)
    for a, b in zip(inner.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    model.save(tmp_path / "model.keras")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_allclose(model(images), loaded(images), atol=1e-6)


@pytest.mark.parametrize(
    "name", [SMALLEST, "MobileNetV2", pytest.param("DenseNet121", marks=pytest.mark.long), "VGG16"]
)
def test_pixels_are_preprocessed_as_the_backbone_requires(name: str) -> None:
    """It differs by family: none, -1 to 1, ImageNet's mean and standard deviation, BGR."""
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    ours = keras.Model(inputs, backbones.features(inputs, spec((32, 32, 3)), name, None))
    function = getattr(keras.applications, name)
    keras.utils.set_random_seed(0)
    theirs = function(include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg")
    theirs.set_weights(ours.get_layer(models.BACKBONE).get_weights())
    pixels = sys.modules[function.__module__].preprocess_input(images.astype(np.float32))
    np.testing.assert_allclose(ours(images), theirs(pixels), rtol=1e-3, atol=1e-5)


def test_small_images_are_enlarged_and_grey_images_get_three_channels() -> None:
    model = build((28, 28, 1), backbone=SMALLEST)
    assert model.get_layer(models.BACKBONE).input.shape == (None, 32, 32, 3)
    assert build((40, 28, 3), backbone="Xception").get_layer(models.BACKBONE).input.shape == (
        None, 71, 71, 3
    )  # fmt: skip


def test_batch_normalization_is_frozen_with_pretrained_weights_only(
    published: tuple[keras.Model, dict[str, Path]],
) -> None:
    _, files = published

    def batch_norm_layers(**settings: Any) -> list[keras.layers.BatchNormalization]:
        inner = build((32, 32, 3), backbone=SMALLEST, **settings).get_layer(models.BACKBONE)
        return [each for each in inner.layers if isinstance(each, keras.layers.BatchNormalization)]

    pretrained = batch_norm_layers(weights=str(files[".weights.h5"]))
    assert not any(each.trainable for each in pretrained)
    assert all(each.trainable and each.momentum <= 0.9 for each in batch_norm_layers())


def test_weights_of_another_network_are_refused(
    published: tuple[keras.Model, dict[str, Path]], tmp_path: Path
) -> None:
    _, files = published
    weights = str(files[".weights.h5"])
    with pytest.raises(DataError, match=f"--weights {weights}: not the weights of MobileNetV2 "):
        build((32, 32, 3), backbone="MobileNetV2", weights=weights)
    (tmp_path / "text.h5").write_text("no weights")
    with pytest.raises(DataError, match="text.h5: not the weights of MobileNetV2 without"):
        build((32, 32, 3), backbone="MobileNetV2", weights=str(tmp_path / "text.h5"))


def test_a_backbone_refuses_images_of_two_channels() -> None:
    with pytest.raises(DataError, match="found images of 2 channels, expected 1 or 3"):
        build((32, 32, 2), backbone=SMALLEST)


def test_the_learning_rate_has_a_second_lower_cycle_after_frozen_epochs() -> None:
    optimizer = image.optimizer(0.01, 100, epochs=10, frozen_epochs=4)
    rates = [float(optimizer._learning_rate(step)) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[39] < 0.0001
    assert rates[40] == pytest.approx(0.001, rel=1e-3)
    assert rates[99] < 0.00001
