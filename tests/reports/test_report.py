"""The report of a run, whatever the run was of."""

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


def facts(
    examples: np.ndarray,
    classes: tuple[str, ...],
    *,
    right: float = 0.8,
    epochs: int = 3,
    validation: float = 0.0,
    predict: Predict | None = None,
) -> ReportInputs:
    """A run on so many examples of each class in turn, whose model is right that often."""
    labels = np.arange(len(examples)) % len(classes)
    data = Dataset.split(
        RawSplits((examples, labels), classes=classes), seed=0, validation=validation
    )
    random = np.random.default_rng(0)
    truth = data.test.labels
    said = np.where(random.random(len(truth)) < right, truth, (truth + 1) % len(classes))
    probabilities = np.full((len(truth), len(classes)), 0.2 / len(classes), np.float32)
    probabilities[np.arange(len(truth)), said] += 0.8
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
            **metrics.test(probabilities, truth, classes),
            "examples_per_second": 99.0, "epochs": epochs, "parameters": 7, "device": "CPU",
            "seed": 0, "model": "cnn", "data": "data", "seconds": {"total": 3.0, "train": 2.0},
            "leaked_from_training": {"test": 3},
        },
        predict=predict or (lambda texts: np.full((len(texts), len(classes)), 0.5)),
    )  # fmt: skip


def class_names(count: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(count))


def page(of: ReportInputs, folder: Path) -> str:
    (folder / filenames.MODEL_KERAS).touch()
    report.write(of, folder)
    return (folder / filenames.REPORT).read_text()


def test_a_run_is_summed_up_in_one_file_that_needs_no_other(finished_run: Path) -> None:
    text = (finished_run / filenames.REPORT).read_text()
    figures = json.loads((finished_run / filenames.METRICS).read_text())
    manifest = json.loads((finished_run / filenames.MANIFEST).read_text())
    assert f"{100 * figures['test']['accuracy']:.2f}\u202f%" in text
    assert figures["device"] in text
    assert manifest["data_fingerprint"] in text
    (model,) = [each for each in manifest["files"] if each["name"] == filenames.MODEL_KERAS]
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
    text = page(facts(images, ("a", "b"), right=0.0), tmp_path)
    assert text.count("<img src=") == 6 + 24  # All mistakes, and twelve of each class.


def test_vectors_have_no_pictures(tmp_path: Path) -> None:
    text = page(facts(np.random.default_rng(0).random((60, 5)), ("a", "b"), right=0.0), tmp_path)
    assert "<img" not in text
    assert "test example</th>" in text


@pytest.mark.parametrize("classes", [100, 1000])
def test_many_classes_stay_readable_and_small(classes: int, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (20 * classes, 8, 8, 1))
    text = page(facts(images, class_names(classes)), tmp_path)
    assert len(text) < 400_000
    assert 'class="matrix" src="data:image/png;' in text
    assert "The 40 classes with the lowest F1" in text
    assert text.count("<tr>") < 100


def test_a_run_without_mistakes_or_validation_and_of_one_epoch(tmp_path: Path) -> None:
    texts = np.array(["good", "bad"] * 20, object)
    text = page(facts(texts, ("pos", "neg"), right=1.0, epochs=1), tmp_path)
    assert "None: all 4 test examples are right." in text
    assert "no part of the training data was held out for validation" in text


def test_a_long_run_has_a_small_chart(tmp_path: Path) -> None:
    texts = np.array(["good", "bad"] * 20, object)
    short = page(facts(texts, ("pos", "neg"), epochs=30, validation=0.2), tmp_path)
    long = page(facts(texts, ("pos", "neg"), epochs=3000, validation=0.2), tmp_path)
    assert len(long) < len(short) + 10_000


def bag_of_words(texts: np.ndarray) -> np.ndarray:
    """Says 1 the surer, the more there is of "great" and the less of "dull"."""
    score = np.array([2.0 * text.count("great") - text.count("dull") for text in texts])
    sure = 1 / (1 + np.exp(-score))
    return np.stack([1 - sure, sure], axis=1)


def test_words_weigh_what_the_model_changes_by_without_them() -> None:
    texts = np.array(["a great,\n dull film", "", "nothing"], object)
    weighed = importance(texts, np.array([1, 1, 0]), bag_of_words(texts)[:, 1], bag_of_words)
    assert [(word.text, pytest.approx(word.weight)) for word in weighed[0]] == [
        ("a ", 0.0), ("great,\n ", 1.0), ("dull ", -0.5), ("film", 0.0)
    ]  # fmt: skip
    assert weighed[1] == []
    assert [word.weight for word in weighed[2]] == [0.0]


def test_long_texts_ask_the_model_only_so_much() -> None:
    asked = []

    def predict(texts: np.ndarray) -> np.ndarray:
        asked.append(sum(map(len, texts)))
        return bag_of_words(texts)

    texts = np.array(["great " * 5000] * 40, object)
    weighed = importance(texts, np.ones(40, int), bag_of_words(texts)[:, 1], predict)
    assert sum(asked) <= 2_000_000
    assert {len(words) for words in weighed} == {60}


def test_nothing_of_it_is_imported_while_training_goes_on() -> None:
    program = "import sys, trainer.reports.report; print({'matplotlib', 'jinja2'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_a_defect_in_the_report_is_told_and_costs_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def predict(texts: np.ndarray) -> np.ndarray:
        raise RuntimeError("out of memory, say")

    texts = np.array(["good", "bad"] * 20, object)
    report.write(facts(texts, ("pos", "neg"), right=0.0, predict=predict), tmp_path)
    assert not (tmp_path / filenames.REPORT).exists()
    assert "report.html: could not be made, the run goes on without it" in caplog.text
    assert "out of memory, say" in caplog.text
