"""Examples of a data set, as pages show them."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainer.datasets.dataset import Array, Split

_MOST_CLASSES = 20
_SHOWN_IMAGES, _SHOWN_TEXTS = 12, 2  # Of a class.


def by_class(train: Split, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Returns each class with its size and examples; of many, the most frequent and the rarest."""
    counts = np.bincount(train.labels, minlength=len(classes))
    listed = np.arange(len(classes))
    if len(classes) > _MOST_CLASSES:
        ranked = np.argsort(-counts, kind="stable")
        half = _MOST_CLASSES // 2
        listed = np.concatenate([ranked[:half], ranked[-half:]])
    texts = train.examples.dtype == object
    most = _SHOWN_TEXTS if texts else _SHOWN_IMAGES
    shown = [train.examples[np.flatnonzero(train.labels == label)[:most]] for label in listed]
    return [
        {
            "class": classes[label],
            "count": int(counts[label]),
            "share": counts[label] / counts.max(),
            "pictures": pictures(train, examples),
            "texts": examples.tolist() if texts else [],
        }
        for label, examples in zip(listed, shown, strict=True)
    ]


def pictures(train: Split, examples: Array) -> list[str]:
    """Returns images as data: addresses, from black to white as in the training part; else []."""
    if train.examples.ndim != 4:
        return []
    from trainer.results import pictures

    usual = train.examples[:1000]
    return pictures.of_images(examples, low=float(usual.min()), high=float(usual.max()))
