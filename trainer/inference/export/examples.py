"""Reads the examples on which an exported model is compared: the test split of the run's data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainer.errors import DataError

if TYPE_CHECKING:
    from trainer.data.dataset import Dataset
    from trainer.runs.finished_run import FinishedRun


@dataclass(frozen=True)
class ComparisonData:
    """Data that fits a run's model.

    Attributes:
        dataset: the data, read and split as in the run.
        description: its test split in words, "of the run's test split".
    """

    dataset: Dataset = field(repr=False)
    description: str


def load(run: FinishedRun, data: str | None = None) -> ComparisonData:
    """Reads the data of a run again, with the run's own settings.

    Args:
        run: a finished run.
        data: other data to use instead: a name, path or gs://.

    Raises:
        StorageError: the data is missing.
        DataError: the data is damaged, or does not fit the model.
    """
    from trainer.data.inputs import InputSignature
    from trainer.training import setup

    dataset = setup.reload(run, data)
    path = data or run.config["data"]
    signature = InputSignature.from_spec(dataset.spec)
    if (signature.kind, signature.shape, signature.dtype) != (
        run.input.kind,
        run.input.shape,
        run.input.dtype,
    ):
        raise DataError(
            f"--data {path}: found {signature.expected()}, expected {run.input.expected()}, the "
            "input of the model"
        )
    if dataset.spec.classes != run.classes:
        raise DataError(
            f"--data {path}: found the classes {', '.join(dataset.spec.classes)}, expected "
            f"those of the run: {', '.join(run.classes)}"
        )
    same = dataset.fingerprint == run.manifest.get("data_fingerprint")
    origin = "the run's test split" if same else f"{path}, which is not the data of the run"
    return ComparisonData(dataset, f"of {origin}")
