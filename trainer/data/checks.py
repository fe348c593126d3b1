"""Checks of examples and labels, and their conversion to the one form that `Split` describes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from trainer.data.shards.reader import Array, Shards
from trainer.errors import DataError, Location
from trainer.runtime import memory

_MIN_UNSCALED = 2  # Images with larger values were not scaled to 0 to 1.
_MAX_IMBALANCE = 10  # Ratio of the largest to the smallest class that needs no warning.
# Larger values come from damaged headers, not from data that a model here can be trained on.
MAX_CLASSES = 1000
MAX_VALUES = 1 << 24  # Per example; an image of 4096x4096 has this many.

Examples = Array | Shards


class HasShape(Protocol):
    """An array, perhaps not in memory, of which only shape and dtype are checked."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""


def check_shape(location: Location | None, shape: tuple[int, ...], itemsize: int) -> None:
    """Checks the shape in a header before the values are read.

    Args:
        location: of the header.
        shape: of an array of examples or labels; the first axis counts them.
        itemsize: bytes per value.

    Raises:
        DataError: one example, or the whole array, is too large to train on.
    """
    check_example_shape(location, shape[1:])
    sizes = " x ".join(map(str, shape))
    memory.check_data(math.prod(shape) * itemsize, f"an array of {sizes} values", location)


def check_example_shape(location: Location | None, shape: tuple[int, ...]) -> None:
    """Checks the shape of one example before any example is read.

    Raises:
        DataError: the example is too large to train on.
    """
    if math.prod(shape) > MAX_VALUES:
        sizes = " x ".join(map(str, shape))
        raise DataError(
            f"examples of {sizes} values, expected at most {MAX_VALUES} in each", location
        )


def check_split(split: str, examples: Examples, labels: Array) -> tuple[Examples, Array]:
    """Checks a split and converts it to the form of `Split`.

    Args:
        split: name of the split.
        examples: as read.
        labels: integers (N,) or one-hot (N, classes).

    Returns:
        The examples, and the labels as class indices, int32 (N,).

    Raises:
        DataError: examples and labels do not match, or are not trainable.
    """
    indices = class_indices(split, examples, labels)
    if isinstance(examples, Shards):  # Their values were checked when they were written.
        return examples, indices
    if examples.dtype.kind in "OU":
        return _check_texts(split, examples), indices
    if examples.ndim == 3:
        examples = examples[..., np.newaxis]  # (N, H, W) -> (N, H, W, 1)
    check_numeric(split, examples)
    dtype = examples.dtype
    if dtype != np.uint8:
        integers = dtype.kind in "biu"
        dtype = (
            storage_dtype(dtype, examples.min(), examples.max())
            if integers
            else np.dtype(np.float32)
        )
    return convert_examples(split, examples, dtype), indices


def class_indices(split: str, examples: HasShape, labels: Array) -> Array:
    """Returns the labels of a split as class indices, int32 (N,).

    Args:
        split: name of the split.
        examples: examples that the labels belong to.
        labels: integers (N,) or one-hot (N, classes).

    Raises:
        DataError: the labels have another form, there are none, or their number is not that of the
            examples.
    """
    name = title(split)
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
        raise DataError(f"{name} split: {count} examples but {len(labels)} labels")
    if count == 0:
        raise DataError(f"{name} split: no examples")
    if labels.min() < 0:
        raise DataError(f"{name} labels: found {labels.min()}, expected 0 or more")
    if labels.max() >= 2**31:
        raise DataError(f"{name} labels: found {labels.max()}, expected class indices")
    return labels.astype(np.int32)


def check_numeric(split: str, examples: HasShape) -> None:
    """Checks that examples are vectors (N, D) or images (N, H, W, C) of real numbers.

    Raises:
        DataError: they have another shape or dtype.
    """
    shape, dtype = examples.shape, examples.dtype
    if len(shape) not in (2, 4) or dtype.kind not in "biuf" or not math.prod(shape):
        raise DataError(
            f"{title(split)} examples: found {dtype} of shape {shape}, expected numbers: images "
            "(N, H, W) or (N, H, W, C), or vectors (N, D)"
        )


def storage_dtype(dtype: np.dtype[Any], low: float, high: float) -> np.dtype[Any]:
    """Returns uint8 if it holds all values of `dtype` from `low` to `high`, else float32."""
    fits_uint8 = dtype.kind in "biu" and low >= 0 and high <= 255
    return np.dtype(np.uint8 if fits_uint8 else np.float32)


def convert_examples(split: str, examples: Array, dtype: np.dtype[Any], *, start: int = 0) -> Array:
    """Returns examples converted to their storage dtype.

    Args:
        split: name of the split.
        examples: numbers, (n, ...).
        dtype: uint8 or float32, from `storage_dtype`.
        start: row number of the first of them in the split, for the message.

    Raises:
        DataError: a value is NaN, infinite, or too large for float32.
    """
    with np.errstate(over="ignore"):
        examples = examples.astype(dtype, copy=False)
    if dtype.kind == "f" and not np.isfinite(examples).all():
        row = start + int(np.argwhere(~np.isfinite(examples))[0][0])
        raise DataError(f"{title(split)} examples: example {row} holds NaN or infinity")
    return examples


