"""What a trained model takes: one thing at a time, from whoever asks it, as an example.

`trainer predict` and `trainer serve` read by the same functions, which are those of the data set
where it holds the same kind of file.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.data.checks import MAX_VALUES
from trainer.data.dataset import Array, Spec
from trainer.data.formats import images
from trainer.errors import DataError, Location

_KINDS = {"text": 0, "vector": 1, "image": 3}  # With the axes of an example.


@dataclass(frozen=True, kw_only=True)
class InputSignature:
    """One example, as the model was trained on it.

    Attributes:
        kind: "image", "vector" or "text".
        shape: (H, W, C) of an image, (D,) of a vector, () of a text.
        dtype: "uint8", "float32" or "string".
        low: least value of the training part; 0 for pixels and texts.
        high: greatest value; 255 for pixels.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float

    @classmethod
    def of(cls, spec: Spec) -> InputSignature:
        """Returns what a model for such data takes."""
        return cls(kind=spec.kind, shape=spec.shape, dtype=spec.dtype, low=spec.low, high=spec.high)

    @classmethod
    def read(cls, described: Mapping[str, Any]) -> InputSignature:
        """Returns what `dataclasses.asdict` made a mapping of.

        Raises:
            ValueError: it is no such mapping.
        """
        try:
            found = cls(**{**described, "shape": tuple(map(int, described["shape"]))})
            limits = found.low <= found.high
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"input: {error}") from None
        known = found.dtype in ("uint8", "float32", "string")
        if not (limits and known and _KINDS.get(found.kind) == len(found.shape)):
            raise ValueError(f"input: {dict(described)}")
        return found

    def empty(self, count: int) -> Array:
        """Returns an array for so many examples."""
        return np.empty((count, *self.shape), object if self.kind == "text" else self.dtype)

    def from_json(self, value: Any) -> Array:
        """Returns an example from what JSON can say.

        Args:
            value: a string for a text; nested lists of numbers for an image, (H, W, C), or (H, W)
                if it has one channel, and for a vector; or for an image {"b64": ...} with a PNG or
                JPEG.

        Raises:
            DataError: it is something else; the message says what was expected.
        """
        if isinstance(value, Mapping) and set(value) == {"b64"} and self.kind == "image":
            return self.from_image(_decoded(value["b64"]), Location("b64"))
        if self.kind == "text":
            return self.from_text(value)
        if not isinstance(value, list):
            raise DataError(f"found {_in_words(value)}, expected {self.expected()}")
        return self.from_numbers(self._numbers(value))

    def batch_from_json(self, values: Sequence[Any]) -> Array:
        """Returns examples (N, ...) from lists that JSON can say; faster than one by one.

        Raises:
            DataError: one of them is no example, or no list.
        """
        return self.from_batch(self._numbers(values))

    def from_numbers(self, numbers: Array) -> Array:
        """Returns an example from an array of its shape, or (H, W) for an image of one channel.

        Raises:
            DataError: it has another shape, or values that the data set could not hold.
        """
        example: Array = self.from_batch(numbers[np.newaxis])[0]
        return example

    def from_batch(self, numbers: Array) -> Array:
        """Returns examples from an array (N, ...), each as `from_numbers` takes them.

        Raises:
            DataError: they have another shape, or values that the data set could not hold.
        """
        shapes = {self.shape}
        if self.kind == "image" and self.shape[-1] == 1:
            shapes.add(self.shape[:-1])
        if numbers.shape[1:] not in shapes or numbers.dtype.kind not in "iuf":
            found = f"{numbers.dtype} of shape {numbers.shape[1:]}"
            if numbers.dtype.kind not in "iuf":
                found = "something that is no number"
            raise DataError(f"found {found}, expected {self.expected()}")
        self._check_values(numbers)
        return numbers.reshape(-1, *self.shape).astype(self.dtype)

    def from_image(self, content: bytes, place: Location) -> Array:
        """Returns an example from an image file, brought to size as `--image-size` does.

        Args:
            content: of the file.
            place: of the file.

        Raises:
            DataError: it is no image, or the model takes none.
        """
        if self.kind != "image" or self.shape[2] not in (1, 3):
            raise DataError(f"found an image, expected {self.expected()}", place)
        height, width, channels = self.shape
        pixels = images.decode(content, place, size=(height, width), grey=channels == 1)
        if self.dtype == "uint8":
            return np.broadcast_to(pixels, self.shape)
        if self.low < 0 or self.high > 255:
            raise DataError(
                f"found pixels of 0 to 255, and the model was trained on values of {self.low:g} to "
                f"{self.high:g}; expected {self.expected()}",
                place,
            )
        scale = 255 if self.high <= 1 else 1
        return np.broadcast_to(pixels.astype(np.float32) / scale, self.shape)

    def from_text(self, text: Any) -> Array:
        """Returns an example from a text.

        Raises:
            DataError: it is none, or the model takes none.
        """
        if self.kind != "text" or not isinstance(text, str):
            raise DataError(f"found {_in_words(text)}, expected {self.expected()}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"found a text that is none: {error}") from None
        if "\0" in text:
            raise DataError("found a text with a NUL character")
        return np.array(text, dtype=object)

    def from_data(self, examples: Array) -> Array:
        """Returns the examples of a data set, as `Split` has them, as the model takes them.

        Raises:
            DataError: they are of another shape, or of values that the model was not trained for.
        """
        if (examples.dtype == object) != (self.kind == "text"):
            found = "texts" if examples.dtype == object else "numbers"
            raise DataError(f"found {found}, expected {self.expected()}")
        if self.kind == "text":
            return examples
        if self.kind == "image" and examples.ndim == 4 and examples.shape[3] == 1:
            grey = np.broadcast_to(examples, (*examples.shape[:3], self.shape[2]))
            examples = examples if self.shape[2] == 1 else grey
        if examples.shape[1:] != self.shape:
            found = " x ".join(map(str, examples.shape[1:]))
            raise DataError(f"found examples of {found} numbers, expected {self.expected()}")
        if examples.dtype != self.dtype:
            self._check_values(examples)
        if self.kind == "image" and self.high <= 1 < examples.max():
            raise DataError(
                f"found values up to {examples.max():g}, and the model was trained on values of "
                f"{self.low:g} to {self.high:g}"
            )
        return examples.astype(self.dtype, copy=False)

    def stacked(self, examples: Sequence[Array]) -> Array:
        """Returns examples as one array, (N, ...)."""
        rows = self.empty(len(examples))
        for row, example in enumerate(examples):
            rows[row] = example[()] if self.kind == "text" else example
        return rows

    def expected(self) -> str:
        """Returns in words what the model takes."""
        if self.kind == "text":
            return "a text"
        sizes = "x".join(map(str, self.shape))
        whole = "whole numbers of 0 to 255" if self.dtype == "uint8" else "numbers"
        return f"{'an image' if self.kind == 'image' else 'a list'} of {sizes} {whole}"

    def _numbers(self, value: Sequence[Any]) -> Array:
        """Returns nested lists as an array, int64 or float64.

        By way of objects: for strings NumPy would make room for the longest one at each place.
        """
        try:
            found = np.array(value, dtype=object)
        except ValueError:
            kinds: set[type] = {list}
        else:
            kinds = set(map(type, found.ravel().tolist()))
        if list in kinds:
            raise DataError(f"found lists of unequal lengths, expected {self.expected()}")
        if kinds <= {int, float}:
            for dtype in (np.int64, np.float64) if kinds == {int} else (np.float64,):
                with contextlib.suppress(OverflowError):
                    return found.astype(dtype)
        raise DataError(f"found something that is no number, expected {self.expected()}")

    def _check_values(self, numbers: Array) -> None:
        if self.dtype == "uint8":
            # What does not fit would wrap around: 256 would be black.
            fits = (numbers >= 0) & (numbers <= 255) & (numbers == np.floor(numbers))
        else:
            fits = np.isfinite(numbers) & (np.abs(numbers) <= np.finfo(np.float32).max)
        if not fits.all():
            raise DataError(f"found {numbers[~fits].flat[0]}, expected {self.expected()}")


def _decoded(value: Any) -> bytes:
    if not isinstance(value, str):
        raise DataError(f"b64: found {_in_words(value)}, expected a string of base64")
    if len(value) > 2 * MAX_VALUES:
        raise DataError(f"b64: found {len(value)} characters, expected at most {2 * MAX_VALUES}")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"b64: no base64: {error}") from None


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"an object with {', '.join(map(repr, list(value)[:5])) or 'nothing'}"
    names = {bool: "true or false", str: "a text", list: "a list", type(None): "null"}
    return names.get(type(value), "a number")
