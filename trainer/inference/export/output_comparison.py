"""Compares the outputs of two models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trainer.data.dataset import Array, Split
from trainer.errors import ExportMismatchError


@dataclass(frozen=True, kw_only=True)
class OutputComparison:
    """How a model's outputs differ from the expected ones.

    Attributes:
        examples: number of examples.
        difference: maximum absolute difference of a probability, 0 to 1; NaN if an output is NaN.
        same_class: fraction of the examples for which both predict the same class, 0 to 1.
        accuracy: accuracy of the model, 0 to 1.
        expected_accuracy: accuracy of the expected outputs, 0 to 1.
    """

    examples: int
    difference: float
    same_class: float
    accuracy: float
    expected_accuracy: float


def sample(split: Split, count: int) -> Split:
    """Returns `count` random examples of a split, the same in each call; all if it has fewer."""
    indices = np.sort(split.order(seed=0, epoch=0)[:count])
    return Split(split.examples[indices], split.labels[indices])


def predict_in_batches(predict: Callable[[Array], Array], examples: Array, size: int) -> Array:
    """Returns the class probabilities of all examples: float32 (N, classes).

    The first batch is a single example, to detect a model that was converted for one batch size.
    """
    starts = [0, *range(1, len(examples), size), len(examples)]
    batches = [predict(examples[start:end]) for start, end in zip(starts, starts[1:], strict=False)]
    return np.concatenate(batches)


def compare(expected: Array, outputs: Array, labels: Array) -> OutputComparison:
    """Compares class probabilities.

    Args:
        expected: probabilities of the original model, float32 (N, classes).
        outputs: probabilities of the exported model, float32 (N, classes).
        labels: the true classes, int32 (N,).

    Raises:
        ExportMismatchError: the shapes differ.
    """
    if outputs.shape != expected.shape:
        raise ExportMismatchError(
            f"the exported model's output: found shape {outputs.shape}, expected {expected.shape}; "
            "no file was written"
        )
    predicted, reference = outputs.argmax(axis=1), expected.argmax(axis=1)
    return OutputComparison(
        examples=len(labels),
        difference=float(np.abs(outputs.astype(np.float64) - expected).max()),
        same_class=float(np.mean(predicted == reference)),
        accuracy=float(np.mean(predicted == labels)),
        expected_accuracy=float(np.mean(reference == labels)),
    )
