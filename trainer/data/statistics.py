"""Collects statistics of a data set, and possible problems in it, before it is trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from trainer.config import ReadOptions
from trainer.data import checks, digests, loader
from trainer.data.dataset import Array, Source, Split
from trainer.errors import DamagedFilesError, DataError, Location

_MAX_CLASSES = 20
_SAMPLES_PER_CLASS = 12


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Statistics of a data set.

    Attributes:
        shape: shape of one example: (H, W, C), (D,), or () for a text.
        dtype: dtype of the examples.
        classes: class names.
        labels: by split, with "train" first: class indices, int32 (N,).
        samples: the first training examples of each class that `select_classes` returns.
        words: for texts, the minimum, median and maximum number of words; else None.
        duplicates: by split, how many examples repeat an earlier one of the same split.
        leaked: by split, how many examples are also in the training split.
        conflicting: number of distinct examples that have more than one label.
        uniform: number of images of a single colour.
        source: how the data is read; None if a program made it.
    """

    shape: tuple[int, ...]
    dtype: str
    classes: tuple[str, ...]
    labels: dict[str, Array] = field(repr=False)
    samples: Split = field(repr=False)
    words: tuple[int, int, int] | None
    duplicates: dict[str, int]
    leaked: dict[str, int]
    conflicting: int
    uniform: int
    source: Source | None = None

    @property
    def kind(self) -> str:
        """Kind of the examples: "image", "vector" or "text"."""
        return {3: "image", 1: "vector", 0: "text"}[len(self.shape)]

    def counts(self, split: str) -> list[int]:
        """Returns the number of examples of each class in a split."""
        return [int(count) for count in _counts(self.labels[split], self.classes)]


def collect(data: str, options: ReadOptions) -> Statistics:
    """Reads and checks a whole data set, block by block where its format can be streamed.

    Raises:
        DataError: the data is damaged, with all damaged files named, or in no known format; or no
            model can be trained on it.
        StorageError: the path is missing or cannot be read.
    """
    scans: dict[str, _Scan] = {}
    damaged: DamagedFilesError | None = None
    with loader.open_stream(data, options) as stream:
        for name, (pairs, labels) in stream.splits.items():
            selected: Array = np.empty(0, np.int64)
            if name == "train":
                selected = select_classes(_counts(labels, stream.classes))
            try:
                scans[name] = _scan(pairs, selected)
            except DamagedFilesError as error:
                damaged = error  # It names the damaged files of all splits so far.
        if damaged is not None:
            raise damaged
    labels_of = {name: scan.labels for name, scan in scans.items()}
    for name, labels in labels_of.items():
        try:
            checks.check_classes(name, labels, stream.classes)
        except DataError as error:
            raise error.at(Location(data)) from None
    samples = scans["train"].samples
    keys = {name: scan.digests for name, scan in scans.items()}
    words = np.concatenate([scan.words for scan in scans.values()])
    return Statistics(
        shape=samples.examples.shape[1:],
        dtype=str(samples.examples.dtype),
        classes=stream.classes,
        labels=labels_of,
        samples=samples,
        words=(words.min(), int(np.median(words)), words.max()) if len(words) else None,
        duplicates={name: len(split) - len(np.unique(split)) for name, split in keys.items()},
        leaked={
            name: digests.count_leaked(keys["train"], split)
            for name, split in keys.items()
            if name != "train"
        },
        conflicting=_count_conflicting(
            np.concatenate(list(keys.values())),
            np.concatenate(list(labels_of.values())),
        ),
        uniform=sum(scan.uniform for scan in scans.values()),
        source=stream.source,
    )


def select_classes(counts: Array) -> Array:
    """Returns the classes to show examples of: all, or the most frequent and the rarest ones.

    Args:
        counts: number of examples of each class, int64 (classes,).

    Returns:
        Class indices, int64.
    """
    if len(counts) <= _MAX_CLASSES:
        return np.arange(len(counts))
    ranked = np.argsort(-counts, kind="stable")
    half = _MAX_CLASSES // 2
    return np.concatenate([ranked[:half], ranked[-half:]])


@dataclass(frozen=True)
class _Scan:
    """Results of reading one split.

    Attributes:
        digests: of all examples, uint64 (N,).
        labels: class indices of all examples, int32 (N,).
        words: number of words of each text, int64 (N,); empty for other examples.
        samples: the first examples of the selected classes.
        uniform: number of images of a single colour.
    """

    digests: Array
    labels: Array
    words: Array
    samples: Split
    uniform: int


def _scan(pairs: Iterable[tuple[Array, Array]], selected: Iterable[int]) -> _Scan:
    """Reads a split, one block at a time.

    Args:
        pairs: blocks of examples of the split, with their labels.
        selected: classes of which examples are kept as samples.
    """
    keys, labels, words, samples, sample_labels = [], [], [np.empty(0, np.int64)], [], []
    missing = dict.fromkeys(selected, _SAMPLES_PER_CLASS)
    uniform = 0
    for block, block_labels in pairs:
        keys.append(digests.digest_examples(block))
        labels.append(block_labels)
        if block.dtype == object:
            words.append(np.array([len(text.split()) for text in block]))
        uniform += checks.count_uniform(block)
        rows = [np.flatnonzero(block_labels == label)[:count] for label, count in missing.items()]
        for label, sampled_rows in zip(list(missing), rows, strict=True):
            missing[label] -= len(sampled_rows)
        missing = {label: count for label, count in missing.items() if count}
        sampled = np.sort(np.concatenate([np.empty(0, np.int64), *rows]))
        samples.append(block[sampled])
        sample_labels.append(block_labels[sampled])
    return _Scan(
        np.concatenate(keys),
        np.concatenate(labels),
        np.concatenate(words),
        Split(np.concatenate(samples), np.concatenate(sample_labels)),
        uniform,
    )


def _counts(labels: Array, classes: Sequence[str]) -> Array:
    return np.bincount(labels, minlength=len(classes))


def _count_conflicting(keys: Array, labels: Array) -> int:
    """Counts the distinct examples, by digest, that have more than one label."""
    _, numbers = np.unique(keys, return_inverse=True)
    pairs = np.unique(np.stack([numbers, labels]), axis=1)
    return int((np.bincount(pairs[0]) > 1).sum())