def unify_dtypes(splits: dict[str, tuple[Examples, Array]]) -> dict[str, tuple[Examples, Array]]:
    """Returns the examples and labels of all splits, with examples of one dtype.

    Raises:
        DataError: as `check_consistent` and `check_scale`, or the shards of two splits have
            different dtypes.
    """
    check_consistent({name: examples for name, (examples, _) in splits.items()})
    train, _ = splits["train"]
    if train.ndim == 4:
        highs = {name: float(examples.max()) for name, (examples, _) in splits.items()}
        check_scale(highs, {name: examples.dtype for name, (examples, _) in splits.items()})
    if len({examples.dtype for examples, _ in splits.values()}) == 1:
        return splits
    # The values of one split fitted into uint8, those of another did not.
    unified: dict[str, tuple[Examples, Array]] = {}
    for name, (examples, labels) in splits.items():
        if isinstance(examples, Shards):
            raise DataError(f"{name} examples: {examples.dtype}, unlike those of other splits")
        unified[name] = examples.astype(np.float32), labels
    return unified


def check_scale(highs: Mapping[str, float], dtypes: Mapping[str, np.dtype[Any]]) -> None:
    """Checks that the images of no split have values of 0 to 1 where others have up to 255.

    Args:
        highs: maximum value by split.
        dtypes: dtype by split, before splits are brought to one.

    Raises:
        DataError: one split was scaled, and another was not.
    """
    for name, high in highs.items():
        train_high = highs["train"]
        is_larger = dtypes["train"].kind == "f" and train_high <= 1 and high > _MIN_UNSCALED
        is_smaller = dtypes[name].kind == "f" and 0 < high <= 1 and train_high > _MIN_UNSCALED
        if is_larger or is_smaller:
            raise DataError(
                f"{title(name)} examples: found images of values up to {high:g}, and in training "
                f"up to {train_high:g}; scale both in the same way"
            )


def check_consistent(splits: Mapping[str, HasShape]) -> None:
    """Checks that one model can take the examples of all splits.

    Raises:
        DataError: they have different shapes, or only some splits are texts.
    """
    train = splits["train"]
    for name, examples in splits.items():
        if examples.shape[1:] != train.shape[1:]:
            raise DataError(
                f"{name} examples of shape {examples.shape[1:]}, expected {train.shape[1:]} as in "
                "training"
            )
        if (examples.dtype == object) != (train.dtype == object):
            raise DataError(f"{name} examples: texts in some splits only")


def class_names(labels: Array) -> tuple[str, ...]:
    """Returns the names "0", "1", ... for classes that have no other names.

    Args:
        labels: class indices of the training examples, int (N,).

    Raises:
        DataError: there are more than MAX_CLASSES.
    """
    count = int(labels.max()) + 1
    if count > MAX_CLASSES:
        raise DataError(
            f"training labels: found {count - 1}, expected class indices below {MAX_CLASSES}"
        )
    return tuple(str(index) for index in range(count))


def check_classes(split: str, labels: Array, classes: tuple[str, ...]) -> None:
    """Checks that a split can be used with these classes.

    Args:
        split: name of the split.
        labels: class indices, int32 (N,).
        classes: class names.

    Raises:
        DataError: as `check_label_range`; or a class has no training examples; or there is only
            one class.
    """
    for name in classes:
        if problem := text_error(name):
            raise DataError(f"class {name!r}: {problem}; rename it")
    check_label_range(split, labels, classes)
    counts = np.bincount(labels, minlength=len(classes))
    if split == "train" and not counts.all():
        raise DataError(f"class {classes[int(counts.argmin())]!r} has no training examples")
    if len(classes) < 2:
        raise DataError(f"found one class, {classes[0]!r}, expected at least two")


def check_label_range(split: str, labels: Array, classes: tuple[str, ...]) -> None:
    """Checks that all labels are indices of `classes`; arguments as `check_classes`.

    Raises:
        DataError: a label is out of range.
    """
    if labels.max() >= len(classes):
        raise DataError(
            f"{title(split)} labels: found {labels.max()}, expected 0 to {len(classes) - 1}, "
            "the classes of the training split"
        )


def imbalance_warning(counts: Array, classes: tuple[str, ...]) -> str | None:
    """Returns a warning if one class has at least ten times as many examples as another.

    Args:
        counts: number of training examples of each class, int (classes,), above 0.
        classes: names of the classes.
    """
    largest, smallest = int(counts.argmax()), int(counts.argmin())
    if counts[largest] < _MAX_IMBALANCE * counts[smallest]:
        return None
    return (
        f"{counts[largest]:,} training examples of class {classes[largest]!r} and "
        f"{counts[smallest]:,} of {classes[smallest]!r}; --class-weights balanced gives all "
        "classes the same weight in the loss"
    )


def count_uniform(examples: Array) -> int:
    """Returns the number of images of a single colour; 0 for other examples.

    Looks at all pixels of an image only if some of them are equal.

    Args:
        examples: (N, ...).
    """
    if examples.ndim != 4:
        return 0
    _, height, width, _ = examples.shape
    centre = examples[:, height // 2, width // 2]
    alike = (examples[:, 0, 0] == centre) & (examples[:, -1, -1] == centre)
    candidates = np.flatnonzero(alike.all(axis=1))
    return sum(bool((examples[row] == examples[row, :1, :1]).all()) for row in candidates)


def text_error(text: Any) -> str | None:
    """Returns why a value is no valid text, or None if it is one."""
    if not isinstance(text, str):
        return f"found {type(text).__name__}, expected a text"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"not valid Unicode: {error}"
    return "found a NUL character" if "\0" in text else None


def _check_texts(split: str, examples: Array) -> Array:
    name = title(split)
    if examples.ndim != 1:
        raise DataError(f"{name} examples: found texts of shape {examples.shape}, expected (N,)")
    texts = examples.astype(object)
    for row, text in enumerate(texts):
        if problem := text_error(text):
            raise DataError(f"{name} examples: example {row}: {problem}")
    return texts


def title(split: str) -> str:
    """Returns the name of a split as messages have it."""
    return "training" if split == "train" else split
