"""Evaluates a run's model on the test split of the run, or on other labelled data."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer import storage
from trainer.config import ReadOptions, ResolvedConfig, check
from trainer.data import loader
from trainer.data.dataset import Array, Dataset, RawSplits, Split, evaluation_split, match_classes
from trainer.errors import DataError, Location, UsageError
from trainer.runs import filenames, metrics, predictions
from trainer.runs.finished_run import FinishedRun, Predictor
from trainer.training import setup


@dataclass(frozen=True)
class EvaluationData:
    """Labelled examples for the evaluation of a model.

    Attributes:
        data: name or path of the data.
        split: "own" for the test split of the run's own data, "test" for the test split of other
            data, "all" for all of other data without a test split.
        examples: in the model's shape and dtype, with labels that are indices of its classes.
        shared: number of the examples that are in the run's test split, too.
    """

    data: str
    split: str
    examples: Split
    shared: int


def read_data(run: FinishedRun, data: str | None, options: ReadOptions) -> EvaluationData:
    """Reads the data to evaluate a run's model on.

    Args:
        run: the run.
        data: labelled data, as `loader.read` takes it; None for the run's own. A copy of the run's
            own data is recognised by its fingerprint, and split as in the run.
        options: how the files of `data` are read; what is not set is as in training.

    Raises:
        DataError: the data is damaged, or does not fit the model.
        StorageError: the data is missing or unreadable.
        UsageError: `options.image_size` is not that of the model.
    """
    config = check(ResolvedConfig, run.config)
    if data is None:
        own = setup.reload(run)
        return _evaluation_data(run, config.data, "own", own.test, own.spec.classes)
    options = as_in_training(run, options)
    columns = run.source.columns if run.source is not None else None
    source = loader.read(
        data, options, needs_training=False, columns=columns, layout=run.input.layout
    )
    own_copy = _split_like_run(config, source)
    if own_copy is not None and own_copy.fingerprint == run.manifest["data_fingerprint"]:
        return _evaluation_data(run, data, "own", own_copy.test, own_copy.spec.classes)
    try:
        examples, split = evaluation_split(source, run.classes)
    except DataError as error:
        raise error.at(Location(data)) from None
    return _evaluation_data(run, data, split, examples, run.classes)


def as_in_training(run: FinishedRun, options: ReadOptions) -> ReadOptions:
    """Returns options with the encoding and the header of the training data, unless given.

    Raises:
        UsageError: `--image-size` is not the size of the training images.
    """
    size, shape = options.image_size, run.input.shape
    if size is not None and run.input.kind == "image" and shape[:2] != (size, size):
        raise UsageError(
            f"--image-size: found {size}, expected images of {shape[1]}x{shape[0]}, as in "
            "training; remove the flag"
        )
    if run.source is None:
        return options
    columns = run.source.columns
    return dataclasses.replace(
        options,
        encoding=options.encoding or run.source.encoding,
        no_header=options.no_header or (columns is not None and not columns.has_header),
    )


def evaluate(run: FinishedRun, data: EvaluationData, model: Predictor) -> dict[str, Any]:
    """Evaluates a model.

    Returns:
        `run`, `data`, `split`, `examples` (their number) and `shared`, see `EvaluationData`; the
        metrics of `metrics.test`; and under `training` those of the run's own test.
    """
    original = run.metrics
    return {
        "run": run.path,
        "data": data.data,
        "split": data.split,
        "examples": len(data.examples),
        "shared": data.shared,
        **metrics.test(_predict(run, data, model), data.examples.labels, run.classes),
        "training": {
            "test": original["test"],
            "accuracy_interval": original["accuracy_interval"],
            "examples": sum(row["support"] for row in original["per_class"]),
        },
    }


def _predict(run: FinishedRun, data: EvaluationData, model: Predictor) -> Array:
    examples, size = data.examples.array, run.batch_size
    batches = (examples[first : first + size] for first in range(0, len(examples), size))
    return np.concatenate([model.predict(batch) for batch in batches])


def _evaluation_data(
    run: FinishedRun, data: str, split: str, examples: Split, classes: tuple[str, ...]
) -> EvaluationData:
    """Converts examples and labels for the model, and counts those in the run's test split.

    Args:
        run: the run.
        data: name or path of the data, for error messages.
        split: see `EvaluationData`.
        examples: as they were read.
        classes: class names that their labels are indices of.
    """
    try:
        labels = match_classes(run.classes, classes)[examples.labels]
        converted = run.input.from_data(examples.array)
    except DataError as error:
        raise error.at(Location(data)) from None
    with run.files(filenames.PREDICTIONS) as folder:
        rows = predictions.read(storage.folder(str(folder)))
    in_run = collections.Counter((row.example, row.true) for row in rows)
    in_data = collections.Counter(
        (predictions.digest(example), run.classes[label])
        for example, label in zip(converted, labels, strict=True)
    )
    return EvaluationData(data, split, Split(converted, labels), shared=(in_data & in_run).total())


def _split_like_run(config: ResolvedConfig, source: RawSplits) -> Dataset | None:
    """Returns the data split as in the run, or None if it cannot be, as it is other data then."""
    with contextlib.suppress(DataError):
        return Dataset.split(
            source, seed=config.seed, validation_split=config.validation_split, fold=config.fold_of
        )
    return None
