"""What an exported model is compared on: the test part of the run's data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainer.errors import DataError

if TYPE_CHECKING:
    from trainer.data.dataset import Dataset
    from trainer.runs.finished_run import FinishedRun


@dataclass(frozen=True)
class Examples:
    """Data that a run's model takes.

    Attributes:
        dataset: read and split as by the run.
        description: what its test part is, in words.
    """

    dataset: Dataset = field(repr=False)
    description: str


def load(run: FinishedRun, data: str | None = None) -> Examples:
    """Reads the data of a run again, by the run's own settings.

    Args:
        run: a finished run.
        data: other data in its place, by name, path or gs://.

    Raises:
        StorageError: it is not there any more.
        DataError: it is damaged, or holds something else than the model takes.
    """
    from trainer.data.inputs import InputSignature
    from trainer.training import setup

    dataset = setup.reload(run, data)
    place = data or run.config["data"]
    found = InputSignature.of(dataset.spec)
    if (found.kind, found.shape, found.dtype) != (run.input.kind, run.input.shape, run.input.dtype):
        raise DataError(
            f"--data {place}: found {found.expected()}, expected {run.input.expected()}, as "
            "the model takes it"
        )
    if dataset.spec.classes != run.classes:
        raise DataError(
            f"--data {place}: found the classes {', '.join(dataset.spec.classes)}, expected "
            f"those of the run: {', '.join(run.classes)}"
        )
    same = dataset.fingerprint == run.manifest.get("data_fingerprint")
    of = "the run's test part" if same else f"{place}, which is not the data of the run"
    return Examples(dataset, f"of {of}")
