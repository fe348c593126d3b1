"""What is cropped is what is the same in nearly all training images."""

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


def test_digits_lose_the_border_that_is_black_in_nearly_all(
    mnist: Dataset, sharded_digits: Path
) -> None:
    assert cropping.border(mnist.spec) == 2
    assert cropping.border(loader.load(DataOptions(data=str(sharded_digits), seed=0)).spec) == 2


def test_a_network_is_given_what_is_within_and_takes_whole_images(mnist: Dataset) -> None:
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


def test_nothing_is_taken_off_where_all_of_an_image_varies() -> None:
    images = np.random.default_rng(0).random((40, 30, 30, 1), np.float32)
    assert cropping.border(spec(images)) == 0


def test_no_more_than_a_tenth_is_taken_off() -> None:
    assert cropping.border(spec(np.zeros((40, 30, 50, 1), np.uint8))) == 3
