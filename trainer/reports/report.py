"""Writes `report.html`, a self-contained page on a run, for the screen and for print."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import Config, ResolvedConfig, option_specs
from trainer.data.dataset import Array, Dataset
from trainer.reports import occlusion, pages, samples
from trainer.reports.occlusion import Predict
from trainer.runs import filenames, manifest, metrics
from trainer.runtime.log import LOGGER

_TEMPLATE = "report.html.jinja"
_MAX_MISTAKES = 40
_MAX_MATRIX_CLASSES = 20  # With more classes the confusion matrix is an image, not a table.
_MAX_LISTED_CLASSES = 40
_MAX_TINT = 60  # Maximum opacity of a colour behind text, in per cent.


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """The inputs of a report.

    Attributes:
        config: settings of the run.
        data: data set of the run.
        probabilities: class probabilities of the test split, float32 (N, classes).
        history: one row per epoch.
        metrics: content of `metrics.json`.
        predict: predicts class probabilities of texts.
    """

    config: ResolvedConfig
    data: Dataset
    probabilities: Array
    history: Sequence[Mapping[str, float]]
    metrics: Mapping[str, Any]
    predict: Predict


def write(inputs: ReportInputs, folder: Path) -> None:
    """Writes `report.html` into the folder that holds the model's files already.

    An internal error in the report is logged with its traceback and does not fail the run.
    """
    try:
        page = _page(inputs, folder).encode()
    except Exception:
        LOGGER.exception("%s: internal error; the run continues without it", filenames.REPORT)
        return
    (folder / filenames.REPORT).write_bytes(page)


def _page(inputs: ReportInputs, folder: Path) -> str:
    return pages.render(
        _TEMPLATE,
        config=inputs.config,
        spec=inputs.data.spec,
        metrics=inputs.metrics,
        finished=datetime.datetime.now(datetime.UTC),
        charts=_charts(inputs),
        confusion=_confusion(inputs),
        classes=_classes(inputs),
        mistakes=_mistakes(inputs),
        data=samples.by_class(
            inputs.data.train, inputs.data.class_counts(), inputs.data.spec.classes
        ),
        settings=[
            (
                each.flag,
                getattr(inputs.config, each.name),
                each.name in inputs.config.auto_settings,
            )
            for each in option_specs(Config)
        ],
        versions=manifest.versions(),
        origin={
            "data, SHA-256": inputs.data.fingerprint,
            f"{filenames.MODEL_KERAS}, SHA-256": _sha256(folder / filenames.MODEL_KERAS),
            "git commit": manifest.git_commit() or "unknown",
        },
    )


def _charts(inputs: ReportInputs) -> dict[str, Any]:
    # Imported after training, since it takes 0.25 s.
    from trainer.reports import charts

    def chart(column: str, **options: bool) -> dict[str, Any]:
        colours = {column: charts.FIRST}
        if f"val_{column}" in inputs.history[0]:
            colours[f"val_{column}"] = charts.SECOND
        return {"svg": charts.curves(inputs.history, colours, **options), "last": last[column],
                "validation": last.get(f"val_{column}")}  # fmt: skip

    last = inputs.history[-1]
    return {
        "loss": chart("loss"),
        "accuracy": chart("accuracy", percent=True),
        "learning_rate": chart("learning_rate", from_zero=True),
        "speed": chart("examples_per_second", from_zero=True),
        "reliability": charts.reliability(inputs.metrics["calibration"]["bins"]),
    }


def _confusion(inputs: ReportInputs) -> dict[str, Any]:
    """Returns the rows of a table; for many classes an image and the most confused pairs."""
    from trainer.reports import thumbnails

    counts, classes = np.array(inputs.metrics["confusion"]), inputs.data.spec.classes
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(len(classes), dtype=bool)
    if len(classes) <= _MAX_MATRIX_CLASSES:
        kinds = np.where(diagonal, "correct", np.where(counts == 0, "none", "wrong"))
        scale = max(fractions[~diagonal].max(), 1e-9)
        tints = _MAX_TINT * np.where(diagonal, fractions, fractions / scale)
        cells = np.stack([kinds, counts, tints.round(1)], axis=2, dtype=object, casting="unsafe")
        return {"rows": list(zip(classes, cells.tolist(), strict=True))}
    return {
        "image": thumbnails.encode_confusion(counts),
        "pairs": [
            (
                classes[true],
                classes[predicted],
                int(counts[true, predicted]),
                float(fractions[true, predicted]),
            )
            for true, predicted in metrics.most_confused(counts, _MAX_MATRIX_CLASSES)
        ],
    }


def _classes(inputs: ReportInputs) -> list[dict[str, Any]]:
    """Returns the metrics of all classes, or of the 40 classes with the lowest F1."""
    rows: list[dict[str, Any]] = inputs.metrics["per_class"]
    if len(rows) <= _MAX_LISTED_CLASSES:
        return rows
    return sorted(rows, key=lambda row: float(row["f1"]))[:_MAX_LISTED_CLASSES]


def _mistakes(inputs: ReportInputs) -> list[dict[str, Any]]:
    """Returns the wrong predictions, ordered by ascending probability of the true class."""
    test, classes = inputs.data.test, inputs.data.spec.classes
    predicted = inputs.probabilities.argmax(axis=1)
    true_probabilities = inputs.probabilities[np.arange(len(test)), test.labels]
    wrong = np.flatnonzero(predicted != test.labels)
    worst = wrong[np.argsort(true_probabilities[wrong], kind="stable")][:_MAX_MISTAKES]
    confidence = inputs.probabilities[worst, predicted[worst]]
    contents: Sequence[Any]
    if inputs.data.spec.kind == "text":
        contents = occlusion.importance(
            test.examples[worst], predicted[worst], confidence, inputs.predict
        )
    else:
        contents = samples.thumbnails(inputs.data.train, test.examples[worst])
        contents = contents or [None] * len(worst)
    return [
        {
            "number": number,
            "true": classes[test.labels[number]],
            "predicted": classes[predicted[number]],
            "confidence": probability,
            "content": content,
        }
        for number, probability, content in zip(
            worst.tolist(), confidence.tolist(), contents, strict=True
        )
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
