"""The trained model as files: raw examples in, class probabilities out, in each of them."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import keras
import tensorflow as tf

from trainer import storage
from trainer.errors import UsageError
from trainer.runs import filenames


def check_saveable(model: keras.Model, name: str) -> None:
    """Tries to save a model before it is trained.

    Raises:
        UsageError: it cannot be saved, as with a subclass of keras.Model.
    """
    with storage.temporary_directory() as folder:
        try:
            # Without the optimizer, which saving .h5 takes out of the compiled model for good.
            _save(model, folder, include_optimizer=False)
            _export(model, folder)
        except OSError:
            raise  # The disk's fault, not the model's.
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
    # A random mark of TensorFlow's own, which nothing reads: two equal models would differ by it.
    os.remove(folder / filenames.SAVED_MODEL / "fingerprint.pb")


def _export(model: keras.Model, folder: Path) -> None:
    try:
        model.export(folder / filenames.SAVED_MODEL, format="tf_saved_model", verbose=False)
    except tf.errors.ResourceExhaustedError as error:  # How TensorFlow says that a disk is full.
        raise OSError(errno.ENOSPC, error.message) from error


def _save(model: keras.Model, folder: Path, *, include_optimizer: bool) -> None:
    # Keras advises against .h5 at each saving; the seed's users expect it beside the others.
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)
    try:
        model.save(folder / filenames.MODEL_KERAS)
        model.save(folder / filenames.MODEL_H5, include_optimizer=include_optimizer)
    finally:
        absl.setLevel(level)
