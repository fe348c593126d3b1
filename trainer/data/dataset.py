"""A data set in memory: splits with a spec, and a deterministic order of examples."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.config import ReadOptions
from trainer.data import checks, digests
from trainer.data.shards.reader import Array as Array
from trainer.data.shards.reader import Shards
from trainer.errors import DataError, Location

if TYPE_CHECKING:
    from trainer.data.tables.columns import Columns

SPLITS = ("train", "validation", "test")

# Fraction of the training examples that becomes the test split if the data has none.
TEST_FRACTION = 0.1
_MAX_SHOWN, _MAX_NAME = 10, 40

# Streams of the random generator, one per purpose, so that one choice does not shift another.
_TEST_STREAM, _VALIDATION_STREAM, _FOLD_STREAM, _SUBSAMPLE_STREAM, _SUBSAMPLE_VALIDATION_STREAM = (
    range(5)
)


@dataclass(frozen=True)
class Split:
    """Examples with their labels.

    Attributes:
        examples: images, uint8 or float32 (N, H, W, C); vectors, uint8 or float32 (N, D); or texts,
            object array of str (N,). Images and vectors may be Shards, which are read on demand.
        labels: class indices, int32 (N,).
    """

    examples: Array | Shards
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def array(self) -> Array:
        """The examples in memory; reads all shards."""
        return self.examples[:] if isinstance(self.examples, Shards) else self.examples

    def order(self, seed: int, epoch: int) -> Array:
        """Returns the order of examples in an epoch: row numbers, int32 (N,).

        A pure function of its arguments on every machine (Philox, Salmon et al. 2011). A run can
        therefore resume from its position in the epoch alone.
        """
        if isinstance(self.examples, Shards):
            return np.concatenate(list(self.examples.shuffle_blocks(seed, epoch))).astype(np.int32)
        generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        return generator.permutation(len(self)).astype(np.int32)

    def select(self, mask: Array) -> Split:
        """Returns the examples for which `mask`, bool (N,), is true."""
        examples = self.examples
        selected = examples.select(mask) if isinstance(examples, Shards) else examples[mask]
        return Split(selected, self.labels[mask])


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Description of a data set, from which a model is built.

    Attributes:
        shape: shape of one example: (H, W, C) for images, (D,) for vectors, () for texts.
        dtype: "uint8", "float32" or "string".
        low: minimum value of the training examples; 0 for uint8 images and texts.
        high: maximum value of the training examples; 255 for uint8 images.
        classes: class names; label n is classes[n].
        sizes: number of examples by split.
        train: training split, for models that fit their preprocessing to it, such as a vocabulary.
            Other splits cannot be reached from here.
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
        """Kind of the examples: "image", "vector" or "text"."""
        if self.dtype == "string":
            return "text"
        return {3: "image", 1: "vector"}[len(self.shape)]


@dataclass(frozen=True, kw_only=True)
class ImageLayout:
    """The one form that all image files of a data set are decoded to.

    Attributes:
        height: number of rows.
        width: pixels per row.
        channels: 1 for grey images, 3 for colours.
        dtype: "uint8"; or "float32" for images of more than 8 bits, whose values stay as they are.
        image_size: pixels per side, if the data decided them; None if the images have one size, or
            the user gave --image-size.
        note: what is done to the images, for the user; "" for nothing.
    """

    height: int
    width: int
    channels: int
    dtype: str
    image_size: int | None = None
    note: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.height, self.width, self.channels


@dataclass(frozen=True, kw_only=True)
class ReadRequest:
    """How a format reads its files: the user's options, and the source of the files.

    Attributes:
        options: options of the user.
        root: folder, local or gs://, that relative paths in the files refer to.
        remote: whether the files came from a bucket; such files must not name local files.
        needs_training: whether a training split is required; otherwise a test split alone is read
            as unsplit data.
        needs_labels: whether data without labels is an error.
        shuffled: whether a stream yields its examples in the random order of `external_shuffle`;
            otherwise in the order of the files.
        columns: columns of tables, as a run was trained on; None if their content decides.
        layout: what image files are decoded to; None if their headers decide.
        original: returns the location that the user knows, for one in a temporary copy.
    """

    options: ReadOptions = ReadOptions()
    root: str = "."
    remote: bool = False
    needs_training: bool = True
    needs_labels: bool = True
    shuffled: bool = False
    columns: Columns | None = None
    layout: ImageLayout | None = None
    original: Callable[[Location | None], Location] = lambda location: location or Location("")


@dataclass(frozen=True, kw_only=True)
class Source:
    """How a data set was read.

    Attributes:
        format: name of its format, as for --data-format; "shards" for shards.
        summary: what was read, for the user.
        left_out: files that were not read, with the reasons, for the user; "" if there are none.
        columns: columns of its tables; None for other data.
        encoding: value of --encoding; None if the content of each file decides.
        whole_files: whether each text is a file of its own, and some have several lines.
    """

    format: str
    summary: str
    left_out: str = ""
    columns: Columns | None = None
    encoding: str | None = None
    whole_files: bool = False

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Source:
        """Returns a source from the result of `dataclasses.asdict`, perhaps read from JSON.

        Raises:
            ValueError: a field is missing, unknown or invalid.
        """
        from trainer.data.tables.columns import Columns

        try:
            columns = fields["columns"]
            return cls(
                **{
                    **fields,
                    "columns": None if columns is None else Columns.from_dict(columns),
                }
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"source: {error}") from None


@dataclass(frozen=True)
class RawSplits:
    """Splits as a format reads them, before checks and before anything is held out.

    Attributes:
        train: examples and labels; labels are integers (N,) or one-hot (N, classes).
        test: the same for the test split; None if there is none.
        classes: class names; None if classes only have indices.
        validation: the same for the validation split; None if there is none.
        source: how they were read; None if a program made them.
        layout: what image files were decoded to; None for other data.
        integer_labels: whether the class names are only the integers of an array, so that they may
            be indices of the named classes of other data.
    """

    train: tuple[Array | Shards, Array]
    test: tuple[Array | Shards, Array] | None = None
    classes: tuple[str, ...] | None = None
    validation: tuple[Array | Shards, Array] | None = None
    source: Source | None = None
    layout: ImageLayout | None = None
    integer_labels: bool = False


def evaluation_split(raw: RawSplits, classes: tuple[str, ...]) -> tuple[Split, str]:
    """Returns the examples to evaluate a model on: the test split, or all if there is none.

    Args:
        raw: splits as read.
        classes: class names of the model. Named classes of the data are matched by name, other
            classes by index.

    Returns:
        The examples, with labels that are indices of `classes`; and "test" or "all".

    Raises:
        DataError: examples and labels do not match, or the model does not know a class.
    """
    splits = check_splits(raw)
    name = "test" if "test" in splits else "all"
    selected = [splits["test"]] if name == "test" else list(splits.values())
    labels = np.concatenate([split.labels for split in selected])
    if raw.classes is not None:
        labels = match_classes(classes, raw.classes, integers=raw.integer_labels)[labels]
    elif labels.max() >= len(classes):
        raise DataError(f"labels: found {labels.max()}, expected 0 to {len(classes) - 1}")
    return Split(np.concatenate([split.array for split in selected]), labels), name


def match_classes(
    classes: tuple[str, ...], others: tuple[str, ...], *, integers: bool = False
) -> Array:
    """Returns the index in `classes` of each class of other data, int32 (len(others),).

    Args:
        classes: class names.
        others: class names of the other data.
        integers: whether `others` are only the integers of an array; if none of them is in
            `classes`, they are indices.

    Raises:
        DataError: a name is not in `classes`.
    """
    if integers and not {*others} & {*classes}:
        indices = np.array(others).astype(np.int64)
        if 0 <= indices.min() and indices.max() < len(classes):
            return indices.astype(np.int32)
    unknown = sorted(set(others) - set(classes))
    if unknown:
        raise DataError(f"found class {unknown[0]!r}, expected {', '.join(classes)}")
    return np.array([classes.index(name) for name in others], np.int32)


@dataclass(frozen=True)
class Dataset:
    """A checked data set with its splits.

    Attributes:
        spec: description for the model.
        train: training split.
        validation: validation split; None if the data has none and none was held out.
        test: test split, used once, after training.
        fingerprint: SHA-256 of every example, label and class name, split by split.
        leaked: by split, how many of its examples are also in the training split. Splits of shards
            without digests are left out.
        source: how the data was read; None if a program made it.
        layout: what image files were decoded to; None for other data.
    """

    spec: Spec
    train: Split = field(repr=False)
    validation: Split | None
    test: Split
    fingerprint: str
    leaked: dict[str, int]
    source: Source | None = None
    layout: ImageLayout | None = None

    @property
    def auto_settings(self) -> dict[str, Any]:
        """Settings that the user left open, and that were decided when the data was read."""
        size = None if self.layout is None else self.layout.image_size
        return {} if size is None else {"image_size": size}

    def describe(self) -> str:
        """Returns what was understood of the data, for the user."""
        sizes = ", ".join(f"{name} {size:,}" for name, size in self.spec.sizes.items())
        names = self.spec.classes
        shown = ", ".join(map(_shorten, names[:_MAX_SHOWN]))
        shown += ", ..." if len(names) > _MAX_SHOWN else ""
        what = "" if self.source is None else f"{self.source.summary}; "
        return f"{what}{sizes}; {len(names)} classes: {shown}"

    @property
    def size_bytes(self) -> int:
        """Memory of the examples in bytes; for texts, of the references only."""
        splits = (self.train, self.validation, self.test)
        return sum(split.examples.nbytes for split in splits if split is not None)

    @classmethod
    def split(
        cls,
        raw: RawSplits,
        *,
        seed: int,
        validation_split: float,
        fold: tuple[int, int] | None = None,
    ) -> Dataset:
        """Checks raw splits and holds out a stratified, seeded validation and test split.

        Args:
            raw: splits as read.
            seed: decides which examples are held out.
            validation_split: fraction of the training examples to hold out for validation.
            fold: (n, folds) makes the n-th of `folds` equal parts of the training examples,
                counted from 1, the test split; a test split of the data is left out.

        Raises:
            DataError: examples and labels do not match, or are not trainable.
        """
        splits = check_splits(raw)
        train, validation, test = splits["train"], splits.get("validation"), splits.get("test")
        classes = raw.classes or checks.class_names(train.labels)
        if fold is not None:
            train, test = _split_fold(train, *fold, classes, seed=seed)
        elif test is None:
            train, test = _hold_out(train, TEST_FRACTION, classes, seed=seed, stream=_TEST_STREAM)
        if validation_split:
            train, validation = _hold_out(
                train, validation_split, classes, seed=seed, stream=_VALIDATION_STREAM
            )
        final = {"train": train, "validation": validation, "test": test}
        present = {name: split for name, split in final.items() if split is not None}
        for name, split in present.items():
            checks.check_classes(name, split.labels, classes)
        spec = _spec(train, classes, {name: len(split) for name, split in present.items()})
        return cls(
            spec,
            train,
            validation,
            test,
            _fingerprint(present, classes),
            _count_leaked(present),
            raw.source,
            raw.layout,
        )

    def count_uniform(self) -> int:
        """Returns the number of training images of a single colour; 0 for shards, not read here."""
        examples = self.train.examples
        return 0 if isinstance(examples, Shards) else checks.count_uniform(examples)

    def class_counts(self) -> Array:
        """Returns the number of training examples of each class: int64 (classes,)."""
        return np.bincount(self.train.labels, minlength=len(self.spec.classes))

    def subsample(self, max_examples: int, *, seed: int) -> Dataset:
        """Returns a smaller data set to select settings with; its test split is its validation.

        Args:
            max_examples: maximum number of training examples; includes the validation examples if
                the data set has no validation split.
            seed: decides which examples are in it.

        Raises:
            DataError: a class has too few examples.
        """
        train, validation, classes = self.train, self.validation, self.spec.classes
        if len(train) > max_examples:
            fraction = max_examples / len(train)
            _, train = _hold_out(train, fraction, classes, seed=seed, stream=_SUBSAMPLE_STREAM)
        if validation is None:
            train, validation = _hold_out(
                train, TEST_FRACTION, classes, seed=seed, stream=_SUBSAMPLE_VALIDATION_STREAM
            )
        sizes = {"train": len(train), "validation": len(validation)}
        return Dataset(_spec(train, classes, sizes), train, validation, validation, "", {})

    def class_weights(self, kind: str) -> Array | None:
        """Returns the weight of each class in the training loss: float32 (classes,).

        Args:
            kind: "none"; or "balanced", which gives each class the same total weight, with a mean
                of 1 per example.

        Returns:
            None for "none".

        Source: scikit-learn's class_weight="balanced", after King and Zeng 2001, "Logistic
        regression in rare events data".
        """
        if kind == "none":
            return None
        counts = self.class_counts()
        return (len(self.train) / (len(counts) * counts)).astype(np.float32)


def _shorten(name: str) -> str:
    """Returns a class name for a line of the log, whatever characters it has."""
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return printable if len(printable) <= _MAX_NAME else f"{printable[: _MAX_NAME - 1]}…"


def check_splits(raw: RawSplits) -> dict[str, Split]:
    """Returns the splits of the data by name, checked and converted; holds nothing out.

    Raises:
        DataError: examples and labels do not match, or are not trainable.
    """
    splits = {"train": raw.train, "validation": raw.validation, "test": raw.test}
    present = {
        name: checks.check_split(name, *split)
        for name, split in splits.items()
        if split is not None
    }
    return {name: Split(*split) for name, split in checks.unify_dtypes(present).items()}


def _hold_out(
    split: Split, fraction: float, classes: tuple[str, ...], *, seed: int, stream: int
) -> tuple[Split, Split]:
    """Holds out `fraction` of each class, with at least one example per class on either side."""
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
    return _partition(split, held_out)


def _split_fold(
    split: Split, number: int, folds: int, classes: tuple[str, ...], *, seed: int
) -> tuple[Split, Split]:
    """Splits off one of `folds` folds; the sizes of a class differ by at most one between folds."""
    generator = np.random.Generator(np.random.Philox(key=[seed, 2**63 + _FOLD_STREAM]))
    fold_of = np.zeros(len(split), int)
    dealt = 0
    for label, name in enumerate(classes):
        members = generator.permutation(np.flatnonzero(split.labels == label))
        if len(members) < folds:
            raise DataError(f"class {name!r} has {len(members)} examples, expected {folds} or more")
        # Each class starts at the fold where the previous one ended, so that folds are equal.
        fold_of[members] = (dealt + np.arange(len(members))) % folds
        dealt += len(members)
    return _partition(split, fold_of == number - 1)


def _partition(split: Split, held_out: Array) -> tuple[Split, Split]:
    """Returns the remaining examples and the held-out ones; `held_out` is bool (N,)."""
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


def _count_leaked(splits: dict[str, Split]) -> dict[str, int]:
    """Returns by split how many of its examples are also in the training split, where known."""
    train = splits["train"].examples
    counts = {
        name: _leaked_examples(train, split.examples)
        for name, split in splits.items()
        if name != "train"
    }
    return {name: count for name, count in counts.items() if count is not None}


def _leaked_examples(train: Array | Shards, other: Array | Shards) -> int | None:
    """Counts the examples of `other` that are also in `train`; None if shards have no digests."""
    if not isinstance(train, Shards) and not isinstance(other, Shards):
        occurrences = collections.Counter(map(_key, other))
        return sum(occurrences.pop(key, 0) for key in map(_key, train))
    train_digests, other_digests = (
        examples.digests if isinstance(examples, Shards) else digests.digest_examples(examples)
        for examples in (train, other)
    )
    if train_digests is None or other_digests is None:
        return None
    return digests.count_leaked(train_digests, other_digests)


def _key(example: Any) -> str | bytes:
    """Returns a hashable value that equal examples share."""
    return example if isinstance(example, str) else example.tobytes()


def _fingerprint(splits: dict[str, Split], classes: tuple[str, ...]) -> str:
    digest = hashlib.sha256(repr(classes).encode())
    for name, split in splits.items():
        examples = split.examples
        digest.update(f"{name} {examples.shape} {examples.dtype}".encode())
        if isinstance(examples, Shards):
            digest.update(examples.fingerprint())
        elif examples.dtype == object:
            for text in examples:
                encoded = text.encode()
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
        else:
            digest.update(np.ascontiguousarray(examples).data)
        digest.update(split.labels.data)
    return digest.hexdigest()
