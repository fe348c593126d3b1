"""A run's model tested again: on what the run was tested on, or on other labelled data."""

from __future__ import annotations

import collections
import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer import storage
from trainer.config import ReadOptions, ResolvedConfig, check
from trainer.data import loader
from trainer.data.dataset import Array, Dataset, RawSplits, Split, labelled, numbers_in
from trainer.errors import DataError, Location
from trainer.runs import filenames, metrics, predictions
from trainer.runs.finished_run import FinishedRun, Predictor
from trainer.training import setup


@dataclass(frozen=True)
class EvaluationData:
    """What a model is tested on.

    Attributes:
        data: name or path of the data.
        part: "own" for the test part of the run's own data, "test" for that of other data, "all"
            for all of data without one.
        examples: as the model takes them, with labels that are numbers of its classes.
        shared: how many of them the run was tested on, too.
    """

    data: str
    part: str
    examples: Split
    shared: int


def read(found: FinishedRun, data: str | None, *, allow_pickle: bool = False) -> EvaluationData:
    """Reads what a run's model is to be tested on.

    Args:
        found: the run.
        data: labelled data, as `datasets.load` takes it; None for the run's own. If it is the run's
            own at another place, the test part is the run's too.
        allow_pickle: whether a pickle may be read.

    Raises:
        DataError: the data is damaged, or does not fit the model.
        StorageError: it is missing, or may not be read.
    """
    config = check(ResolvedConfig, found.config)
    if data is None:
        own = setup.reload(found)
        return _fitted(found, config.data, "own", own.test, own.spec.classes)
    height, width, *_ = (*found.input.shape, 0, 0)
    options = ReadOptions(
        allow_pickle=allow_pickle,
        image_size=height if height == width else None,  # As `predict` brings them to size.
        text_column=config.text_column,
        image_column=config.image_column,
        label_column=config.label_column,
    )
    source = loader.read(data, options, needs_training=False)
    again = _split_as(config, source)
    if again is not None and again.fingerprint == found.manifest["data_fingerprint"]:
        return _fitted(found, data, "own", again.test, again.spec.classes)
    try:
        examples, part = labelled(source, found.classes)
    except DataError as error:
        raise error.at(Location(data)) from None
    return _fitted(found, data, part, examples, found.classes)


def test(found: FinishedRun, on: EvaluationData, model: Predictor) -> dict[str, Any]:
    """Tests a model.

    Returns:
        `run`, `data`, `part`, `examples` (how many) and `shared`, see `EvaluationData`; the figures of
        `metrics.test`; and under `training` those of the run's own test that can be compared.
    """
    then = found.metrics
    return {
        "run": found.run,
        "data": on.data,
        "part": on.part,
        "examples": len(on.examples),
        "shared": on.shared,
        **metrics.test(_predict(found, on, model), on.examples.labels, found.classes),
        "training": {
            "test": then["test"],
            "accuracy_interval": then["accuracy_interval"],
            "examples": sum(each["support"] for each in then["per_class"]),
        },
    }


def _predict(found: FinishedRun, on: EvaluationData, model: Predictor) -> Array:
    examples, size = on.examples.array, found.batch_size
    batches = (examples[first : first + size] for first in range(0, len(examples), size))
    return np.concatenate([model.predict(batch) for batch in batches])


def _fitted(
    found: FinishedRun, data: str, part: str, split: Split, classes: tuple[str, ...]
) -> EvaluationData:
    """Returns examples as the model takes them, and how many the run was tested on.

    Args:
        found: the run.
        data: where they are from, for messages.
        part: see `EvaluationData`.
        split: the examples.
        classes: what their labels are numbers of.
    """
    try:
        labels = numbers_in(found.classes, classes)[split.labels]
        examples = found.input.from_data(split.array)
    except DataError as error:
        raise error.at(Location(data)) from None
    with found.files(filenames.PREDICTIONS) as folder:
        rows = predictions.read(storage.folder(str(folder)))
    then = collections.Counter((row.example, row.true) for row in rows)
    now = collections.Counter(
        (predictions.digest(example), found.classes[label])
        for example, label in zip(examples, labels, strict=True)
    )
    return EvaluationData(data, part, Split(examples, labels), shared=(now & then).total())


def _split_as(config: ResolvedConfig, source: RawSplits) -> Dataset | None:
    """Returns data split as the run's was; None if it cannot be, so that it is no such data."""
    with contextlib.suppress(DataError):
        return Dataset.split(
            source, seed=config.seed, validation_split=config.validation_split, fold=config.fold_of
        )
    return None
