"""Whether two models answer alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trainer.data.dataset import Array, Split
from trainer.errors import ExportMismatchError


@dataclass(frozen=True, kw_only=True)
class OutputComparison:
    """How a model's answers compare with those that are expected of it.

    Attributes:
        examples: how many were asked.
        difference: the greatest of two probabilities, 0 to 1; NaN if one of them is no number.
        same: part of the examples of which both say the same class, 0 to 1.
        accuracy: of the model, 0 to 1.
        expected_accuracy: of the answers that are expected, 0 to 1.
    """

    examples: int
    difference: float
    same: float
    accuracy: float
    expected_accuracy: float


def some(split: Split, count: int) -> Split:
    """Returns examples from all over a split, the same ones each time; all if there are no more."""
    places = np.sort(split.order(seed=0, epoch=0)[:count])
    return Split(split.examples[places], split.labels[places])


def in_batches(predict: Callable[[Array], Array], examples: Array, size: int) -> Array:
    """Returns the class probabilities of all examples: float32 (N, classes).

    The first one is asked alone: what is converted for one size of batch only would be found out.
    """
    starts = [0, *range(1, len(examples), size), len(examples)]
    batches = [predict(examples[start:end]) for start, end in zip(starts, starts[1:], strict=False)]
    return np.concatenate(batches)


def compare(expected: Array, answers: Array, labels: Array) -> OutputComparison:
    """Compares class probabilities.

    Args:
        expected: float32 (N, classes).
        answers: the same of the model that is to be like it.
        labels: the true classes, int32 (N,).

    Raises:
        ExportMismatchError: they are of another shape.
    """
    if answers.shape != expected.shape:
        raise ExportMismatchError(
            f"the exported model answers {answers.shape}, expected {expected.shape}; no file is "
            "left"
        )
    said, wanted = answers.argmax(axis=1), expected.argmax(axis=1)
    return OutputComparison(
        examples=len(labels),
        difference=float(np.abs(answers.astype(np.float64) - expected).max()),
        same=float(np.mean(said == wanted)),
        accuracy=float(np.mean(said == labels)),
        expected_accuracy=float(np.mean(wanted == labels)),
    )
