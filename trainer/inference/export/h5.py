"""The run's `model.h5`, for programs of before Keras 3; byte for byte.

Keras up to 3.11.2 runs code out of an .h5 whatever its safe mode is (CVE-2025-9905), so another
file than the run's own is never loaded, and this program asks for a Keras that came after it.
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
NEEDS: tuple[str, ...] = ()
KINDS = ("image", "vector", "text")
OF_RUN = (filenames.MODEL_H5,)

load = keras.load


def write(source: ExportSource, path: Path) -> None:
    """Copies the run's file."""
    keras.import_layers(source)
    shutil.copyfile(source.files / filenames.MODEL_H5, path)
