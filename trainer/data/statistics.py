"""Collects statistics of a data set, and possible problems in it, before it is trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from trainer.config import ReadOptions
from trainer.data import digests, loader
from trainer.data.dataset import Array, Source, Split
from trainer.errors import DamagedFilesError, DataError

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
        DataError: the data is damaged, with all damaged files named, or in no known format.
        StorageError: the path is missing or cannot be read.
    """
    scans: dict[str, _Scan] = {}
    damaged: list[DataError] = []
    with loader.open_stream(data, options) as stream:
        labels = {name: split_labels for name, (_, split_labels) in stream.splits.items()}
        rows = _sample_rows(labels["train"], stream.classes)
        for name, (blocks, _) in stream.splits.items():
            try:
                scans[name] = _scan(blocks, rows if name == "train" else rows[:0])
            except DamagedFilesError as error:
                damaged += error.errors
        if damaged:
            raise DamagedFilesError(damaged, sum(map(len, labels.values())))
    samples = scans["train"].samples
    keys = {name: scan.digests for name, scan in scans.items()}
    words = np.concatenate([scan.words for scan in scans.values()])
    return Statistics(
        shape=samples.shape[1:],
        dtype=str(samples.dtype),
        classes=stream.classes,
        labels=labels,
        samples=Split(samples, labels["train"][rows]),
        words=(words.min(), int(np.median(words)), words.max()) if len(words) else None,
        duplicates={name: len(split) - len(np.unique(split)) for name, split in keys.items()},
        leaked={
            name: digests.count_leaked(keys["train"], split)
            for name, split in keys.items()
            if name != "train"
        },
        conflicting=_count_conflicting(
            np.concatenate([keys[name] for name in labels]),
            np.concatenate(list(labels.values())),
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
        words: number of words of each text, int64 (N,); empty for other examples.
        samples: the sampled examples, (n, ...).
        uniform: number of images of a single colour.
    """

    digests: Array
    words: Array
    samples: Array
    uniform: int


def _scan(blocks: Iterable[Array], sample_rows: Array) -> _Scan:
    """Reads a split, one block at a time.

    Args:
        blocks: examples of the split.
        sample_rows: row numbers of the examples to keep, ascending, int64.
    """
    keys, words, samples = [], [np.empty(0, np.int64)], []
    uniform = start = 0
    for block in blocks:
        keys.append(digests.digest_examples(block))
        if block.dtype == object:
            words.append(np.array([len(text.split()) for text in block]))
        if block.ndim == 4:
            uniform += int((block == block[:, :1, :1]).all(axis=(1, 2, 3)).sum())
        first, last = np.searchsorted(sample_rows, [start, start + len(block)])
        samples.append(block[sample_rows[first:last] - start])
        start += len(block)
    return _Scan(np.concatenate(keys), np.concatenate(words), np.concatenate(samples), uniform)


def _sample_rows(labels: Array, classes: Sequence[str]) -> Array:
    """Returns the row numbers of the training examples to keep as samples, ascending, int64."""
    selected = select_classes(_counts(labels, classes))
    return np.sort(
        np.concatenate([np.flatnonzero(labels == label)[:_SAMPLES_PER_CLASS] for label in selected])
    )


def _counts(labels: Array, classes: Sequence[str]) -> Array:
    return np.bincount(labels, minlength=len(classes))


def _count_conflicting(keys: Array, labels: Array) -> int:
    """Counts the distinct examples, by digest, that have more than one label."""
    _, numbers = np.unique(keys, return_inverse=True)
    pairs = np.unique(np.stack([numbers, labels]), axis=1)
    return int((np.bincount(pairs[0]) > 1).sum())
