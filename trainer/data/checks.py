"""What was read, checked, and brought into the one form that `Split` describes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from trainer.data.shards.reader import Array, Shards
from trainer.errors import DataError, Location
from trainer.runtime import memory

# Beyond these it is no data for a model here, but a header gone wrong.
MAX_CLASSES = 1000
MAX_VALUES = 1 << 24  # Of one example: an image of 4096x4096, say.

Examples = Array | Shards


class Shaped(Protocol):
    """What the checks of a shape need of an array, which need not be in memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its values."""


def check_shape(place: Location | None, shape: tuple[int, ...], itemsize: int) -> None:
    """Checks what a header promises, before all of it is read.

    Args:
        place: of the header.
        shape: of an array of examples or labels; the first axis counts them.
        itemsize: bytes of a value.

    Raises:
        DataError: an example, or all of them, are larger than can be trained on.
    """
    check_example(place, shape[1:])
    values = " x ".join(map(str, shape))
    memory.check_data(math.prod(shape) * itemsize, f"an array of {values} values", place)


def check_example(place: Location | None, shape: tuple[int, ...]) -> None:
    """Checks what a header promises of each example, before any is read.

    Raises:
        DataError: it is larger than can be trained on.
    """
    if math.prod(shape) > MAX_VALUES:
        sizes = " x ".join(map(str, shape))
        raise DataError(f"examples of {sizes} values, expected at most {MAX_VALUES} in each", place)


def part(name: str, examples: Examples, labels: Array) -> tuple[Examples, Array]:
    """Brings what was read of a part into the form of Split.

    Args:
        name: of the part.
        examples: as they were read.
        labels: integers (N,) or one-hot (N, classes).

    Raises:
        DataError: examples and labels do not fit together, or cannot be trained on.
    """
    numbers = class_numbers(name, examples, labels)
    if isinstance(examples, Shards):  # They were checked when they were made.
        return examples, numbers
    if examples.dtype.kind in "OU":
        return _texts(name, examples), numbers
    if examples.ndim == 3:
        examples = examples[..., np.newaxis]  # Grey images without a channel.
    check_numbers(name, examples)
    dtype = examples.dtype
    if dtype != np.uint8:
        whole = dtype.kind in "biu"
        dtype = (
            storage_dtype(dtype, examples.min(), examples.max()) if whole else np.dtype(np.float32)
        )
    return converted(name, examples, dtype), numbers


def class_numbers(name: str, examples: Shaped, labels: Array) -> Array:
    """Returns the labels of a part as class numbers: int32 (N,).

    Args:
        name: of the part.
        examples: that they belong to.
        labels: integers (N,) or one-hot (N, classes).

    Raises:
        DataError: they are something else, or there are more or fewer than examples, or none.
    """
    name = _in_words(name)
    if labels.ndim == 2:
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()):
            raise DataError(f"{name} labels: a table of labels must be one-hot")
        labels = labels.argmax(axis=1)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{name} labels: found {labels.dtype} of shape {labels.shape}, expected integers (N,)"
        )
    if not examples.shape:
        raise DataError(f"{name} examples: found a single {examples.dtype}, expected (N, ...)")
    count = examples.shape[0]
    if count != len(labels):
        raise DataError(f"{name} part: {count} examples but {len(labels)} labels")
    if count == 0:
        raise DataError(f"{name} part: no examples")
    if labels.min() < 0:
        raise DataError(f"{name} labels: found {labels.min()}, expected 0 or more")
    if labels.max() >= 2**31:
        raise DataError(f"{name} labels: found {labels.max()}, expected class numbers")
    return labels.astype(np.int32)


def check_numbers(name: str, examples: Shaped) -> None:
    """Checks that examples are vectors (N, D) or images (N, H, W, C) of real numbers.

    Raises:
        DataError: they are something else.
    """
    shape, dtype = examples.shape, examples.dtype
    if len(shape) not in (2, 4) or dtype.kind not in "biuf" or not math.prod(shape):
        raise DataError(
            f"{_in_words(name)} examples: found {dtype} of shape {shape}, expected numbers: images "
            "(N, H, W) or (N, H, W, C), or vectors (N, D)"
        )


def storage_dtype(dtype: np.dtype[Any], low: float, high: float) -> np.dtype[Any]:
    """Returns uint8 if that holds all values of a type from `low` to `high`, else float32."""
    small = dtype.kind in "biu" and low >= 0 and high <= 255
    return np.dtype(np.uint8 if small else np.float32)


def converted(name: str, examples: Array, dtype: np.dtype[Any], *, first: int = 0) -> Array:
    """Returns examples as uint8 or float32, as `storage_dtype` has found.

    Args:
        name: of the part.
        examples: numbers, (n, ...).
        dtype: to convert to.
        first: the number of the first of them in the part, for the message.

    Raises:
        DataError: there is NaN or infinity among them, or what float32 does not hold.
    """
    with np.errstate(over="ignore"):
        examples = examples.astype(dtype, copy=False)
    if dtype.kind == "f" and not np.isfinite(examples).all():
        bad = first + int(np.argwhere(~np.isfinite(examples))[0][0])
        raise DataError(f"{_in_words(name)} examples: example {bad} holds NaN or infinity")
    return examples


def check_consistent(parts: dict[str, tuple[Examples, Array]]) -> dict[str, tuple[Examples, Array]]:
    """Returns the parts, examples and labels by name, with examples of one type.

    Raises:
        DataError: their examples have other shapes, or are texts in some parts only.
    """
    check_alike({name: examples for name, (examples, _) in parts.items()})
    if len({examples.dtype for examples, _ in parts.values()}) == 1:
        return parts
    # One part held only small numbers.
    same: dict[str, tuple[Examples, Array]] = {}
    for name, (examples, labels) in parts.items():
        if isinstance(examples, Shards):
            raise DataError(f"{name} examples: {examples.dtype}, unlike those of other parts")
        same[name] = examples.astype(np.float32), labels
    return same


def check_alike(parts: Mapping[str, Shaped]) -> None:
    """Checks that the examples of all parts could be those of one model.

    Raises:
        DataError: they have other shapes, or are texts in some parts only.
    """
    train = parts["train"]
    for name, examples in parts.items():
        if examples.shape[1:] != train.shape[1:]:
            raise DataError(
                f"{name} examples of shape {examples.shape[1:]}, expected {train.shape[1:]} as in "
                "training"
            )
        if (examples.dtype == object) != (train.dtype == object):
            raise DataError(f"{name} examples: texts in some parts only")


def class_names(labels: Array) -> tuple[str, ...]:
    """Returns names of classes that only have numbers: these.

    Raises:
        DataError: there are too many.
    """
    count = int(labels.max()) + 1
    if count > MAX_CLASSES:
        raise DataError(
            f"training labels: found {count - 1}, expected class numbers below {MAX_CLASSES}"
        )
    return tuple(str(number) for number in range(count))


def check_classes(name: str, labels: Array, classes: tuple[str, ...]) -> None:
    """Checks that a part can be trained on, or tested with, these classes.

    Args:
        name: of the part.
        labels: class numbers, int32 (N,).
        classes: class names.

    Raises:
        DataError: a label is none of them, one has no training examples, or there is one class.
    """
    check_known(name, labels, classes)
    counts = np.bincount(labels, minlength=len(classes))
    if name == "train" and not counts.all():
        raise DataError(f"class {classes[int(counts.argmin())]!r} has no training examples")
    if len(classes) < 2:
        raise DataError(f"found one class, {classes[0]!r}, expected at least two")


def check_known(name: str, labels: Array, classes: tuple[str, ...]) -> None:
    """Checks that labels are those of known classes; takes what `check_classes` does.

    Raises:
        DataError: one is not.
    """
    if labels.max() >= len(classes):
        raise DataError(
            f"{name} labels: found {labels.max()}, expected 0 to {len(classes) - 1}, "
            "the classes of the training part"
        )


def text_error(text: Any) -> str | None:
    """Returns in words why something is no text to train on; None if it is one."""
    if not isinstance(text, str):
        return f"found {type(text).__name__}, expected a text"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"no text: {error}"
    return "a NUL character" if "\0" in text else None


def _texts(name: str, examples: Array) -> Array:
    name = _in_words(name)
    if examples.ndim != 1:
        raise DataError(f"{name} examples: found texts of shape {examples.shape}, expected (N,)")
    texts = examples.astype(object)
    for number, text in enumerate(texts):
        if fault := text_error(text):
            raise DataError(f"{name} examples: example {number}: {fault}")
    return texts


def _in_words(part: str) -> str:
    return "training" if part == "train" else part
