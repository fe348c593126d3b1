"""Writes the metrics file of a tuning trial, which Vertex AI reads.

Source: the format of Google's cloudml-hypertune, JSON lines with strings as values.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer import storage
from trainer.errors import StorageError
from trainer.runtime import cloud_environment

_PATH_VARIABLE = "CLOUD_ML_HP_METRIC_FILE"
_DEFAULT_PATH = "/tmp/hypertune/output.metrics"  # noqa: S108 - Defined by the service.
_MAX_LINES = 100
_METRICS = ("val_loss", "val_accuracy")


class TuningReport:
    """Writes the validation metrics of all epochs, by which the service ranks trials."""

    def __init__(self, path: Path, trial: str) -> None:
        """Creates the file.

        Args:
            path: path of the file that the service reads.
            trial: number of the trial.

        Raises:
            StorageError: the file cannot be written.
        """
        self._path, self._trial = path, trial
        try:
            with storage.translate_errors(str(path)):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.open("a").close()
        except StorageError as error:
            raise StorageError(
                f"{error}. Vertex AI reads the metrics of trial {trial} from this file, which only "
                f"root can write; found user {os.getuid()}. Tune with the image of --target root"
            ) from None

    def __call__(self, history: Sequence[Mapping[str, float]]) -> None:
        """Rewrites the file, with one line per epoch and metric.

        Args:
            history: one row per finished epoch.
        """
        lines = [
            json.dumps(
                {
                    "checkpoint_path": "",
                    "global_step": str(row["epoch"]),
                    "timestamp": datetime.datetime.now(datetime.UTC).timestamp(),
                    "trial": self._trial,
                    metric: str(row[metric]),
                }
            )
            for row in history
            for metric in _METRICS
        ]
        with storage.translate_errors(str(self._path)):
            self._path.write_text("".join(f"{line}\n" for line in lines[-_MAX_LINES:]))


def report(environment: Mapping[str, str]) -> TuningReport | None:
    """Returns the report of this job's tuning trial; None if the job is not a trial.

    Raises:
        StorageError: the file cannot be written.
    """
    trial = cloud_environment.trial(environment)
    if trial is None:
        return None
    return TuningReport(Path(environment.get(_PATH_VARIABLE) or _DEFAULT_PATH), trial)
