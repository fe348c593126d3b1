"""Tests of inputs of a trained model: each becomes an example or a one-line error."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.formats.test_images import encoded
from trainer.data.dataset import Dataset
from trainer.data.inputs import InputSignature
from trainer.errors import DataError, Location

GREY = InputSignature(kind="image", shape=(2, 3, 1), dtype="uint8", low=0, high=255)
COLOUR = InputSignature(kind="image", shape=(2, 3, 3), dtype="uint8", low=0, high=255)
UNIT = InputSignature(kind="image", shape=(2, 3, 1), dtype="float32", low=0, high=1)
VECTOR = InputSignature(kind="vector", shape=(3,), dtype="float32", low=-2, high=2)
BYTES = InputSignature(kind="vector", shape=(3,), dtype="uint8", low=0, high=9)
TEXT = InputSignature(kind="text", shape=(), dtype="string", low=0, high=0)


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.array(pixels, np.uint8)).save(file, "png")
    return file.getvalue()


def test_a_signature_is_restored_from_json(mnist: Dataset) -> None:
    signature = InputSignature.from_spec(mnist.spec)
    content = json.dumps(dataclasses.asdict(signature))
    assert InputSignature.from_dict(json.loads(content)) == signature


@pytest.mark.parametrize(
    "change",
    [{"kind": "sound"}, {"shape": [28]}, {"shape": 3}, {"dtype": "int7"}, {"low": "a"}, {"x": 1}],
)
def test_an_invalid_signature_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="input"):
        InputSignature.from_dict({**dataclasses.asdict(GREY), **change})


def test_numbers_and_image_files_give_the_same_example() -> None:
    pixels = [[0, 128, 255], [1, 2, 3]]
    expected = np.array(pixels, np.uint8)[..., np.newaxis]
    content = png(pixels)
    encoded = {"b64": base64.b64encode(content).decode()}
    for example in (
        GREY.from_json(pixels),
        GREY.from_json(expected.tolist()),
        GREY.from_json(encoded),
        GREY.from_image(content, Location("a.png")),
    ):
        np.testing.assert_array_equal(example, expected, strict=True)
    np.testing.assert_array_equal(COLOUR.from_json(encoded), np.repeat(expected, 3, axis=2))
    np.testing.assert_array_equal(UNIT.from_json(encoded), np.float32(expected) / 255, strict=True)


def test_an_image_gets_the_size_and_channels_of_the_training_images() -> None:
    large = np.zeros((20, 30, 3), np.uint8)
    large[:10, :10] = (255, 0, 0)
    example = GREY.from_image(png(large), Location("a.png"))
    assert example.shape == (2, 3, 1)
    assert example[0, 0, 0] == 76  # The luma of pure red in Rec. 601.
    assert example.sum() == 76


def test_texts_and_vectors_become_examples() -> None:
    assert TEXT.from_json("déjà vu")[()] == "déjà vu"
    np.testing.assert_array_equal(VECTOR.from_json([1, 2.5, -3]), np.float32([1, 2.5, -3]))
    stacked = TEXT.stack([TEXT.from_text("a"), TEXT.from_text("b b")])
    np.testing.assert_array_equal(stacked, np.array(["a", "b b"], object))
    assert VECTOR.stack([VECTOR.from_json([1, 2, 3])] * 2).shape == (2, 3)


@pytest.mark.parametrize(
    ("signature", "value", "message"),
    [
        (GREY, [[0, 0, 256], [0, 0, 0]], "found 256, expected an image of 2x3x1 whole numbers"),
        (GREY, [[0, 0, -1], [0, 0, 0]], "found -1"),
        (GREY, [[0, 0, 0.5], [0, 0, 0]], "found 0.5"),
        (GREY, [[0, 0, float("nan")], [0, 0, 0]], "found nan"),
        (GREY, [[0, 0], [0, 0]], r"shape \(2, 2\)"),
        (GREY, [[0, 0, 0], [0]], "unequal lengths"),
        (GREY, [[True] * 3] * 2, "not a number"),
        (GREY, [[True, 1, 1]] * 2, "not a number"),
        (GREY, [["a" * 10_000_000, *["b"] * 1_000_000]], "not a number"),
        (GREY, [[2**63] * 3] * 2, "found 9.2"),
        (GREY, [["1"] * 3] * 2, "not a number"),
        (GREY, [[None] * 3] * 2, "not a number"),
        (GREY, [[10**400] * 3] * 2, "not a number"),
        (GREY, "abc", "found a text, expected an image"),
        (GREY, 7, "found a number"),
        (GREY, None, "found null"),
        (GREY, True, "found true or false"),
        (GREY, {"c64": ""}, "found an object with 'c64'"),
        (GREY, {"b64": 3}, "b64: found a number"),
        (GREY, {"b64": "%"}, "not valid base64"),
        (GREY, {"b64": "AAAA"}, "not an image, or a damaged one"),
        (VECTOR, [1, 2], r"shape \(2,\), expected a list of 3 numbers"),
        (VECTOR, [1, 2, float("inf")], "found inf"),
        (VECTOR, [1, 2, 1e39], r"found 1e\+39"),
        (VECTOR, {"b64": ""}, "found an object with 'b64'"),
        (BYTES, [1, 2, 300], "found 300"),
        (TEXT, ["a"], "found a list, expected a text"),
        (TEXT, {"b64": "AAAA"}, "found an object"),
        (TEXT, "a\0b", "NUL"),
        (TEXT, "\ud800", "not valid Unicode"),
    ],
)
def test_an_invalid_value_is_refused(signature: InputSignature, value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        signature.from_json(value)


def test_an_image_is_refused_by_a_model_of_other_values() -> None:
    content = png([[0] * 3] * 2)
    with pytest.raises(DataError, match="a.png: found pixels of 0 to 255, and the model was"):
        dataclasses.replace(UNIT, low=-1).from_image(content, Location("a.png"))
    with pytest.raises(DataError, match="a.png: found an image, expected a list of 3 numbers"):
        VECTOR.from_image(content, Location("a.png"))


def test_examples_of_a_data_set_are_converted_to_the_dtype_of_the_model() -> None:
    images = np.arange(12, dtype=np.uint8).reshape(2, 2, 3, 1)
    assert GREY.from_data(images) is images
    np.testing.assert_array_equal(GREY.from_data(np.float32(images)), images, strict=True)
    colour = COLOUR.from_data(images)  # Grey images for a model of colour images.
    np.testing.assert_array_equal(colour, np.repeat(images, 3, axis=3), strict=True)
    vectors = np.array([[1, 2, 3]], np.uint8)  # A split of small integers only.
    np.testing.assert_array_equal(VECTOR.from_data(vectors), np.float32(vectors), strict=True)
    texts = np.array(["a", "b"], object)
    assert TEXT.from_data(texts) is texts
    for signature, examples, message in (
        (GREY, texts, "found texts, expected an image of 2x3x1"),
        (TEXT, images, "found numbers, expected a text"),
        (GREY, images[:, :1], "found examples of 1 x 3 x 1 numbers"),
        (GREY, images / 2, "found 0.5"),
        (UNIT, images, "found values up to 11, and the model was trained on values of 0 to 1"),
        (UNIT, np.float32(images), "found values up to 11"),
    ):
        with pytest.raises(DataError, match=message):
            signature.from_data(examples)


def wide_signature(low: float, high: float) -> InputSignature:
    return InputSignature(kind="image", shape=(5, 6, 1), dtype="float32", low=low, high=high)


def test_images_of_more_than_8_bits_keep_their_values_for_a_model_of_such_images() -> None:
    values = np.arange(30, dtype=np.float32).reshape(5, 6) / 30
    example = wide_signature(0, 1).from_image(encoded(values, "TIFF"), Location("a.tif"))
    np.testing.assert_array_equal(example[..., 0], values)
    pixels = np.full((5, 6), 51, np.uint8)
    assert wide_signature(0, 1).from_image(encoded(pixels), Location("a.png")).max() == (
        pytest.approx(0.2)
    )


@pytest.mark.parametrize(
    ("signature", "pixels", "message"),
    [
        (
            wide_signature(0, 1),
            np.full((5, 6), 500, np.uint16),
            "values of 500 to 500, and the mod",
        ),
        (
            wide_signature(-900, 700),
            np.zeros((5, 6), np.uint8),
            "pixels of 0 to 255, and the model",
        ),
        (
            wide_signature(0, 60_000),
            np.zeros((5, 6), np.uint8),
            "pixels of 0 to 255, and the model",
        ),
    ],
)
def test_images_of_another_scale_than_the_models_are_refused(
    signature: InputSignature, pixels: np.ndarray, message: str
) -> None:
    with pytest.raises(DataError, match=rf"^a\.tif: found {message}"):
        signature.from_image(encoded(pixels, "TIFF"), Location("a.tif"))


def test_floats_are_refused_by_a_model_of_8_bits() -> None:
    signature = InputSignature(kind="image", shape=(5, 6, 1), dtype="uint8", low=0, high=255)
    with pytest.raises(DataError, match=r"^a\.tif: an image of floating point, expected 8 bits"):
        signature.from_image(encoded(np.ones((5, 6), np.float32), "TIFF"), Location("a.tif"))
