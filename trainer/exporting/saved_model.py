"""The run's SavedModel, for TensorFlow Serving; byte for byte."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from trainer import trained
from trainer.results import names

if TYPE_CHECKING:
    from trainer.exporting import Predict, Source

SUFFIX = ".saved_model"
NEEDS: tuple[str, ...] = ()
KINDS = ("image", "vector", "text")
OF_RUN: tuple[str, ...] = (f"{names.SAVED_MODEL}/",)


def write(source: Source, path: Path) -> None:
    """Copies the run's SavedModel."""
    shutil.copytree(source.files / names.SAVED_MODEL, path)


def load(path: Path, kind: str) -> Predict:
    """Loads it by TensorFlow."""
    return trained.Model(path).predict
