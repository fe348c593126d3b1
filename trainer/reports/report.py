"""`report.html`: a run on one page that needs nothing else, to be read, printed and shown."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import ResolvedConfig, flag_name
from trainer.data.dataset import Array, Dataset
from trainer.reports import occlusion, pages, samples
from trainer.reports.occlusion import Predict
from trainer.runs import filenames, manifest, metrics
from trainer.runtime.log import LOGGER

_TEMPLATE = "report.html.jinja"
_MISTAKES = 40
# Of more classes, a table would be neither readable nor small.
_MAX_IN_MATRIX = 20
_MAX_LISTED = 40
_DEEPEST = 60  # Per cent of a colour behind text, which must stay readable.


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """What a report is made of.

    Attributes:
        config: the settings of the run.
        data: what it was trained on.
        probabilities: of the test part, float32 (N, classes).
        history: a row an epoch.
        metrics: what `metrics.json` will hold.
        predict: the model, for texts.
    """

    config: ResolvedConfig
    data: Dataset
    probabilities: Array
    history: Sequence[Mapping[str, float]]
    metrics: Mapping[str, Any]
    predict: Predict


def write(inputs: ReportInputs, folder: Path) -> None:
    """Writes `report.html` beside the model's files, which are in the folder already.

    A defect in it is logged with its traceback, and costs no run: the model and its figures are
    worth more than their picture, and the manifest lists what is there.
    """
    try:
        page = _page(inputs, folder).encode()
    except Exception:
        LOGGER.exception("%s: could not be made, the run goes on without it", filenames.REPORT)
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
            (flag_name(name), value, name in inputs.config.auto_settings)
            for name, value in dataclasses.asdict(inputs.config).items()
            if name != "auto_settings"
        ],
        versions=manifest.versions(),
        origin={
            "data, SHA-256": inputs.data.fingerprint,
            f"{filenames.MODEL_KERAS}, SHA-256": _sha256(folder / filenames.MODEL_KERAS),
            "git commit": manifest.git_commit() or "none known",
        },
    )


def _charts(inputs: ReportInputs) -> dict[str, Any]:
    # Not before training is over: it takes a quarter of a second.
    from trainer.reports import charts

    def pair(figure: str, **how: bool) -> dict[str, Any]:
        colours = {figure: charts.FIRST}
        if f"val_{figure}" in inputs.history[0]:
            colours[f"val_{figure}"] = charts.SECOND
        return {"svg": charts.curves(inputs.history, colours, **how), "last": last[figure],
                "validation": last.get(f"val_{figure}")}  # fmt: skip

    last = inputs.history[-1]
    return {
        "loss": pair("loss"),
        "accuracy": pair("accuracy", percent=True),
        "learning_rate": pair("learning_rate", from_zero=True),
        "speed": pair("examples_per_second", from_zero=True),
        "reliability": charts.reliability(inputs.metrics["calibration"]["bins"]),
    }


def _confusion(inputs: ReportInputs) -> dict[str, Any]:
    """Returns the rows of a table, or for many classes a picture and the pairs most confused."""
    from trainer.reports import thumbnails

    counts, classes = np.array(inputs.metrics["confusion"]), inputs.data.spec.classes
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    own = np.eye(len(classes), dtype=bool)
    if len(classes) <= _MAX_IN_MATRIX:
        kinds = np.where(own, "right", np.where(counts == 0, "none", "wrong"))
        tints = _DEEPEST * np.where(own, shares, shares / max(shares[~own].max(), 1e-9))
        cells = np.stack([kinds, counts, tints.round(1)], axis=2, dtype=object, casting="unsafe")
        return {"rows": list(zip(classes, cells.tolist(), strict=True))}
    return {
        "picture": thumbnails.of_confusion(counts),
        "pairs": [
            (classes[true], classes[said], int(counts[true, said]), float(shares[true, said]))
            for true, said in metrics.most_confused(counts, _MAX_IN_MATRIX)
        ],
    }


def _classes(inputs: ReportInputs) -> list[dict[str, Any]]:
    """Returns the figures of each class, or of many the worst ones."""
    rows: list[dict[str, Any]] = inputs.metrics["per_class"]
    if len(rows) <= _MAX_LISTED:
        return rows
    return sorted(rows, key=lambda row: float(row["f1"]))[:_MAX_LISTED]


def _mistakes(inputs: ReportInputs) -> list[dict[str, Any]]:
    """Returns the examples whose true class got the least probability, the worst first."""
    test, classes = inputs.data.test, inputs.data.spec.classes
    said = inputs.probabilities.argmax(axis=1)
    of_truth = inputs.probabilities[np.arange(len(test)), test.labels]
    wrong = np.flatnonzero(said != test.labels)
    worst = wrong[np.argsort(of_truth[wrong], kind="stable")][:_MISTAKES]
    sure = inputs.probabilities[worst, said[worst]]
    shown: Sequence[Any]
    if inputs.data.spec.kind == "text":
        shown = occlusion.importance(test.examples[worst], said[worst], sure, inputs.predict)
    else:
        shown = samples.thumbnails(inputs.data.train, test.examples[worst]) or [None] * len(worst)
    return [
        {
            "number": number,
            "true": classes[test.labels[number]],
            "said": classes[said[number]],
            "sure": probability,
            "shown": example,
        }
        for number, probability, example in zip(worst.tolist(), sure.tolist(), shown, strict=True)
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
