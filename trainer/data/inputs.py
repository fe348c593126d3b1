"""Converts the inputs of a trained model to examples, one at a time or in batches.

`trainer predict` and `trainer serve` both use it. Files are read with the functions of the data
formats, so that the same file gives the same example in training and in prediction.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.data.checks import MAX_VALUES
from trainer.data.dataset import Array, ImageLayout, Spec
from trainer.data.formats import images
from trainer.errors import DataError, Location

_AXES = {"text": 0, "vector": 1, "image": 3}  # Number of axes of an example, by its kind.
_MAX_BASE64_LENGTH = 2 * MAX_VALUES


@dataclass(frozen=True, kw_only=True)
class InputSignature:
    """Shape, dtype and range of one example of a trained model.

    Attributes:
        kind: "image", "vector" or "text".
        shape: (H, W, C) of an image, (D,) of a vector, () of a text.
        dtype: "uint8", "float32" or "string".
        low: minimum value of the training split; 0 for pixels and texts.
        high: maximum value of the training split; 255 for pixels.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float

    @classmethod
    def from_spec(cls, spec: Spec) -> InputSignature:
        """Returns the signature of a model that is trained on such data."""
        return cls(kind=spec.kind, shape=spec.shape, dtype=spec.dtype, low=spec.low, high=spec.high)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> InputSignature:
        """Returns a signature from the result of `dataclasses.asdict`, perhaps read from JSON.

        Raises:
            ValueError: a field is missing, unknown or invalid.
        """
        try:
            signature = cls(**{**fields, "shape": tuple(map(int, fields["shape"]))})
            in_order = signature.low <= signature.high
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"input: {error}") from None
        valid_dtype = signature.dtype in ("uint8", "float32", "string")
        valid_shape = _AXES.get(signature.kind) == len(signature.shape)
        if not (in_order and valid_dtype and valid_shape):
            raise ValueError(f"input: {dict(fields)}")
        return signature

    @property
    def layout(self) -> ImageLayout | None:
        """What image files are decoded to; None if the model does not take any."""
        if self.kind != "image" or self.shape[2] not in (1, 3):
            return None
        height, width, channels = self.shape
        return ImageLayout(height=height, width=width, channels=channels, dtype=self.dtype)

    def empty(self, count: int) -> Array:
        """Returns an uninitialized array for `count` examples."""
        return np.empty((count, *self.shape), object if self.kind == "text" else self.dtype)

    def from_json(self, value: Any) -> Array:
        """Returns an example from a value of parsed JSON.

        Args:
            value: a string for a text; a list of numbers for a vector; for an image nested lists of
                numbers, (H, W, C), or (H, W) if it has one channel, or {"b64": ...} with a PNG or
                JPEG file.

        Raises:
            DataError: the value is none of these.
        """
        if isinstance(value, Mapping) and set(value) == {"b64"} and self.kind == "image":
            return self.from_image(decode_base64(value["b64"]), Location("b64"))
        if self.kind == "text":
            return self.from_text(value)
        if not isinstance(value, list):
            raise DataError(f"found {type_name(value)}, expected {self.expected()}")
        return self.from_numbers(self._to_array(value))

    def batch_from_json(self, values: Sequence[Any]) -> Array:
        """Returns examples (N, ...) from nested lists of numbers; faster than one by one.

        Raises:
            DataError: a value is no list of numbers of the right shape.
        """
        return self.from_batch(self._to_array(values))

    def from_numbers(self, numbers: Array) -> Array:
        """Returns an example from an array of its shape, or (H, W) for an image of one channel.

        Raises:
            DataError: the shape is another, or a value is out of the range of the dtype.
        """
        example: Array = self.from_batch(numbers[np.newaxis])[0]
        return example

    def from_batch(self, numbers: Array) -> Array:
        """Returns examples (N, *shape) in the model's dtype from an array (N, ...) of numbers.

        Raises:
            DataError: the shape is another, or a value is out of the range of the dtype.
        """
        shapes = {self.shape}
        if self.kind == "image" and self.shape[-1] == 1:
            shapes.add(self.shape[:-1])
        if numbers.dtype.kind not in "iuf":
            raise DataError(f"found a value that is not a number, expected {self.expected()}")
        if numbers.shape[1:] not in shapes:
            raise DataError(
                f"found {numbers.dtype} of shape {numbers.shape[1:]}, expected {self.expected()}"
            )
        self._check_values(numbers)
        return numbers.reshape(-1, *self.shape).astype(self.dtype)

    def from_image(self, content: bytes, location: Location) -> Array:
        """Returns an example, (H, W, C) in the model's dtype, from an image file.

        The image is resized to the model's shape, as by `--image-size`.

        Images of more than 8 bits keep their values, for a model that was trained on such values.

        Args:
            content: of the file.
            location: of the file.

        Raises:
            DataError: the file is no image, or the model takes no images.
        """
        layout = self.layout
        if layout is None:
            raise DataError(f"found an image, expected {self.expected()}", location)
        if self.dtype == "uint8":
            return images.fit(content, location, layout)
        if images.is_wide(content):
            pixels = images.fit(content, location, layout)
            width = self.high - self.low
            if pixels.min() < self.low - width or pixels.max() > self.high + width:
                raise DataError(
                    f"found values of {pixels.min():g} to {pixels.max():g}, and the model was "
                    f"trained on values of {self.low:g} to {self.high:g}",
                    location,
                )
            return pixels
        pixels = images.fit(content, location, dataclasses.replace(layout, dtype="uint8"))
        if self.low < 0 or self.high > 255:
            raise DataError(
                f"found pixels of 0 to 255, and the model was trained on values of {self.low:g} to "
                f"{self.high:g}; expected {self.expected()}",
                location,
            )
        scale = 255 if self.high <= 1 else 1
        return pixels.astype(np.float32) / scale

    def from_text(self, text: Any) -> Array:
        """Returns an example, an object array of shape () that holds the text.

        Raises:
            DataError: it is no valid text, or the model takes no texts.
        """
        if self.kind != "text" or not isinstance(text, str):
            raise DataError(f"found {type_name(text)}, expected {self.expected()}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"found a text that is not valid Unicode: {error}") from None
        if "\0" in text:
            raise DataError("found a text with a NUL character")
        return np.array(text, dtype=object)

    def from_data(self, examples: Array) -> Array:
        """Returns the examples of a `Split` as (N, *shape) in the model's dtype; texts as (N,).

        Raises:
            DataError: their kind or shape is another, or a value is out of the model's range.
        """
        if (examples.dtype == object) != (self.kind == "text"):
            kind = "texts" if examples.dtype == object else "numbers"
            raise DataError(f"found {kind}, expected {self.expected()}")
        if self.kind == "text":
            return examples
        if self.kind == "image" and examples.ndim == 4 and examples.shape[3] == 1:
            if self.shape[2] != 1:  # Grey images for a model of colour images.
                examples = np.broadcast_to(examples, (*examples.shape[:3], self.shape[2]))
        if examples.shape[1:] != self.shape:
            sizes = " x ".join(map(str, examples.shape[1:]))
            raise DataError(f"found examples of {sizes} numbers, expected {self.expected()}")
        if examples.dtype != self.dtype:
            self._check_values(examples)
        if self.kind == "image" and self.high > 255 and examples.dtype == np.uint8:
            raise DataError(
                f"found pixels of 0 to 255, and the model was trained on values of {self.low:g} to "
                f"{self.high:g}"
            )
        if self.kind == "image" and self.high <= 1 < examples.max():
            raise DataError(
                f"found values up to {examples.max():g}, and the model was trained on values of "
                f"{self.low:g} to {self.high:g}"
            )
        return examples.astype(self.dtype, copy=False)

    def stack(self, examples: Sequence[Array]) -> Array:
        """Returns examples as one array, (N, ...)."""
        batch = self.empty(len(examples))
        for row, example in enumerate(examples):
            batch[row] = example[()] if self.kind == "text" else example
        return batch

    def expected(self) -> str:
        """Returns what the model takes, for messages: "an image of 28x28x1 numbers"."""
        if self.kind == "text":
            return "a text"
        sizes = "x".join(map(str, self.shape))
        values = "whole numbers of 0 to 255" if self.dtype == "uint8" else "numbers"
        return f"{'an image' if self.kind == 'image' else 'a list'} of {sizes} {values}"

    def _to_array(self, value: Sequence[Any]) -> Array:
        """Returns nested lists of numbers as an array, int64 or float64.

        Converts through an object array: for strings NumPy would otherwise allocate the length of
        the longest string for every element.
        """
        try:
            array = np.array(value, dtype=object)
        except ValueError:
            types: set[type] = {list}
        else:
            types = set(map(type, array.ravel().tolist()))
        if list in types:
            raise DataError(f"found lists of unequal lengths, expected {self.expected()}")
        if types <= {int, float}:
            for dtype in (np.int64, np.float64) if types == {int} else (np.float64,):
                with contextlib.suppress(OverflowError):
                    return array.astype(dtype)
        raise DataError(f"found a value that is not a number, expected {self.expected()}")

    def _check_values(self, numbers: Array) -> None:
        if self.dtype == "uint8":
            # A conversion to uint8 would wrap around: 256 would become 0.
            valid = (numbers >= 0) & (numbers <= 255) & (numbers == np.floor(numbers))
        else:
            valid = np.isfinite(numbers) & (np.abs(numbers) <= np.finfo(np.float32).max)
        if not valid.all():
            raise DataError(f"found {numbers[~valid].flat[0]}, expected {self.expected()}")


def decode_base64(value: Any) -> bytes:
    """Returns the content of a file that is a string of base64.

    Raises:
        DataError: it is none.
    """
    if not isinstance(value, str):
        raise DataError(f"b64: found {type_name(value)}, expected a string of base64")
    if len(value) > _MAX_BASE64_LENGTH:
        raise DataError(
            f"b64: found {len(value)} characters, expected at most {_MAX_BASE64_LENGTH}"
        )
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"b64: not valid base64: {error}") from None


def type_name(value: Any) -> str:
    """Returns the type of a JSON value, for messages."""
    if isinstance(value, Mapping):
        return f"an object with {', '.join(map(repr, list(value)[:5])) or 'nothing'}"
    names = {bool: "true or false", str: "a text", list: "a list", type(None): "null"}
    return names.get(type(value), "a number")
