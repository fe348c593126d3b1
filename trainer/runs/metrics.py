"""How good a model is: the figures of `metrics.json` and `history.csv`."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.dataset import Array
from trainer.runs import filenames

Z_95 = 1.959964  # The standard normal distribution holds 95 % within plus and minus this.
_BINS = 15


def loss_accuracy(probabilities: Array, labels: Array) -> dict[str, float]:
    """Returns loss (cross-entropy in nats, clipped at 1e-7 as in Keras) and accuracy (0 to 1).

    Args:
        probabilities: of each class, float32 (N, classes).
        labels: the true classes, int32 (N,).
    """
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return {
        "loss": float(-np.log(np.clip(true, 1e-7, 1.0)).mean()),
        "accuracy": float((probabilities.argmax(axis=1) == labels).mean()),
    }


def test(probabilities: Array, labels: Array, classes: tuple[str, ...]) -> dict[str, Any]:
    """Returns what is known after the final test: `test`, `per_class`, `confusion` and more."""
    confusion = confusion_matrix(probabilities, labels)
    return {
        "test": loss_accuracy(probabilities, labels),
        "accuracy_interval": wilson(int(np.trace(confusion)), len(labels)),
        "calibration": calibration(probabilities, labels),
        "per_class": per_class(confusion, classes),
        "confusion": confusion.tolist(),
    }


def wilson(right: int, examples: int) -> tuple[float, float]:
    """Returns the 95 % interval of a rate that was measured on so many examples.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    Unlike the rate plus and minus its standard error it stays within 0 and 1.
    """
    rate, z2 = right / examples, Z_95**2
    centre = rate + z2 / (2 * examples)
    half = Z_95 * np.sqrt(rate * (1 - rate) / examples + z2 / (4 * examples**2))
    scale = 1 + z2 / examples
    return max(0.0, float((centre - half) / scale)), min(1.0, float((centre + half) / scale))


def calibration(probabilities: Array, labels: Array) -> dict[str, Any]:
    """Compares how sure the model is with how often it is right.

    Source: Guo et al. 2017, "On calibration of modern neural networks".

    Returns:
        `ece`, the expected calibration error, 0 to 1; and `bins` of equal width by the probability
        of the likeliest class, without those that are empty: `examples`, `right`, and
        `confidence`, the mean probability.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    bins = [
        {
            "examples": int(within.sum()),
            "right": int(right[within].sum()),
            "confidence": float(confidence[within].mean()),
        }
        for within in (bin_of == number for number in np.unique(bin_of))
    ]
    gaps = [abs(each["right"] - each["examples"] * each["confidence"]) for each in bins]
    return {"ece": sum(gaps) / len(labels), "bins": bins}


def examples_per_second(history: Sequence[Mapping[str, float]], examples: int) -> float:
    """Returns the training speed over all epochs."""
    return examples * len(history) / sum(row["seconds"] for row in history)


def write(metrics: Mapping[str, Any], history: Sequence[Mapping[str, float]], folder: Path) -> None:
    """Writes `metrics.json` and `history.csv`, a row an epoch."""
    text = json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / filenames.METRICS).write_text(text + "\n", encoding="utf-8")
    with (folder / filenames.HISTORY).open("w", newline="") as file:
        # A callback may add a figure in a later epoch.
        columns = dict.fromkeys(name for row in history for name in row)
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def read_history(folder: Path) -> list[dict[str, float]]:
    """Returns the rows of `history.csv`, one per epoch; `epoch` is an int, all else a float."""
    with (folder / filenames.HISTORY).open(newline="", encoding="utf-8") as file:
        return [
            {
                name: int(value) if name == "epoch" else float(value)
                for name, value in row.items()
                if value
            }
            for row in csv.DictReader(file, strict=True)
        ]


def format_result(metrics: Mapping[str, Any]) -> str:
    """Returns the result of a run as one line."""
    test_figures, seconds = metrics["test"], metrics["seconds"]
    epochs = f"{metrics['epochs']} epoch{'s' * (metrics['epochs'] != 1)}"
    return (
        f"test accuracy {test_figures['accuracy']:.2%}, loss {test_figures['loss']:.4f}; "
        f"{epochs}, {seconds['train']:.1f} s of training, "
        f"{seconds['total']:.1f} s in all"
    )


def summarize_folds(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums up the `metrics.json` of the folds of a cross-validation.

    Returns:
        `test`: mean, sd (of a sample), least and greatest of loss and accuracy over the folds;
        `per_class` and `confusion`: over the examples of all folds, each of which was tested once;
        `folds`: what each gave.
    """
    confusion = np.sum([result["confusion"] for result in results], axis=0)
    classes = tuple(each["class"] for each in results[0]["per_class"])
    return {
        "test": {
            figure: _spread([result["test"][figure] for result in results])
            for figure in ("loss", "accuracy")
        },
        "per_class": per_class(confusion, classes),
        "confusion": confusion.tolist(),
        "folds": [
            {
                "fold": number,
                **result["test"],
                "epochs": result["epochs"],
                "seconds": result["seconds"]["total"],
            }
            for number, result in enumerate(results, 1)
        ],
        **{key: results[0][key] for key in ("device", "seed", "model", "data")},
    }


def format_folds(summary: Mapping[str, Any]) -> str:
    """Returns the result of a cross-validation as one line."""
    accuracy, loss = summary["test"]["accuracy"], summary["test"]["loss"]
    return (
        f"{len(summary['folds'])} folds: test accuracy {accuracy['mean']:.2%} on average, standard "
        f"deviation {accuracy['sd']:.2%}, {accuracy['least']:.2%} to {accuracy['greatest']:.2%}; "
        f"loss {loss['mean']:.4f}; "
        f"{sum(fold['seconds'] for fold in summary['folds']):.1f} s in all"
    )


def per_class(confusion: Array, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Returns precision, recall, F1 and support of each class, 0 where it is undefined.

    Args:
        confusion: counts, int (classes, classes); rows are the true class.
        classes: class names.
    """
    right = np.diag(confusion).astype(float)
    precision = _ratio(right, confusion.sum(axis=0))
    recall = _ratio(right, confusion.sum(axis=1))
    f1 = _ratio(2 * precision * recall, precision + recall)
    return [
        {
            "class": name,
            "precision": float(precision[label]),
            "recall": float(recall[label]),
            "f1": float(f1[label]),
            "support": int(confusion[label].sum()),
        }
        for label, name in enumerate(classes)
    ]


def most_confused(confusion: Array, most: int) -> list[tuple[int, int]]:
    """Returns the pairs of a class and what it was taken for, the most frequent first.

    Args:
        confusion: counts, int (classes, classes); rows are the true class.
        most: how many pairs there are at most; those that did not occur are left out.
    """
    counts = np.where(np.eye(len(confusion), dtype=bool), 0, confusion)
    often = np.argsort(-counts, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(often, counts.shape), strict=True)
    return [(int(true), int(said)) for true, said in pairs if counts[true, said]]


def confusion_matrix(probabilities: Array, labels: Array) -> Array:
    """Counts examples by true class (row) and likeliest class: int64 (classes, classes)."""
    classes = probabilities.shape[1]
    pairs = labels.astype(np.int64) * classes + probabilities.argmax(axis=1)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)),
        "least": min(values),
        "greatest": max(values),
    }


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
