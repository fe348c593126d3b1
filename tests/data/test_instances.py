"""Instances in the forms of Vertex AI become the examples that they hold, or are refused."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.data.inputs import InputSignature
from trainer.data.instances import InstanceReader
from trainer.errors import DataError

TEXT = InputSignature(kind="text", shape=(), dtype="string", low=0, high=0)
GREY = InputSignature(kind="image", shape=(2, 3, 1), dtype="uint8", low=0, high=255)
VECTOR = InputSignature(kind="vector", shape=(3,), dtype="float32", low=-2, high=2)
ONE = InputSignature(kind="vector", shape=(1,), dtype="float32", low=-2, high=2)
PIXELS = [[0, 1, 2], [3, 4, 255]]


def encode(content: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(content).decode()}


def png() -> dict[str, str]:
    file = io.BytesIO()
    Image.fromarray(np.array(PIXELS, np.uint8)).save(file, "png")
    return encode(file.getvalue())


@pytest.mark.parametrize(
    "instance",
    [
        "déjà vu",
        ["déjà vu"],
        encode("déjà vu\r\n".encode("utf-8-sig")),
        [encode("déjà vu".encode())],
        {"text": "déjà vu"},
        {"text": ["déjà vu"], "key": 7},
        {"text": encode("déjà vu".encode())},
        {"my review": "déjà vu", "key": {"any": "thing"}},
        {"key": None, **encode("déjà vu".encode())},
    ],
)
def test_each_form_of_a_text_is_that_text(instance: Any) -> None:
    assert InstanceReader(TEXT, ("my review",)).read(instance)[()] == "déjà vu"


@pytest.mark.parametrize(
    "instance",
    [
        PIXELS,
        png(),
        [png()],
        {**png(), "key": 1},
        {"image": png(), "key": 1},
        {"image": PIXELS},
        {"photo": png()},
    ],
)
def test_each_form_of_an_image_is_that_image(instance: Any) -> None:
    example = InstanceReader(GREY, ("photo",)).read(instance)
    np.testing.assert_array_equal(example[..., 0], np.array(PIXELS, np.uint8), strict=True)


def test_a_row_of_pixels_is_an_image_only_if_the_model_was_trained_on_such_rows() -> None:
    row = sum(PIXELS, [])
    reader = InstanceReader(GREY, tuple(f"pixel{number}" for number in range(6)))
    for instance in (row, list(map(str, row)), dict(zip(reader.columns, row, strict=True))):
        np.testing.assert_array_equal(reader.read(instance)[..., 0], PIXELS)
    with pytest.raises(DataError, match=r"found int64 of shape \(6,\), expected an image of 2x3x1"):
        InstanceReader(GREY).read(row)


@pytest.mark.parametrize(
    "instance",
    [
        [1, 2.5, -3],
        ["1", " 2.5", "-3e0"],
        {"vector": [1, "2.5", -3], "key": "a"},
        {"c": "-3", "a": 1, "b": "2.5", "key": "a"},
    ],
)
def test_each_form_of_a_vector_is_that_vector(instance: Any) -> None:
    example = InstanceReader(VECTOR, ("a", "b", "c")).read(instance)
    np.testing.assert_array_equal(example, np.float32([1, 2.5, -3]), strict=True)


def test_a_column_of_lists_is_a_vector() -> None:
    reader = InstanceReader(VECTOR, ("embedding",))
    instances = ({"embedding": [1, 2, 3]}, [[1, 2, 3]], {"embedding": "[1, 2, 3]"}, ["1 2 3"])
    for instance in instances:
        np.testing.assert_array_equal(reader.read(instance), [1, 2, 3])
    for instance in ([7], ["7"], {"vector": ["7"]}):
        np.testing.assert_array_equal(InstanceReader(ONE).read(instance), [7])


@pytest.mark.parametrize(
    ("signature", "columns", "instance", "message"),
    [
        (TEXT, ("review",), {"txt": "a"}, "found an object with 'txt', expected a text as one of "
         "the fields 'b64', 'text', 'review'"),
        (TEXT, ("review",), {"text": "a", "review": "b"}, "found both 'text' and 'review'"),
        (TEXT, (), {}, "found an object with nothing, expected a text"),
        (TEXT, (), ["a", "b"], "found a list, expected a text"),
        (TEXT, (), [["a"]], "found a list, expected a text"),
        (TEXT, (), {"text": 3}, "found a number, expected a text"),
        (TEXT, (), encode(b"\xff"), "b64: not UTF-8"),
        (TEXT, (), encode(b"\n\x12\n\x10\n\x04text"), "b64: found control characters"),
        (GREY, (), {"image": "abc"}, "found a text, expected an image"),
        (GREY, (), {"image": {"uri": "a"}}, "found an object with 'uri', expected an image"),
        (VECTOR, (), [1, "x", 3], "found 'x', expected a list of 3 numbers"),
        (VECTOR, (), ["1", "2", "nan"], "found 'nan'"),
        (VECTOR, (), ["1", "2"], r"found float64 of shape \(2,\), expected a list of 3 numbers"),
        (VECTOR, (), [1, 2, True], "found true or false"),
        (VECTOR, ("a", "b", "c"), {"a": 1, "c": 2}, "found no 'b', expected all of 'a', 'b', 'c'"),
        (VECTOR, ("a", "b", "c"), {"a": 1, "b": None, "c": 2}, "found null"),
        (VECTOR, ("a", "b", "c"), {"d": 1}, "as one of the fields 'vector', 'a', 'b', 'c'"),
        (VECTOR, (), encode(b"1"), "found an object with 'b64', expected a list of 3 numbers"),
    ],
)  # fmt: skip
def test_another_form_is_refused_with_what_is_expected(
    signature: InputSignature, columns: tuple[str, ...], instance: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        InstanceReader(signature, columns).read(instance)
