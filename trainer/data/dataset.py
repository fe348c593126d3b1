"""A data set in memory: named splits with a spec, and a fixed order of examples."""

from __future__ import annotations

import collections
import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.config import ReadOptions
from trainer.data import checks, digests
from trainer.data.shards.reader import Shards
from trainer.errors import DataError

# Of data that comes in one piece, the part that is kept for the final test.
TEST_FRACTION = 0.1

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Split:
    """Examples with their labels.

    Attributes:
        examples: images, uint8 or float32 (N, H, W, C); vectors, uint8 or float32 (N, D); or texts,
            object array of str (N,). Images and vectors may be Shards, which are read as needed.
        labels: class numbers, int32 (N,).
    """

    examples: Array | Shards
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def array(self) -> Array:
        """The examples in memory; those of shards are read now."""
        return self.examples[:] if isinstance(self.examples, Shards) else self.examples

    def order(self, seed: int, epoch: int) -> Array:
        """Returns the order of examples in an epoch: indices, int32 (N,).

        A pure function of its arguments on every machine (Philox, Salmon et al. 2011), so that to
        resume at a position takes the position alone.
        """
        if isinstance(self.examples, Shards):
            return np.concatenate(list(self.examples.windows(seed, epoch))).astype(np.int32)
        generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        return generator.permutation(len(self)).astype(np.int32)

    def select(self, mask: Array) -> Split:
        """Returns those examples for which a mask is true, bool (N,)."""
        examples = self.examples
        chosen = examples.chosen(mask) if isinstance(examples, Shards) else examples[mask]
        return Split(chosen, self.labels[mask])


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a model must know of the data before it is built.

    Attributes:
        shape: of one example: (H, W, C) for images, (D,) for vectors, () for a text.
        dtype: "uint8", "float32" or "string".
        low: least value of an example; 0 for uint8 and texts.
        high: greatest value; 255 for uint8 images, else that of the training part.
        classes: class names; the label n stands for classes[n].
        sizes: examples in each split, by its name.
        train: the training part, for models that fit their preprocessing, such as a vocabulary, to
            it. There is no way to the other parts from here.
    """

    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float
    classes: tuple[str, ...]
    sizes: dict[str, int]
    train: Split = field(repr=False)

    @property
    def kind(self) -> str:
        """What an example is: "image", "vector" or "text"."""
        if self.dtype == "string":
            return "text"
        return {3: "image", 1: "vector"}[len(self.shape)]


@dataclass(frozen=True, kw_only=True)
class ReadRequest:
    """What a format gets besides the files: the user's options, and where the files come from.

    Attributes:
        options: as the user gave them.
        root: folder, local or gs://, that relative paths in the files refer to.
        remote: whether the files came from a bucket, so that they must not name local files.
        needs_training: whether a training split is required; otherwise a test split alone is read
            as unsplit data.
        shuffled: whether a stream gives its examples in the order of `external_shuffle`, and not in
            that of the files.
    """

    options: ReadOptions = ReadOptions()
    root: str = "."
    remote: bool = False
    needs_training: bool = True
    shuffled: bool = False


@dataclass(frozen=True)
class RawSplits:
    """What a format reads from files, before it is checked and split.

    Attributes:
        train: examples and labels; labels are integers (N,) or one-hot (N, classes).
        test: the same; None if there is no test part.
        classes: class names; None if classes only have numbers.
        validation_split: as test.
    """

    train: tuple[Array | Shards, Array]
    test: tuple[Array | Shards, Array] | None = None
    classes: tuple[str, ...] | None = None
    validation: tuple[Array | Shards, Array] | None = None


def labelled(source: RawSplits, classes: tuple[str, ...]) -> tuple[Split, str]:
    """Returns what a model can be tested on: the test part, or all of data that has none.

    Args:
        source: what was read.
        classes: class names of the model. Classes that have names are matched by them, those that
            only have numbers by these.

    Returns:
        The examples, with labels that are numbers in `classes`; and "test" or "all".

    Raises:
        DataError: examples and labels that do not fit together, or a class that is none of these.
    """
    parts = checked(source)
    part = "test" if "test" in parts else "all"
    chosen = [parts["test"]] if part == "test" else list(parts.values())
    labels = np.concatenate([each.labels for each in chosen])
    if source.classes is not None:
        labels = numbers_in(classes, source.classes)[labels]
    elif labels.max() >= len(classes):
        raise DataError(f"labels: found {labels.max()}, expected 0 to {len(classes) - 1}")
    return Split(np.concatenate([each.array for each in chosen]), labels), part


def numbers_in(classes: tuple[str, ...], others: tuple[str, ...]) -> Array:
    """Returns for each of the other classes its number among `classes`, int32 (others,).

    Raises:
        DataError: one of them is not there.
    """
    unknown = sorted(set(others) - set(classes))
    if unknown:
        raise DataError(f"found class {unknown[0]!r}, expected {', '.join(classes)}")
    return np.array([classes.index(name) for name in others], np.int32)


@dataclass(frozen=True)
class Dataset:
    """A checked data set.

    Attributes:
        spec: what a model must know of it.
        train: what weights are fitted to.
        validation_split: held out of the training data, to choose by; None unless asked for.
        test: used once, after training.
        fingerprint: SHA-256 over every example, label and class name, split by split.
        shared: how many examples of each other part are in the training part too; not of shards
            that were made without digests.
    """

    spec: Spec
    train: Split = field(repr=False)
    validation: Split | None
    test: Split
    fingerprint: str
    leaked: dict[str, int]

    @property
    def size_bytes(self) -> int:
        """Memory that the examples take; of texts, their references only."""
        parts = (self.train, self.validation, self.test)
        return sum(part.examples.nbytes for part in parts if part is not None)

    @classmethod
    def split(
        cls,
        source: RawSplits,
        *,
        seed: int,
        validation_split: float,
        fold: tuple[int, int] | None = None,
    ) -> Dataset:
        """Checks what was read, and holds out what is to be held out, stratified and seeded.

        Args:
            source: what was read.
            seed: decides which examples are held out.
            validation_split: part of the training examples to hold out for validation.
            fold: (n, of) makes the n-th, from 1, of so many equal parts of the training examples
                the test part; test examples that came apart are left out.

        Raises:
            DataError: examples and labels that do not fit together, or cannot be trained on.
        """
        parts = checked(source)
        train, held_out, test = parts["train"], parts.get("validation"), parts.get("test")
        classes = source.classes or checks.class_names(train.labels)
        if fold is not None:
            train, test = _fold(train, *fold, classes, seed=seed)
        elif test is None:
            train, test = _hold_out(train, TEST_FRACTION, classes, seed=seed, stream=0)
        if validation_split:
            train, held_out = _hold_out(train, validation_split, classes, seed=seed, stream=1)
        splits = {"train": train, "validation": held_out, "test": test}
        present = {name: part for name, part in splits.items() if part is not None}
        for name, part in present.items():
            checks.check_classes(name, part.labels, classes)
        spec = _spec(train, classes, {name: len(part) for name, part in present.items()})
        others = ((name, part) for name, part in present.items() if name != "train")
        counts = {name: _shared(train.examples, part.examples) for name, part in others}
        shared = {name: count for name, count in counts.items() if count is not None}
        return cls(spec, train, held_out, test, _fingerprint(present, classes), shared)

    def class_counts(self) -> Array:
        """Returns how many training examples each class has: int64 (classes,)."""
        return np.bincount(self.train.labels, minlength=len(self.spec.classes))

    def sample(self, most: int, *, seed: int) -> Dataset:
        """Returns a smaller data set to choose by, with a validation part and without the test's.

        Args:
            most: training examples that are used; those that are held out are of them, unless there
                is a validation part.
            seed: decides which.

        Raises:
            DataError: a class has too few examples.
        """
        train, held_out, classes = self.train, self.validation, self.spec.classes
        if len(train) > most:
            _, train = _hold_out(train, most / len(train), classes, seed=seed, stream=3)
        if held_out is None:
            train, held_out = _hold_out(train, TEST_FRACTION, classes, seed=seed, stream=4)
        sizes = {"train": len(train), "validation": len(held_out)}
        spec = _spec(train, classes, sizes)
        return Dataset(spec, train, held_out, held_out, "", {})

    def weights(self, kind: str) -> Array | None:
        """Returns what an example counts in training, by its class: float32 (classes,).

        None for "none"; for "balanced" weights with which each class counts as much, 1 on average.

        Source: scikit-learn's class_weight="balanced", after King and Zeng 2001, "Logistic
        regression in rare events data".
        """
        if kind == "none":
            return None
        counts = self.class_counts()
        return (len(self.train) / (len(counts) * counts)).astype(np.float32)


def checked(source: RawSplits) -> dict[str, Split]:
    """Returns the parts of a data set as they lie, by their names, in the form of Split.

    Raises:
        DataError: examples and labels that do not fit together, or cannot be trained on.
    """
    parts = {"train": source.train, "validation": source.validation, "test": source.test}
    present = {name: checks.part(name, *part) for name, part in parts.items() if part is not None}
    return {name: Split(*part) for name, part in checks.check_consistent(present).items()}


def _hold_out(
    split: Split, fraction: float, classes: tuple[str, ...], *, seed: int, stream: int
) -> tuple[Split, Split]:
    """Splits each class by `fraction`, at least one example a class on either side."""
    generator = np.random.Generator(np.random.Philox(key=[seed, 2**63 + stream]))
    held_out = np.zeros(len(split), dtype=bool)
    for label, name in enumerate(classes):
        members = generator.permutation(np.flatnonzero(split.labels == label))
        if len(members) == 0:
            raise DataError(f"class {name!r} has no training examples")
        if len(members) == 1:
            raise DataError(f"class {name!r} has 1 example, too few to hold one out")
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        held_out[members[:count]] = True
    return _parted(split, held_out)


def _fold(
    split: Split, number: int, folds: int, classes: tuple[str, ...], *, seed: int
) -> tuple[Split, Split]:
    """Splits off one of `folds` parts, in each of which a class has its share, give or take one."""
    generator = np.random.Generator(np.random.Philox(key=[seed, 2**63 + 2]))
    fold_of = np.zeros(len(split), int)
    dealt = 0
    for label, name in enumerate(classes):
        members = generator.permutation(np.flatnonzero(split.labels == label))
        if len(members) < folds:
            raise DataError(f"class {name!r} has {len(members)} examples, expected {folds} or more")
        # Dealt on from where the class before ended, so that the folds are equally large.
        fold_of[members] = (dealt + np.arange(len(members))) % folds
        dealt += len(members)
    return _parted(split, fold_of == number - 1)


def _parted(split: Split, held_out: Array) -> tuple[Split, Split]:
    """Returns the examples that stay, and those held out, bool (N,)."""
    return split.select(~held_out), split.select(held_out)


def _spec(train: Split, classes: tuple[str, ...], sizes: dict[str, int]) -> Spec:
    examples = train.examples
    if examples.dtype == object:
        dtype, low, high = "string", 0.0, 0.0
    elif examples.dtype == np.uint8 and examples.ndim == 4:
        dtype, low, high = "uint8", 0.0, 255.0
    else:
        dtype, low, high = str(examples.dtype), float(examples.min()), float(examples.max())
    return Spec(
        shape=examples.shape[1:],
        dtype=dtype,
        low=low,
        high=high,
        classes=classes,
        sizes=sizes,
        train=train,
    )


def _shared(train: Array | Shards, other: Array | Shards) -> int | None:
    """Counts the examples of a part that are in the training part too; None if nobody knows."""
    if not isinstance(train, Shards) and not isinstance(other, Shards):
        known = collections.Counter(map(_content, other))
        return sum(known.pop(key, 0) for key in map(_content, train))
    keys = [
        part.digests if isinstance(part, Shards) else digests.of(part) for part in (train, other)
    ]
    return None if keys[0] is None or keys[1] is None else digests.count_leaked(keys[0], keys[1])


def _content(example: Any) -> str | bytes:
    return example if isinstance(example, str) else example.tobytes()


def _fingerprint(splits: dict[str, Split], classes: tuple[str, ...]) -> str:
    digest = hashlib.sha256(repr(classes).encode())
    for name, part in splits.items():
        examples = part.examples
        digest.update(f"{name} {examples.shape} {examples.dtype}".encode())
        if isinstance(examples, Shards):
            digest.update(examples.fingerprint())
        elif examples.dtype == object:
            for text in examples:
                encoded = text.encode()
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
        else:
            digest.update(np.ascontiguousarray(examples).data)
        digest.update(part.labels.data)
    return digest.hexdigest()
