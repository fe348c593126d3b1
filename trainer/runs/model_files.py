"""Saves models as files; each file maps raw examples to class probabilities."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import keras
import tensorflow as tf

from trainer import models, storage
from trainer.errors import UsageError
from trainer.runs import filenames


def check_saveable(model: keras.Model, name: str) -> None:
    """Saves a model to a temporary folder, to fail before training.

    Raises:
        UsageError: the model cannot be saved, for example a subclass of keras.Model.
    """
    with storage.temporary_directory() as folder:
        try:
            # Without the optimizer: saving it as .h5 removes it from the compiled model.
            _save(model, folder, include_optimizer=False)
            _export(model, folder)
        except OSError:
            raise  # The cause is the disk, not the model.
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise UsageError(
                f"--model {name}: cannot be saved, expected a Sequential or functional model: "
                f"{reason}"
            ) from error


def write(model: keras.Model, folder: Path) -> None:
    """Writes `model.keras`, `model.h5` and `saved_model/` into a local folder."""
    _save(model, folder, include_optimizer=True)
    _export(model, folder)
    # Contains a random id, which nothing reads; without it, equal models have equal files.
    os.remove(folder / filenames.SAVED_MODEL / "fingerprint.pb")


def _export(model: keras.Model, folder: Path) -> None:
    """Writes the SavedModel; input and output have the same names in every run.

    `model.export` would name them keras_tensor_6 and output_0, by the number of earlier models.
    """
    (tensor,) = model.inputs
    spec = keras.InputSpec(tensor.dtype, (None, *tensor.shape[1:]), name=_input_name(tensor))
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", lambda examples: {models.OUTPUT: model(examples)}, [spec])
    try:
        archive.write_out(folder / filenames.SAVED_MODEL, verbose=False)
    except tf.errors.ResourceExhaustedError as error:  # The disk is full.
        raise OSError(errno.ENOSPC, error.message) from error


def _input_name(tensor: keras.KerasTensor) -> str:
    """Returns the kind of the examples that a model takes: "image", "vector" or "text"."""
    if tensor.dtype == "string":
        return "text"
    return "image" if len(tensor.shape) == 4 else "vector"


def _save(model: keras.Model, folder: Path, *, include_optimizer: bool) -> None:
    # Hides Keras's warning about the .h5 format, which users of the reference scripts expect.
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)
    try:
        model.save(folder / filenames.MODEL_KERAS)
        model.save(folder / filenames.MODEL_H5, include_optimizer=include_optimizer)
    finally:
        absl.setLevel(level)
