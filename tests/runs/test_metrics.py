"""Tests of metrics against values computed by hand and by SciPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from trainer.runs import filenames, metrics

PROBABILITIES = np.array(
    [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.5, 0.2, 0.3]], np.float32
)
LABELS = np.array([0, 1, 1, 2], np.int32)


def test_loss_and_accuracy() -> None:
    result = metrics.loss_accuracy(PROBABILITIES, LABELS)
    expected = -(np.log(0.7) + np.log(0.3) + np.log(0.8) + np.log(0.3)) / 4
    assert result["loss"] == pytest.approx(expected)
    assert result["accuracy"] == 0.5


def test_a_wrong_prediction_with_probability_1_has_a_finite_loss() -> None:
    result = metrics.loss_accuracy(np.array([[0.0, 1.0]], np.float32), np.array([0]))
    assert result["loss"] == pytest.approx(-np.log(1e-7))


@pytest.mark.parametrize(("correct", "examples"), [(8, 10), (0, 20), (20, 20), (9942, 10000)])
def test_the_wilson_interval_matches_scipy(correct: int, examples: int) -> None:
    expected = stats.binomtest(correct, examples).proportion_ci(method="wilson")
    assert metrics.wilson(correct, examples) == pytest.approx((expected.low, expected.high))


def test_calibration_compares_confidence_with_accuracy() -> None:
    result = metrics.calibration(PROBABILITIES, LABELS)
    assert result["bins"] == [
        {"examples": 1, "correct": 0, "confidence": pytest.approx(0.5)},
        {"examples": 1, "correct": 0, "confidence": pytest.approx(0.6)},
        {"examples": 1, "correct": 1, "confidence": pytest.approx(0.7)},
        {"examples": 1, "correct": 1, "confidence": pytest.approx(0.8)},
    ]
    assert result["ece"] == pytest.approx((0.5 + 0.6 + 0.3 + 0.2) / 4)


def test_rows_of_the_confusion_matrix_are_true_classes() -> None:
    confusion = metrics.confusion_matrix(PROBABILITIES, LABELS)
    assert confusion.tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0]]


def test_per_class_metrics() -> None:
    zero, one, two = metrics.test(PROBABILITIES, LABELS, ("a", "b", "c"))["per_class"]
    assert zero == {
        "class": "a", "precision": pytest.approx(1 / 3), "recall": 1.0, "f1": 0.5, "support": 1
    }  # fmt: skip
    assert one == {
        "class": "b", "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2
    }  # fmt: skip
    assert two == {"class": "c", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}


def test_a_callback_may_add_a_metric_in_a_later_epoch(tmp_path: Path) -> None:
    metrics.write({}, [{"epoch": 1}, {"epoch": 2, "f1": 0.5}], tmp_path)
    assert (tmp_path / filenames.HISTORY).read_text() == "epoch,f1\n1,\n2,0.5\n"


def test_folds_are_summarized() -> None:
    classes = ("a", "b", "c")
    common = {
        "seconds": {"total": 2.0},
        "epochs": 1,
        "device": "",
        "seed": 0,
        "model": "",
        "data": "",
    }
    results = [
        {**metrics.test(PROBABILITIES[rows], LABELS[rows], classes), **common}
        for rows in (slice(0, 2), slice(2, 4))
    ]
    summary = metrics.summarize_folds(results)
    assert summary["test"]["accuracy"] == {
        "mean": 0.5, "std": 0.0, "min": 0.5, "max": 0.5
    }  # fmt: skip
    losses = [result["test"]["loss"] for result in results]
    assert summary["test"]["loss"]["std"] == pytest.approx(abs(losses[0] - losses[1]) / np.sqrt(2))
    whole = metrics.test(PROBABILITIES, LABELS, classes)
    assert summary["confusion"] == whole["confusion"]
    assert summary["per_class"] == whole["per_class"]
    assert [fold["fold"] for fold in summary["folds"]] == [1, 2]


def test_the_most_confused_pair_comes_first() -> None:
    confusion = np.array([[9, 1, 0], [4, 9, 2], [4, 0, 0]])
    assert metrics.most_confused(confusion, 10) == [(1, 0), (2, 0), (1, 2), (0, 1)]
    assert metrics.most_confused(confusion, 1) == [(1, 0)]
