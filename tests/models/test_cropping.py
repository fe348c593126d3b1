"""The border that is constant over nearly all training images is cropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer import models
from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Array, Dataset, RawSplits, Spec
from trainer.models import cropping


def spec(images: Array) -> Spec:
    labels = np.arange(len(images)) % 2
    return Dataset.split(RawSplits(train=(images, labels)), seed=0, validation_split=0).spec


def test_the_black_border_of_digits_is_cropped(mnist: Dataset, sharded_digits: Path) -> None:
    assert cropping.border(mnist.spec) == 2
    assert cropping.border(loader.load(DataOptions(data=str(sharded_digits), seed=0)).spec) == 2


def test_a_model_takes_whole_images_and_ignores_their_border(mnist: Dataset) -> None:
    model = models.build(models.find("cnn_fast"), mnist.spec, learning_rate=0.1, steps=9, seed=0)
    images = mnist.test.examples[:3]
    other = images.copy()
    other[:, :2], other[:, -2:], other[:, :, :2], other[:, :, -2:] = 255, 255, 255, 255
    np.testing.assert_array_equal(model(images), model(other))
    other[:, 2, 2] = 255
    assert (np.asarray(model(images)) != np.asarray(model(other))).any(axis=1).all()


@pytest.mark.parametrize("background", [0, 90, 255])
def test_the_border_may_have_any_colour(background: int) -> None:
    images = np.full((40, 40, 60, 3), background, np.uint8)
    images[:, 3:-3, 2:-2] = np.random.default_rng(0).integers(0, 256, (40, 34, 56, 3))
    assert cropping.border(spec(images)) == 2


def test_images_without_a_constant_border_are_not_cropped() -> None:
    images = np.random.default_rng(0).random((40, 30, 30, 1), np.float32)
    assert cropping.border(spec(images)) == 0


def test_at_most_a_tenth_of_a_side_is_cropped() -> None:
    assert cropping.border(spec(np.zeros((40, 30, 50, 1), np.uint8))) == 3
