"""Format keras: the run's `model.keras`, unchanged, for Keras 3."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from trainer import models
from trainer.errors import UsageError
from trainer.runs import filenames

if TYPE_CHECKING:
    from trainer.data.dataset import Array
    from trainer.inference.export.exporter import ExportSource, Predict

SUFFIX = ".keras"
PACKAGES: tuple[str, ...] = ()
INPUT_KINDS = ("image", "vector", "text")
RUN_FILES = (filenames.MODEL_KERAS,)


def write(source: ExportSource, path: Path) -> None:
    """Copies the run's file."""
    import_layers(source)
    shutil.copyfile(source.files / filenames.MODEL_KERAS, path)


def import_layers(source: ExportSource) -> None:
    """Imports the user's module of the model, as Keras files name layers and hold no code."""
    name = source.run.config["model"]
    if name not in models.MODELS:
        with contextlib.suppress(UsageError):  # Not needed if all layers are Keras's own.
            models.find(name)


def load(path: Path, kind: str) -> Predict:
    """Loads the file with Keras, whose safe mode executes no code stored in it."""
    import keras
    import numpy as np

    from trainer.models import as_input

    model = keras.models.load_model(path, compile=False, safe_mode=True)

    def predict(examples: Array) -> Array:
        return np.asarray(model(as_input(examples), training=False))

    return predict
