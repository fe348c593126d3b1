"""What a tuning trial tells Vertex AI: the metrics file that its service reads.

Source: the format of Google's cloudml-hypertune, JSON lines with strings for values.
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

_PLACE = "CLOUD_ML_HP_METRIC_FILE"
_USUAL_PLACE = "/tmp/hypertune/output.metrics"  # noqa: S108 - The service's own choice.
_MAX_LINES = 100
_METRICS = ("val_loss", "val_accuracy")


class TuningReport:
    """Writes the validation figures of all epochs, for the service to choose trials by."""

    def __init__(self, path: Path, trial: str) -> None:
        """Writes to `path`.

        Args:
            path: of the file that the service reads.
            trial: its number.

        Raises:
            StorageError: it cannot be written, so that the trial would be in vain.
        """
        self._path, self._trial = path, trial
        try:
            with storage.translate_errors(str(path)):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.open("a").close()
        except StorageError as error:
            raise StorageError(
                f"{error}. Vertex AI reads the figures of trial {trial} there, which only root can "
                f"write; this is user {os.getuid()}: tune with the image of --target root"
            ) from None

    def __call__(self, history: Sequence[Mapping[str, float]]) -> None:
        """Rewrites the file, a line for each figure of an epoch.

        Args:
            history: a row for each epoch that is over.
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
    """Returns the report of this trial; None if the job is none.

    Raises:
        StorageError: the file cannot be written.
    """
    trial = cloud_environment.trial(environment)
    if trial is None:
        return None
    return TuningReport(Path(environment.get(_PLACE) or _USUAL_PLACE), trial)
