"""Distinguishes arrays by their names: x_train and y_train, or images and labels, ..."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.data import splits
from trainer.data.arrays import array_files
from trainer.data.arrays.array_files import ArrayFile
from trainer.data.dataset import Array, RawSplits, ReadRequest
from trainer.data.shards.shard_format import Stream
from trainer.errors import DataError, Location

_EXAMPLES = frozenset({
    "x", "xs", "data", "image", "images", "img", "imgs", "feature", "features", "input", "inputs",
    "example", "examples", "sample", "samples", "pixels", "vectors", "embeddings", "text", "texts",
})  # fmt: skip
_LABELS = frozenset({
    "y", "ys", "label", "labels", "lbl", "lbls", "target", "targets", "class", "category",
})  # fmt: skip
# Of CIFAR-100, whose 100 fine classes are what everybody means.
_FINE, _COARSE = "fine_labels", "coarse_labels"
_CLASS_NAMES = frozenset({
    "class_names", "classes", "label_names", "labels_names", "target_names", "categories",
    "fine_label_names",
})  # fmt: skip
_BY_ORDER = re.compile(r"arr_(\d+)")  # As np.savez names arrays without names.
_SPLIT_NAMES = ("train", "validation", "test")
EXPECTED = (
    "x_train and y_train (and x_validation, y_validation, x_test, y_test), or x and y; images and "
    "labels, or data and targets, mean the same"
)


@dataclass(frozen=True)
class NamedArray:
    """An array of which the name, shape and dtype are known, and that may not be read yet.

    Attributes:
        name: name in its file, with the folders around it, such as "x_train" or "train/images".
        shape: (N, ...).
        dtype: dtype of its values.
        read: returns the values.
        file: the same as a stream of rows; None if it must be read as a whole.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], Array]
    file: Callable[[], ArrayFile | None] = lambda: None

    @classmethod
    def in_memory(cls, name: str, values: Array) -> NamedArray:
        """Returns an array that has been read."""
        return cls(name, values.shape, values.dtype, lambda: values)

    def describe(self) -> str:
        """Returns name and shape, for messages: "x_train (60000, 28, 28)"."""
        return f"{self.name} ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True)
class Assignment:
    """What the arrays of a data set are.

    Attributes:
        splits: by split, "train" first: the examples and the labels.
        class_names: the class names; None if no array holds them.
        unused: the names of other arrays, with the reasons.
    """

    splits: Mapping[str, tuple[NamedArray, NamedArray]]
    class_names: NamedArray | None = None
    unused: tuple[str, ...] = ()

    def describe(self) -> str:
        """Returns which arrays are read, for the user."""
        used = ", ".join(f"{x.name}, {y.name}" for x, y in self.splits.values())
        unused = f", not used: {', '.join(self.unused)}" if self.unused else ""
        return f"arrays {used}{unused}"


def assign(all_arrays: Sequence[NamedArray], *, needs_training: bool = True) -> Assignment:
    """Finds the examples and labels of each split by the names of the arrays.

    Args:
        all_arrays: all arrays.
        needs_training: whether a training split is required.

    Raises:
        DataError: the names are not clear, or examples or labels are missing; without a location.
    """
    if all_arrays and all(_BY_ORDER.fullmatch(each.name) for each in all_arrays):
        ordered = sorted(all_arrays, key=lambda each: int(each.name.removeprefix("arr_")))
        return Assignment(in_order(ordered))
    roles: dict[tuple[str, str], NamedArray] = {}
    class_names, unused = None, []
    has_fine = any(_normalized(each.name).endswith(_FINE) for each in all_arrays)
    for each in all_arrays:
        role = _role(each.name, has_fine=has_fine)
        if role is None and _normalized(each.name) in _CLASS_NAMES and len(each.shape) == 1:
            class_names = each
        elif role is None:
            unused.append(each.name)
        elif role in roles:
            raise DataError(
                f"found two arrays for the same {role[1]}, {roles[role].name} and {each.name}. "
                f"{_describe(all_arrays)}"
            )
        else:
            roles[role] = each
    if not any(split == "train" for split, _ in roles):
        roles = {("train" if split == "" else split, kind): x for (split, kind), x in roles.items()}
    elif any(split == "" for split, _ in roles):
        names = [each.name for (split, _), each in roles.items() if split == ""]
        unused += [f"{name} (beside the training split)" for name in names]
    return Assignment(_pairs(roles, all_arrays, unused, needs_training), class_names, tuple(unused))


