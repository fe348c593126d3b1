"""Examples of a data set, as pages show them."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainer.data.dataset import Array, Split
from trainer.data.statistics import shown

_SHOWN_IMAGES, _SHOWN_TEXTS = 12, 2  # Of a class.


def by_class(train: Split, counts: Array, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Returns each class with its size and examples; of many, the most frequent and the rarest.

    Args:
        train: training examples, the first of each of these classes at least.
        counts: how many there are of each class, int64 (classes,).
        classes: class names.
    """
    listed = shown(counts)
    texts = train.examples.dtype == object
    most = _SHOWN_TEXTS if texts else _SHOWN_IMAGES
    chosen = [train.examples[np.flatnonzero(train.labels == label)[:most]] for label in listed]
    return [
        {
            "class": classes[label],
            "count": int(counts[label]),
            "share": counts[label] / counts.max(),
            "pictures": thumbnails(train, examples),
            "texts": examples.tolist() if texts else [],
        }
        for label, examples in zip(listed, chosen, strict=True)
    ]


def thumbnails(train: Split, examples: Array) -> list[str]:
    """Returns images as data: addresses, from black to white as in the training part; else []."""
    if train.examples.ndim != 4:
        return []
    from trainer.reports import thumbnails

    usual = train.examples[:1000]
    return thumbnails.of_images(examples, low=float(usual.min()), high=float(usual.max()))
