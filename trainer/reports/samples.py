"""Prepares examples of a data set for HTML pages."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainer.data.dataset import Array, Split
from trainer.data.statistics import select_classes

_IMAGES_PER_CLASS, _TEXTS_PER_CLASS = 12, 2


def by_class(train: Split, counts: Array, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Returns name, size and examples of each class that `select_classes` returns.

    Args:
        train: training examples, at least the first ones of each returned class.
        counts: number of training examples of each class, int64 (classes,).
        classes: class names.
    """
    labels = select_classes(counts)
    texts = train.examples.dtype == object
    limit = _TEXTS_PER_CLASS if texts else _IMAGES_PER_CLASS
    samples = [train.examples[np.flatnonzero(train.labels == label)[:limit]] for label in labels]
    return [
        {
            "class": classes[label],
            "count": int(counts[label]),
            "share": counts[label] / counts.max(),
            "images": thumbnails(train, examples),
            "texts": examples.tolist() if texts else [],
        }
        for label, examples in zip(labels, samples, strict=True)
    ]


def thumbnails(train: Split, examples: Array) -> list[str]:
    """Returns images as data: URLs, scaled to the value range of the training split; else []."""
    if train.examples.ndim != 4:
        return []
    from trainer.reports import thumbnails

    reference = train.examples[:1000]
    return thumbnails.encode_images(
        examples, low=float(reference.min()), high=float(reference.max())
    )
