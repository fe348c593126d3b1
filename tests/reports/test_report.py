"""Tests of the report of a run, with made-up predictions."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trainer.config import ResolvedConfig
from trainer.data.dataset import Dataset, RawSplits
from trainer.reports import report
from trainer.reports.occlusion import importance
from trainer.reports.report import ReportInputs
from trainer.runs import filenames, metrics

Predict = Callable[[np.ndarray], np.ndarray]


def report_inputs(
    examples: np.ndarray,
    classes: tuple[str, ...],
    *,
    accuracy: float = 0.8,
    epochs: int = 3,
    validation: float = 0.0,
    predict: Predict | None = None,
) -> ReportInputs:
    """Returns the inputs of a report on examples of alternating classes."""
    labels = np.arange(len(examples)) % len(classes)
    data = Dataset.split(
        RawSplits((examples, labels), classes=classes), seed=0, validation_split=validation
    )
    random = np.random.default_rng(0)
    labels = data.test.labels
    predicted = np.where(random.random(len(labels)) < accuracy, labels, (labels + 1) % len(classes))
    probabilities = np.full((len(labels), len(classes)), 0.2 / len(classes), np.float32)
    probabilities[np.arange(len(labels)), predicted] += 0.8
    row = {"loss": 1.0, "accuracy": 0.5, "learning_rate": 0.1, "seconds": 1.0,
           "examples_per_second": 99.0}  # fmt: skip
    if validation:
        row |= {"val_loss": 0.9, "val_accuracy": 0.6}
    return ReportInputs(
        config=ResolvedConfig(data="data", epochs=epochs, batch_size=8, learning_rate=0.1, out="r"),
        data=data,
        probabilities=probabilities,
        history=[{"epoch": epoch, **row} for epoch in range(1, epochs + 1)],
        metrics={
            **metrics.test(probabilities, labels, classes),
            "examples_per_second": 99.0, "epochs": epochs, "parameters": 7, "device": "CPU",
            "seed": 0, "model": "cnn", "data": "data", "seconds": {"total": 3.0, "train": 2.0},
            "leaked_from_training": {"test": 3},
        },
        predict=predict or (lambda texts: np.full((len(texts), len(classes)), 0.5)),
    )  # fmt: skip


def class_names(count: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(count))


def page(inputs: ReportInputs, folder: Path) -> str:
    (folder / filenames.MODEL_KERAS).touch()
    report.write(inputs, folder)
    return (folder / filenames.REPORT).read_text()


def test_the_report_is_self_contained_and_shows_the_metrics_of_the_run(finished_run: Path) -> None:
    text = (finished_run / filenames.REPORT).read_text()
    result = json.loads((finished_run / filenames.METRICS).read_text())
    manifest = json.loads((finished_run / filenames.MANIFEST).read_text())
    assert f"{100 * result['test']['accuracy']:.2f}\u202f%" in text
    assert result["device"] in text
    assert manifest["data_fingerprint"] in text
    (model,) = [entry for entry in manifest["files"] if entry["name"] == filenames.MODEL_KERAS]
    assert model["sha256"] in text
    assert manifest["versions"]["tensorflow"] in text
    settings = json.loads((finished_run / filenames.CONFIG).read_text())
    for name in set(settings) - {"auto_settings"}:
        assert f"<dt>--{name.replace('_', '-')}</dt>" in text
    assert not re.search(r"""(src|href)=["'](?!data:|#)|@import|url\((?!#)""", text)
    assert len(text) < 300_000


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((28, 28, 1), "uint8"), ((32, 32, 3), "float32"), ((99, 60, 4), "uint8"), ((1, 300, 2), "f4")],
)
def test_images_of_any_shape_are_shown(shape: tuple[int, ...], kind: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(128, 60, (60, *shape)).clip(0, 255).astype(kind)
    text = page(report_inputs(images, ("a", "b"), accuracy=0.0), tmp_path)
    assert text.count("<img src=") == 6 + 24  # All mistakes, and twelve of each class.


def test_vectors_have_no_images(tmp_path: Path) -> None:
    text = page(
        report_inputs(np.random.default_rng(0).random((60, 5)), ("a", "b"), accuracy=0.0), tmp_path
    )
    assert "<img" not in text
    assert "test example</th>" in text


@pytest.mark.parametrize("classes", [100, 1000])
def test_a_report_on_many_classes_stays_small(classes: int, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (20 * classes, 8, 8, 1))
    text = page(report_inputs(images, class_names(classes)), tmp_path)
    assert len(text) < 400_000
    assert 'class="matrix" src="data:image/png;' in text
    assert "The 40 classes with the lowest F1" in text
    assert text.count("<tr>") < 100


def test_a_run_without_mistakes_or_validation_and_of_one_epoch(tmp_path: Path) -> None:
    texts = np.array(["good", "bad"] * 20, object)
    text = page(report_inputs(texts, ("pos", "neg"), accuracy=1.0, epochs=1), tmp_path)
    assert "None: all 4 predictions on the test split are correct." in text
    assert "without a validation split" in text


def test_a_long_run_has_a_small_chart(tmp_path: Path) -> None:
    texts = np.array(["good", "bad"] * 20, object)
    short = page(report_inputs(texts, ("pos", "neg"), epochs=30, validation=0.2), tmp_path)
    long = page(report_inputs(texts, ("pos", "neg"), epochs=3000, validation=0.2), tmp_path)
    assert len(long) < len(short) + 10_000


def bag_of_words(texts: np.ndarray) -> np.ndarray:
    """Predicts class 1 with a probability that rises with "great" and falls with "dull"."""
    score = np.array([2.0 * text.count("great") - text.count("dull") for text in texts])
    probability = 1 / (1 + np.exp(-score))
    return np.stack([1 - probability, probability], axis=1)


def test_occlusion_importance_is_the_effect_of_leaving_out_a_word() -> None:
    texts = np.array(["a great,\n dull film", "", "nothing"], object)
    words = importance(texts, np.array([1, 1, 0]), bag_of_words(texts)[:, 1], bag_of_words)
    assert [(word.text, pytest.approx(word.importance)) for word in words[0]] == [
        ("a ", 0.0), ("great,\n ", 1.0), ("dull ", -0.5), ("film", 0.0)
    ]  # fmt: skip
    assert words[1] == []
    assert [word.importance for word in words[2]] == [0.0]


def test_predictions_for_long_texts_are_limited() -> None:
    characters = []

    def predict(texts: np.ndarray) -> np.ndarray:
        characters.append(sum(map(len, texts)))
        return bag_of_words(texts)

    texts = np.array(["great " * 5000] * 40, object)
    words = importance(texts, np.ones(40, int), bag_of_words(texts)[:, 1], predict)
    assert sum(characters) <= 2_000_000
    assert {len(text) for text in words} == {60}


def test_importing_the_module_does_not_import_matplotlib_or_jinja2() -> None:
    program = "import sys, trainer.reports.report; print({'matplotlib', 'jinja2'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout == "set()\n", result.stderr


def test_an_internal_error_in_the_report_is_logged_and_does_not_fail_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def predict(texts: np.ndarray) -> np.ndarray:
        raise RuntimeError("out of memory")

    texts = np.array(["good", "bad"] * 20, object)
    report.write(report_inputs(texts, ("pos", "neg"), accuracy=0.0, predict=predict), tmp_path)
    assert not (tmp_path / filenames.REPORT).exists()
    assert "report.html: internal error; the run continues without it" in caplog.text
    assert "out of memory" in caplog.text
