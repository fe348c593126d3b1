"""Format h5: the run's `model.h5`, unchanged, for programs written for Keras 2.

Keras before 3.11.3 executes code stored in an .h5 file even in safe mode (CVE-2025-9905). The
program requires a later Keras, and loads no .h5 file but the run's own.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.inference.export import keras
from trainer.runs import filenames

if TYPE_CHECKING:
    from trainer.inference.export.exporter import ExportSource

SUFFIX = ".h5"
PACKAGES: tuple[str, ...] = ()
INPUT_KINDS = ("image", "vector", "text")
RUN_FILES = (filenames.MODEL_H5,)

load = keras.load


def write(source: ExportSource, path: Path) -> None:
    """Copies the run's file."""
    keras.import_layers(source)
    shutil.copyfile(source.files / filenames.MODEL_H5, path)
