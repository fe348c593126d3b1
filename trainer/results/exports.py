"""The trained model as files: raw examples in, class probabilities out, in each of them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import keras

from trainer.results import names


def write(model: keras.Model, folder: Path) -> None:
    """Writes `model.keras`, `model.h5` and `saved_model/` into a local folder."""
    # Keras advises against .h5 at each saving; the seed's users expect it beside the others.
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)
    try:
        model.save(folder / names.MODEL_KERAS)
        model.save(folder / names.MODEL_H5)
    finally:
        absl.setLevel(level)
    model.export(folder / names.SAVED_MODEL, format="tf_saved_model", verbose=False)
    # A random mark of TensorFlow's own, which nothing reads: two equal models would differ by it.
    os.remove(folder / names.SAVED_MODEL / "fingerprint.pb")
