"""Computes the metrics of a model; writes and reads `metrics.json` and `history.csv`."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.dataset import Array
from trainer.runs import filenames

Z_95 = 1.959964  # Quantile of the standard normal distribution: 95 % lie within -Z_95 and Z_95.
_BINS = 15


def loss_accuracy(probabilities: Array, labels: Array) -> dict[str, float]:
    """Returns `loss` (cross-entropy in nats, clipped at 1e-7 as in Keras) and `accuracy` (0 to 1).

    Args:
        probabilities: class probabilities, float32 (N, classes).
        labels: true classes, int32 (N,).
    """
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return {
        "loss": float(-np.log(np.clip(true, 1e-7, 1.0)).mean()),
        "accuracy": float((probabilities.argmax(axis=1) == labels).mean()),
    }


def test(probabilities: Array, labels: Array, classes: tuple[str, ...]) -> dict[str, Any]:
    """Returns the entries of `metrics.json` that are computed on the test split.

    Args:
        probabilities: class probabilities, float32 (N, classes).
        labels: true classes, int32 (N,).
        classes: class names.
    """
    confusion = confusion_matrix(probabilities, labels)
    return {
        "test": loss_accuracy(probabilities, labels),
        "accuracy_interval": wilson(int(np.trace(confusion)), len(labels)),
        "calibration": calibration(probabilities, labels),
        "per_class": per_class(confusion, classes),
        "confusion": confusion.tolist(),
    }


def wilson(correct: int, examples: int) -> tuple[float, float]:
    """Returns the 95 % confidence interval of the rate `correct / examples`.

    Unlike the rate plus and minus its standard error, the interval stays within 0 and 1.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    rate, z2 = correct / examples, Z_95**2
    centre = rate + z2 / (2 * examples)
    half = Z_95 * np.sqrt(rate * (1 - rate) / examples + z2 / (4 * examples**2))
    scale = 1 + z2 / examples
    return max(0.0, float((centre - half) / scale)), min(1.0, float((centre + half) / scale))


def calibration(probabilities: Array, labels: Array) -> dict[str, Any]:
    """Compares confidence, the probability of the predicted class, with accuracy.

    Returns:
        `ece`, the expected calibration error, 0 to 1; and `bins`, the non-empty ones of 15 bins of
        equal width by confidence: `examples`, `correct`, and `confidence`, the mean.

    Source: Guo et al. 2017, "On calibration of modern neural networks".
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    bins = [
        {
            "examples": int(within.sum()),
            "correct": int(correct[within].sum()),
            "confidence": float(confidence[within].mean()),
        }
        for within in (bin_of == number for number in np.unique(bin_of))
    ]
    gaps = [abs(row["correct"] - row["examples"] * row["confidence"]) for row in bins]
    return {"ece": sum(gaps) / len(labels), "bins": bins}


def examples_per_second(history: Sequence[Mapping[str, float]], examples: int) -> float:
    """Returns the training speed over all epochs; `examples` is the size of the training split."""
    return examples * len(history) / sum(row["seconds"] for row in history)


def write(metrics: Mapping[str, Any], history: Sequence[Mapping[str, float]], folder: Path) -> None:
    """Writes `metrics.json` and `history.csv`, which has one row per epoch."""
    text = json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / filenames.METRICS).write_text(text + "\n", encoding="utf-8")
    with (folder / filenames.HISTORY).open("w", newline="") as file:
        # A callback may add a metric in a later epoch.
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
    """Formats the result of a run as one line."""
    test_metrics, seconds = metrics["test"], metrics["seconds"]
    epochs = f"{metrics['epochs']} epoch{'s' * (metrics['epochs'] != 1)}"
    return (
        f"test accuracy {test_metrics['accuracy']:.2%}, loss {test_metrics['loss']:.4f}; "
        f"{epochs}, {seconds['train']:.1f} s of training, "
        f"{seconds['total']:.1f} s in total"
    )


def summarize_folds(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the content of `folds.json` from the `metrics.json` of each fold.

    Returns:
        `test`: mean, std (with ddof=1), min and max of loss and accuracy over the folds;
        `per_class` and `confusion`: over the examples of all folds, each of which is tested once;
        `folds`: loss, accuracy, epochs and seconds of each fold.
    """
    confusion = np.sum([result["confusion"] for result in results], axis=0)
    classes = tuple(row["class"] for row in results[0]["per_class"])
    return {
        "test": {
            name: _summarize([result["test"][name] for result in results])
            for name in ("loss", "accuracy")
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
    """Formats the result of a cross-validation as one line."""
    accuracy, loss = summary["test"]["accuracy"], summary["test"]["loss"]
    return (
        f"{len(summary['folds'])} folds: test accuracy {accuracy['mean']:.2%} on average, standard "
        f"deviation {accuracy['std']:.2%}, {accuracy['min']:.2%} to {accuracy['max']:.2%}; "
        f"loss {loss['mean']:.4f}; "
        f"{sum(fold['seconds'] for fold in summary['folds']):.1f} s in total"
    )


def per_class(confusion: Array, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Returns precision, recall, F1 and support of each class; undefined ratios are 0.

    Args:
        confusion: counts, int (classes, classes); rows are the true class.
        classes: class names.
    """
    correct = np.diag(confusion).astype(float)
    precision = _ratio(correct, confusion.sum(axis=0))
    recall = _ratio(correct, confusion.sum(axis=1))
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


def most_confused(confusion: Array, max_pairs: int) -> list[tuple[int, int]]:
    """Returns pairs of true and predicted class of wrong predictions, most frequent first.

    Args:
        confusion: counts, int (classes, classes); rows are the true class.
        max_pairs: maximum number of pairs; pairs with a count of 0 are left out.
    """
    counts = np.where(np.eye(len(confusion), dtype=bool), 0, confusion)
    order = np.argsort(-counts, axis=None, kind="stable")[:max_pairs]
    pairs = zip(*np.unravel_index(order, counts.shape), strict=True)
    return [(int(true), int(predicted)) for true, predicted in pairs if counts[true, predicted]]


def confusion_matrix(probabilities: Array, labels: Array) -> Array:
    """Counts examples by true class (rows) and predicted class: int64 (classes, classes)."""
    classes = probabilities.shape[1]
    pairs = labels.astype(np.int64) * classes + probabilities.argmax(axis=1)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def _summarize(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)),
        "min": min(values),
        "max": max(values),
    }


def _ratio(numerator: Array, denominator: Array) -> Array:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
