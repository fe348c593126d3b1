"""What a data set holds, before anybody trains on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from trainer.config import ReadOptions
from trainer.data import digests, loader
from trainer.data.dataset import Array, Split
from trainer.errors import DamagedFilesError, DataError

_MAX_CLASSES = 20
_SAMPLES = 12  # Of a class.


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What was found.

    Attributes:
        shape: of one example: (H, W, C), (D,), or () for a text.
        dtype: of examples.
        classes: class names.
        labels: by part, with "train" first: class numbers, int32 (N,).
        samples: the first training examples of those classes that `shown` chooses.
        words: of texts, how many the shortest one has, the middle one, and the longest.
        duplicates: by part, how many examples are there a second time and so on, within it.
        shared: by part, how many examples are in the training part too.
        conflicting: how many different examples are there with more than one class.
        uniform: how many images are of one colour only.
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

    @property
    def kind(self) -> str:
        """What an example is: "image", "vector" or "text"."""
        return {3: "image", 1: "vector", 0: "text"}[len(self.shape)]

    def counts(self, part: str) -> list[int]:
        """Returns how many examples each class has in a part."""
        return [int(count) for count in _counts(self.labels[part], self.classes)]


def collect(data: str, options: ReadOptions) -> Statistics:
    """Reads and checks a data set, all of it; piece by piece, if its format can be read so.

    Raises:
        DataError: it is damaged, in which case all such files are named, or in no known format.
        StorageError: the path is missing or may not be read.
    """
    seen: dict[str, _Seen] = {}
    damaged: list[DataError] = []
    with loader.streamed(data, options) as stream:
        labels = {name: of_part for name, (_, of_part) in stream.parts.items()}
        rows = _sampled(labels["train"], stream.classes)
        for name, (blocks, _) in stream.parts.items():
            try:
                seen[name] = _look(blocks, rows if name == "train" else rows[:0])
            except DamagedFilesError as error:
                damaged += error.findings
        if damaged:
            raise DamagedFilesError(damaged, sum(map(len, labels.values())))
    samples = seen["train"].samples
    keys = {name: found.digests for name, found in seen.items()}
    words = np.concatenate([found.words for found in seen.values()])
    return Statistics(
        shape=samples.shape[1:],
        dtype=str(samples.dtype),
        classes=stream.classes,
        labels=labels,
        samples=Split(samples, labels["train"][rows]),
        words=(words.min(), int(np.median(words)), words.max()) if len(words) else None,
        duplicates={name: len(found) - len(np.unique(found)) for name, found in keys.items()},
        leaked={
            name: digests.count_leaked(keys["train"], found)
            for name, found in keys.items()
            if name != "train"
        },
        conflicting=_relabelled(
            np.concatenate([keys[name] for name in labels]),
            np.concatenate(list(labels.values())),
        ),
        uniform=sum(found.uniform for found in seen.values()),
    )


def shown(counts: Array) -> Array:
    """Returns the classes whose examples are shown: all, or the most frequent and the rarest.

    Args:
        counts: how many examples each class has, int64 (classes,).

    Returns:
        Their numbers, int64.
    """
    if len(counts) <= _MAX_CLASSES:
        return np.arange(len(counts))
    ranked = np.argsort(-counts, kind="stable")
    half = _MAX_CLASSES // 2
    return np.concatenate([ranked[:half], ranked[-half:]])


@dataclass(frozen=True)
class _Seen:
    """What is kept of the examples of a part, (N,) but for samples; words are those of texts."""

    digests: Array
    words: Array
    samples: Array
    uniform: int


def _look(blocks: Iterable[Array], sampled: Array) -> _Seen:
    """Looks at examples, of which one block is in memory at a time.

    Args:
        blocks: of a part.
        sampled: which of them are kept, rising, int64.
    """
    found, words, samples, uniform, begun = [], [np.empty(0, np.int64)], [], 0, 0
    for block in blocks:
        found.append(digests.of(block))
        if block.dtype == object:
            words.append(np.array([len(text.split()) for text in block]))
        if block.ndim == 4:
            uniform += int((block == block[:, :1, :1]).all(axis=(1, 2, 3)).sum())
        first, last = np.searchsorted(sampled, [begun, begun + len(block)])
        samples.append(block[sampled[first:last] - begun])
        begun += len(block)
    return _Seen(np.concatenate(found), np.concatenate(words), np.concatenate(samples), uniform)


def _sampled(labels: Array, classes: Sequence[str]) -> Array:
    """Returns which training examples are kept, rising, int64."""
    some = [np.flatnonzero(labels == label)[:_SAMPLES] for label in shown(_counts(labels, classes))]
    return np.sort(np.concatenate(some))


def _counts(labels: Array, classes: Sequence[str]) -> Array:
    return np.bincount(labels, minlength=len(classes))


def _relabelled(keys: Array, labels: Array) -> int:
    """Counts the examples, by their digests, that have more than one label."""
    _, numbers = np.unique(keys, return_inverse=True)
    different = np.unique(np.stack([numbers, labels]), axis=1)
    return int((np.bincount(different[0]) > 1).sum())
