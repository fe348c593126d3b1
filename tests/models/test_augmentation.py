"""Augmentations are exact, and functions of their random values."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from trainer.models.augmentation import Distort, Flip, Shift


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(5, 7, 9, 3), (3, 28, 28, 1)])
@pytest.mark.parametrize("pixels", [1, 2, 3])
def test_each_image_is_shifted_by_its_own_random_values(
    shape: tuple[int, ...], dtype: type, pixels: int
) -> None:
    images = (np.random.default_rng(0).random(shape) * 255).astype(dtype)
    uniform = np.array([[0, 0], [0.5, 0.5], [0.99, 0.2], [0.2, 0.99], [0.7, 0.1]], np.float32)
    uniform = uniform[: len(images)]
    shifted = Shift(pixels)(tf.constant(images), tf.constant(uniform)).numpy()
    assert shifted.dtype == dtype
    border = (pixels, pixels)
    padded = np.pad(images, ((0, 0), border, border, (0, 0)))
    for number, (row, column) in enumerate((uniform * (2 * pixels + 1)).astype(int)):
        expected = padded[number, row : row + shape[1], column : column + shape[2]]
        np.testing.assert_array_equal(shifted[number], expected)


def test_all_shifts_are_equally_likely() -> None:
    image = np.zeros((10_000, 9, 9, 1), np.uint8)
    image[:, 4, 4] = 1
    uniform = np.random.default_rng(0).random((10_000, 2), np.float32)
    positions = np.argwhere(Shift(1)(tf.constant(image), tf.constant(uniform)).numpy()[..., 0])
    counts = np.unique(positions[:, 1:], axis=0, return_counts=True)[1]
    assert len(counts) == 9
    assert counts.min() > 950


def test_a_distortion_of_zero_does_not_change_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 9, 7, 2), np.uint8)
    uniform = np.random.default_rng(1).random((5, 5), np.float32)
    result = Distort(pixels=0, degrees=0, zoom=0)(tf.constant(images), tf.constant(uniform))
    np.testing.assert_array_equal(result, images)


def test_a_distortion_rotates_shifts_and_zooms() -> None:
    image = np.zeros((1, 9, 9, 1), np.float32)
    image[0, 2, 4] = 1
    maximum = np.float32(1 - 2**-24)  # 2 * maximum - 1 rounds to 1.

    def position(uniform: list[float], **settings: float) -> list[int]:
        distort = Distort(**{"pixels": 0, "degrees": 0, "zoom": 0, **settings})
        result = distort(tf.constant(image), tf.constant([uniform], tf.float32)).numpy()
        return [int(axis) for axis in np.unravel_index(result.argmax(), result.shape)[1:3]]

    half = 0.5
    assert position([half, half, half, half, half]) == [2, 4]
    assert position([maximum, half, half, half, half], degrees=90) == [4, 2]
    assert position([half, half, half, maximum, half], pixels=2) == [2, 2]
    assert position([half, half, half, half, maximum], pixels=2) == [0, 4]
    assert position([half, half, 0, half, half], zoom=0.5) == [0, 4]  # Twice as large.


def test_images_are_flipped_for_values_below_one_half_and_then_shifted() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 7, 3), np.uint8)
    uniform = np.array([[0.5, 0.5, 0.9], [0.5, 0.5, 0.1], [0.0, 0.9, 0.6], [0.0, 0.9, 0.4]])
    flipped = Flip(1)(tf.constant(images), tf.constant(uniform, tf.float32)).numpy()
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    np.testing.assert_array_equal(flipped[0], images[0])
    np.testing.assert_array_equal(flipped[1], images[1, :, ::-1])
    np.testing.assert_array_equal(flipped[2], padded[2, 0:5, 2:9])
    padded_flipped = np.pad(images[3, :, ::-1], ((1, 1), (1, 1), (0, 0)))
    np.testing.assert_array_equal(flipped[3], padded_flipped[0:5, 0:7])