def _pairs(
    roles: Mapping[tuple[str, str], NamedArray],
    all_arrays: Sequence[NamedArray],
    unused: list[str],
    needs_training: bool,
) -> dict[str, tuple[NamedArray, NamedArray]]:
    """Returns examples and labels by split; adds examples without labels to `unused`."""
    pairs = {}
    for split in _SPLIT_NAMES:
        x, y = roles.get((split, "examples")), roles.get((split, "labels"))
        if x is not None and y is not None:
            pairs[split] = x, y
        elif y is not None:
            raise DataError(f"found no examples for the labels {y.name}. {_describe(all_arrays)}")
        elif x is not None and split == "train":
            raise DataError(f"found no labels for the examples {x.name}. {_describe(all_arrays)}")
        elif x is not None:
            unused.append(f"{x.name} (no labels)")
    if "train" not in pairs and len(pairs) == 1 and not needs_training:
        (pair,) = pairs.values()
        return {"train": pair}
    if "train" not in pairs:
        raise DataError(f"found no training examples with labels. {_describe(all_arrays)}")
    return pairs


def in_order(all_arrays: Sequence[NamedArray]) -> dict[str, tuple[NamedArray, NamedArray]]:
    """Returns examples and labels by split, of arrays without names, by their order and shapes.

    Either each split is followed by its labels, as Keras returns them, or all examples come before
    all labels, as scikit-learn's `train_test_split` returns them.

    Args:
        all_arrays: two arrays, or four with a test split, or six with a validation split before it.

    Raises:
        DataError: no order fits the shapes, or both do; without a location.
    """
    names = {1: ("train",), 2: ("train", "test"), 3: _SPLIT_NAMES}.get(len(all_arrays) // 2, ())
    half = len(all_arrays) // 2
    orders = [
        list(zip(all_arrays[::2], all_arrays[1::2], strict=False)),
        list(zip(all_arrays[:half], all_arrays[half:], strict=False)),
    ]
    fitting = [
        order
        for number, order in enumerate(orders)
        if len(all_arrays) == 2 * len(names) > 0 and _fit(order) and (number == 0 or half > 1)
    ]
    if len(fitting) != 1:
        raise DataError(
            f"the order of the arrays does not tell what they are. {_describe(all_arrays)}"
        )
    return dict(zip(names, fitting[0], strict=True))


def _fit(pairs: Sequence[tuple[NamedArray, NamedArray]]) -> bool:
    """Returns whether each pair can be the examples and labels of a split."""
    examples = {x.shape[1:] for x, _ in pairs}
    labels = {len(y.shape) for _, y in pairs}
    return (
        len(examples) == len(labels) == 1
        and all(len(x.shape) > 1 or x.dtype.kind in "UO" for x, _ in pairs)
        and all(1 <= len(y.shape) <= 2 for _, y in pairs)
        and all(x.shape[0] == y.shape[0] for x, y in pairs)
    )


def read(assignment: Assignment, location: Location) -> RawSplits:
    """Reads all arrays.

    Raises:
        DataError: they are damaged, or no examples and labels.
    """
    pairs = {split: (x.read(), y.read()) for split, (x, y) in assignment.splits.items()}
    try:
        return array_files.raw_splits(pairs, _names(assignment))
    except DataError as error:
        raise error.at(location) from None


def stream(assignment: Assignment, request: ReadRequest, location: Location) -> Stream | None:
    """Returns the examples as a stream; None if they must be read as a whole.

    Raises:
        DataError: as `read`; perhaps when a damaged block is read.
    """
    files, labels = {}, {}
    for split, (x, y) in assignment.splits.items():
        file = x.file()
        if file is None or array_files.is_channels_first(split, x.shape):
            return None
        files[split], labels[split] = file, y.read()
    try:
        return array_files.stream(files, labels, request, _names(assignment))
    except DataError as error:
        raise error.at(location) from None


def _names(assignment: Assignment) -> list[str] | None:
    if assignment.class_names is None:
        return None
    values = assignment.class_names.read()
    return [str(value) for value in values.tolist()] if values.dtype.kind in "UO" else None


def _normalized(name: str) -> str:
    """Returns a name in lower case, with underscores between its words: X-train, train/x."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _role(name: str, *, has_fine: bool) -> tuple[str, str] | None:
    """Returns the split ("" for none) and "examples" or "labels"; None for other names.

    Args:
        name: name of the array: X_train, trainX, train/images, images, ....
        has_fine: whether fine labels are among the arrays, so that coarse ones are not meant.
    """
    words = _normalized(name)
    if words.endswith(_FINE) or (words.endswith(_COARSE) and not has_fine):
        words = words.replace(_FINE, "labels").replace(_COARSE, "labels")
    for kind, role_names in (("examples", _EXAMPLES), ("labels", _LABELS)):
        if words in role_names:
            return "", kind
        for role in role_names:
            before, after = words.removesuffix(role), words.removeprefix(role)
            for rest in (before, after):
                split = splits.from_word(rest.strip("_"))
                if len(rest) < len(words) and split is not None:
                    return split, kind
    return None


def _describe(all_arrays: Iterable[NamedArray]) -> str:
    shown = list(itertools.islice((each.describe() for each in all_arrays), 12))
    names = ", ".join(shown) or "none"
    return f"Found the arrays {names}; expected {EXPECTED}"
