"""Examples of a data set, as pages show them."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainer.datasets.dataset import Array, Dataset

_MOST_CLASSES = 20
_SHOWN_IMAGES, _SHOWN_TEXTS = 12, 2  # Of a class.


def by_class(data: Dataset) -> list[dict[str, Any]]:
    """Returns each class with its size and examples; of many, the most frequent and the rarest."""
    labels, classes = data.train.labels, data.spec.classes
    counts = data.class_counts()
    listed = np.arange(len(classes))
    if len(classes) > _MOST_CLASSES:
        ranked = np.argsort(-counts, kind="stable")
        half = _MOST_CLASSES // 2
        listed = np.concatenate([ranked[:half], ranked[-half:]])
    most = _SHOWN_TEXTS if data.spec.kind == "text" else _SHOWN_IMAGES
    places = [np.flatnonzero(labels == label)[:most] for label in listed]
    return [
        {
            "class": classes[label],
            "count": int(counts[label]),
            "share": counts[label] / counts.max(),
            "pictures": pictures(data, data.train.examples[place]),
            "texts": data.train.examples[place].tolist() if data.spec.kind == "text" else [],
        }
        for label, place in zip(listed, places, strict=True)
    ]


def pictures(data: Dataset, examples: Array) -> list[str]:
    """Returns images as data: addresses, from black to white as in the data; [] of what is none."""
    if data.spec.kind != "image":
        return []
    from trainer.results import pictures

    usual = data.train.examples[:1000]
    return pictures.of_images(examples, low=float(usual.min()), high=float(usual.max()))
