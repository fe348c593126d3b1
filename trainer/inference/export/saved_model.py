"""Format saved_model: the run's SavedModel, unchanged, for TensorFlow Serving."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.runs import filenames
from trainer.runs.finished_run import Predictor

if TYPE_CHECKING:
    from trainer.inference.export.exporter import ExportSource, Predict

SUFFIX = ".saved_model"
PACKAGES: tuple[str, ...] = ()
INPUT_KINDS = ("image", "vector", "text")
RUN_FILES: tuple[str, ...] = (f"{filenames.SAVED_MODEL}/",)


def write(source: ExportSource, path: Path) -> None:
    """Copies the run's SavedModel."""
    shutil.copytree(source.files / filenames.SAVED_MODEL, path)


def load(path: Path, kind: str) -> Predict:
    """Loads the SavedModel with TensorFlow."""
    return Predictor(path).predict
