"""Labels in arrays, of whatever dtype and shape, as class indices and class names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.data import checks, splits
from trainer.data.dataset import Array
from trainer.data.tables import labels
from trainer.errors import DataError
from trainer.runtime.log import LOGGER

_UNLABELLED = -1


def encode(
    arrays: Mapping[str, Array], counts: Mapping[str, int], names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], dict[str, Array]]:
    """Returns the classes, and the labels of each split as class indices, int32 (N,).

    The classes are the values that occur in the training split. A split whose labels are all -1 is
    left out, with a warning.

    Args:
        arrays: labels by split, "train" first: integers, whole floats, booleans or strings, (N,) or
            (N, 1); or one-hot (N, classes).
        counts: number of examples by split.
        names: class names that integer labels are indices of; None if the labels are the names.

    Raises:
        DataError: they are no labels of one class each, or do not match the examples.
    """
    values = {split: _flatten(split, array, counts[split]) for split, array in arrays.items()}
    values = _without_unlabelled(values)
    named = {split: _names(split, array, names) for split, array in values.items()}
    present, _ = named["train"]
    if len(present) > checks.MAX_CLASSES:
        raise DataError(
            f"training labels: found {len(present)} different ones such as {present[0]}, expected "
            f"at most {checks.MAX_CLASSES} classes"
        )
    labels.unify(present)  # Warns of classes that differ only in capital letters.
    classes = splits.sort_classes(set(present))
    index_of = {name: index for index, name in enumerate(classes)}
    indices = {}
    for split, (split_names, inverse) in named.items():
        unknown = [name for name in split_names if name not in index_of]
        if unknown:
            raise splits.unknown_class(split, unknown[0], classes)
        lookup = np.array([index_of[name] for name in split_names], np.int32)
        indices[split] = lookup[inverse]
    return classes, indices


def _flatten(split: str, array: Array, count: int) -> Array:
    """Returns labels as integers, booleans or strings (N,).

    Raises:
        DataError: there are more or fewer than examples; or as `encode`.
    """
    title = f"{checks.title(split)} labels"
    is_column = array.ndim == 2 and 1 in array.shape and array.size == count
    flat = array.reshape(-1) if is_column else array
    if len(flat.shape) and flat.shape[0] != count:
        raise DataError(f"{checks.title(split)} split: {count} examples but {flat.shape[0]} labels")
    if flat.dtype.kind == "f":
        whole = flat == np.floor(flat)
        if not whole.all():  # NaN is not equal to itself.
            value = flat[~whole].flat[0]
            raise DataError(
                f"{title}: found {value:g}, expected classes, as whole numbers; numbers cannot be "
                "predicted yet"
            )
    if flat.ndim == 2 and flat.dtype.kind in "biuf":
        is_hot = np.isin(flat, (0, 1)).all(axis=1) & (flat.sum(axis=1) == 1)
        if not is_hot.all():
            row = int(np.flatnonzero(~is_hot)[0])
            raise DataError(
                f"{title}: found {flat[row].tolist()[:10]} for example {row}, expected one-hot "
                "labels, a single 1 among zeros, or one label for each example"
            )
        return np.asarray(flat.argmax(axis=1))
    if flat.ndim != 1 or flat.dtype.kind not in "biufUSO":
        raise DataError(
            f"{title}: found {array.dtype} of shape {array.shape}, expected integers or strings, "
            "(N,) or one-hot (N, classes)"
        )
    if count == 0:
        raise DataError(f"{checks.title(split)} split: no examples")
    return flat.astype(np.int64) if flat.dtype.kind == "f" else flat


def _without_unlabelled(values: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the splits that have labels; -1 stands for no label, unless all are -1 or 1.

    Raises:
        DataError: examples of the training split, or some of another split, have no label.
    """
    numeric = {split: array for split, array in values.items() if array.dtype.kind in "iu"}
    train = values["train"]
    if train.dtype.kind in "iu" and np.array_equal(np.unique(train), (-1, 1)):
        return dict(values)  # The two classes of a support vector machine.
    left_out = []
    for split, array in numeric.items():
        lowest = int(array.min())
        if lowest >= 0:
            continue
        missing = int((array == _UNLABELLED).sum())
        if split != "train" and missing == len(array):
            left_out.append(split)
            LOGGER.warning(
                "left out the %s split: its %d labels are all -1, which stands for no label",
                split, len(array),
            )  # fmt: skip
        elif lowest == _UNLABELLED:
            raise DataError(
                f"{checks.title(split)} labels: found -1 for {missing} of {len(array)} examples, "
                "which stands for no label; remove these examples"
            )
        else:
            raise DataError(f"{checks.title(split)} labels: found {lowest}, expected 0 or more")
    return {split: array for split, array in values.items() if split not in left_out}


def _names(split: str, values: Array, names: Sequence[str] | None) -> tuple[list[str], Array]:
    """Returns the distinct class names, and for each example the index of its name.

    Raises:
        DataError: a label is missing, no class, or no index of `names`.
    """
    title = f"{checks.title(split)} labels"
    if values.dtype.kind == "O":
        values = np.array([str(labels.to_name(value)) for value in values.tolist()])
    distinct, inverse = np.unique(values, return_inverse=True)
    present = [_name(value, names if values.dtype.kind in "iu" else None) for value in distinct]
    if "" in present:
        raise DataError(f"{title}: found an empty label for an example, expected a class")
    if len(set(present)) < len(present):  # Spaces around a name, or another Unicode form.
        merged = sorted(set(present))
        position = np.array([merged.index(name) for name in present])
        return merged, position[inverse]
    return present, inverse


def _name(value: Any, names: Sequence[str] | None) -> str:
    name = labels.to_name(value.item() if hasattr(value, "item") else value)
    if names is not None and name.isdigit() and int(name) < len(names):
        return names[int(name)]
    return name
