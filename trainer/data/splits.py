"""Assigns examples to splits by the names of their files and folders, and encodes class labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from trainer.data.dataset import SPLITS, Array, RawSplits
from trainer.errors import DataError

_SPLIT_OF_WORD = {
    "train": "train", "training": "train", "trainset": "train", "trainingset": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "trainval": "train", "xtrain": "train", "ytrain": "train", "xtest": "test", "ytest": "test",
    "traindata": "train", "trainingdata": "train", "testdata": "test",
    "valset": "validation", "validationset": "validation", "devset": "validation",
    "test": "test", "testing": "test", "testset": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
# In cells also words that mean other things in names of files.
_SPLIT_OF_CELL = _SPLIT_OF_WORD | {
    "tr": "train", "te": "test", "cv": "validation", "validate": "validation", "holdout": "test",
}  # fmt: skip
# Of Vertex AI's import files, whose rows without a split are all divided at random.
_UNASSIGNED = "unassigned"
_MAX_NAMED = 10


def from_name(name: str) -> str | None:
    """Returns the split that a word of the name of a file or folder denotes.

    For example "train" for train-0.csv, seg_train or Training_Set, and None for cats.
    """
    # The last one: ab_test_train.csv is the training split of a test.
    found = [_SPLIT_OF_WORD[word] for word in words_of(name) if word in _SPLIT_OF_WORD]
    return found[-1] if found else None


def words_of(name: str) -> list[str]:
    """Returns the words of a name in lower case: "train" and "labels" for trainLabels.csv."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


def from_word(word: str) -> str | None:
    """Returns the split that a word denotes: "train" for training or train_set; None for others."""
    return _SPLIT_OF_WORD.get(word) or _SPLIT_OF_WORD.get(word.removesuffix("set").rstrip("_"))


def from_value(value: str) -> str | None:
    """Returns the split that a cell of a table denotes: Training, PublicTest; None for others."""
    if value.strip().lower() == _UNASSIGNED:
        return "train"
    words = words_of(value)
    return next((_SPLIT_OF_CELL[word] for word in words if word in _SPLIT_OF_CELL), None)


def group_by_split(
    examples: Array,
    labels: Sequence[str],
    split_names: Sequence[str],
    kept: Sequence[bool] | None = None,
) -> RawSplits:
    """Returns examples grouped by split; if there is only one split, it becomes "train".

    Args:
        examples: (n, ...).
        labels: class name of each example, also of damaged ones that are left out.
        split_names: split of each of them: "train", "validation" or "test".
        kept: whether each of them is among `examples`; None if all are.

    Raises:
        DataError: as `encode_labels`; or all examples of a class or of a split are left out.
    """
    classes, indices, rows = encode_labels(labels, split_names)
    mask = np.ones(len(labels), bool) if kept is None else np.array(kept, bool)
    position = np.cumsum(mask) - 1
    groups = {}
    for split, at in rows.items():
        present = at[mask[at]]
        _check_classes_kept(split, indices[at], indices[present], classes)
        # Without a copy if the split is all of the data.
        whole = len(present) == len(examples)
        groups[split] = examples if whole else examples[position[present]], indices[present]
    return RawSplits(
        train=groups["train"],
        validation=groups.get("validation"),
        test=groups.get("test"),
        classes=classes,
    )


def check_kept(
    split: str,
    pairs: Iterable[tuple[Array, Array]],
    labels: Array,
    classes: Sequence[str],
) -> Iterator[tuple[Array, Array]]:
    """Yields blocks of examples with their labels; checks at the end that no class is lost.

    Args:
        split: name of the split.
        pairs: blocks of examples with their labels.
        labels: labels of all examples, also of those left out.
        classes: class names.

    Raises:
        DataError: as `group_by_split`.
    """
    kept = [np.empty(0, labels.dtype)]
    for examples, block_labels in pairs:
        kept.append(block_labels)
        yield examples, block_labels
    _check_classes_kept(split, labels, np.concatenate(kept), classes)


def _check_classes_kept(split: str, labels: Array, kept: Array, classes: Sequence[str]) -> None:
    counts, kept_counts = (np.bincount(each, minlength=len(classes)) for each in (labels, kept))
    if not len(kept):
        raise DataError(f"all {len(labels)} examples of the {split} split are damaged")
    lost = np.flatnonzero((counts > 0) & (kept_counts == 0))
    if split == "train" and len(lost):
        raise DataError(
            f"all {counts[lost[0]]} training examples of class {classes[lost[0]]!r} are damaged; "
            "replace them, or remove the class"
        )


def encode_labels(
    labels: Sequence[str], split_names: Sequence[str]
) -> tuple[tuple[str, ...], Array, dict[str, Array]]:
    """Encodes class names as class indices and finds the rows of each split.

    Args:
        labels: class name of each example; class names that are integers are sorted as integers.
        split_names: split of each example: "train", "validation" or "test".

    Returns:
        The class names; the class index of each example, int32 (N,); and for each split the row
        numbers of its examples, int64. If there is only one split, it becomes "train".

    Raises:
        DataError: there are several splits but no training split, or another split has a class
            that the training split does not have.
    """
    present = [split for split in SPLITS if split in split_names]
    train = present[0] if len(present) == 1 else "train"
    if train not in present:
        raise DataError(f"no training split, found {' and '.join(present)}")
    pairs = list(zip(labels, split_names, strict=True))
    classes = sort_classes({label for label, split in pairs if split == train})
    index_of = {label: index for index, label in enumerate(classes)}
    for label, split in pairs:
        if label not in index_of:
            raise unknown_class(split, label, classes)
    indices = np.array([index_of[label] for label in labels], dtype=np.int32)
    split_of = np.array(split_names)
    rows = {split: np.flatnonzero(split_of == split) for split in present}
    return (
        classes,
        indices,
        {"train" if split == train else split: rows[split] for split in present},
    )


def unknown_class(split: str, label: str, classes: Sequence[str]) -> DataError:
    """Returns the error for a class that the training split does not have."""
    shown = (*classes[:_MAX_NAMED], *(["..."] if len(classes) > _MAX_NAMED else []))
    return DataError(
        f"the {split} split has a class {label!r} that the training split does not have: "
        f"{', '.join(shown)}"
    )


def sort_classes(labels: set[str]) -> tuple[str, ...]:
    """Returns class names in order; those that are all integers by their values."""
    if all(re.fullmatch(r"-?\d{1,18}", label) for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))
