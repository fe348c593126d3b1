"""Starts training jobs as processes that tests kill, and compares runs bit for bit."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer import storage
from trainer.config import DataOptions
from trainer.data import loader
from trainer.runs import filenames

ROOT = Path(__file__).parents[1]

# Contains everything with a state or with randomness: dropout, augmentation, moving averages,
# callbacks with a state, a learning rate that they change, and the order of examples.
MODEL = """
import keras
from trainer.models import Recipe

def callbacks():
    return [
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=50, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(monitor="val_loss", patience=1, factor=0.7),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.97),
    ]

RECIPE = Recipe(batch_size=16, epochs=40, callbacks=callbacks)

def build(spec):
    layers = keras.layers
    return keras.Sequential([
        keras.Input(spec.shape, dtype=spec.dtype),
        layers.Rescaling(1 / 255),
        layers.RandomTranslation(0.1, 0.1),
        layers.Conv2D(8, 5, strides=2),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dropout(0.3),
        layers.Dense(10, activation="softmax"),
    ])
"""


class Runner:
    """Starts training jobs as processes."""

    def __init__(
        self,
        folder: Path,
        data: Path,
        *,
        model: str = "killed:build",
        arguments: Sequence[str] = ("--validation-split=0.2", "--seed=7"),
    ) -> None:
        self.folder = folder
        (folder / "killed.py").write_text(MODEL)
        self._command = [sys.executable, "-m", "trainer.task", f"--model={model}"]
        self._command += [f"--data={data}", *arguments]
        self.log = folder / "log"

    def start(self, out: str, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [*self._command, f"--out={out}", *arguments],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{self.folder}"},
                stdout=log,
                stderr=log,
            )

    def finish(self, out: str, *arguments: str) -> None:
        process = self.start(out, *arguments)
        assert process.wait(120) == 0, self.log.read_text()

    def wait_for_training(self, process: subprocess.Popen[bytes]) -> None:
        self.wait_for_log(process, "training ")

    def wait_for_log(self, process: subprocess.Popen[bytes], text: str) -> None:
        """Waits until the log contains `text`, or the process has ended."""
        while process.poll() is None and text not in self.log.read_text():
            time.sleep(0.01)


def fingerprint(out: str, temporary_directory: Path) -> dict[str, Any]:
    """Returns all results of a run that are equal in bit-identical runs."""
    folder = storage.folder(out)
    import keras  # Not at the top: conftest.py imports this module.

    path = temporary_directory / f"{random.random()}.keras"
    path.write_bytes(folder.read(filenames.MODEL_KERAS) or b"")
    model = keras.models.load_model(path)
    variables = [*model.weights, *model.optimizer.variables]
    digests = [hashlib.sha256(np.asarray(v).tobytes()).hexdigest() for v in variables]
    rows = list(csv.DictReader((folder.read(filenames.HISTORY) or b"").decode().splitlines()))
    metrics = json.loads(folder.read(filenames.METRICS) or b"")
    for timing in ("seconds", "examples_per_second"):
        metrics.pop(timing)
        for row in rows:
            row.pop(timing)
    return {"variables": digests, "history": rows, "metrics": metrics}


def write_idx(path: Path, array: np.ndarray) -> None:
    """Writes an IDX file of unsigned bytes, gzipped if the name ends in .gz."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_digits(folder: Path, examples: int = 1000) -> Path:
    """Writes the first training images (1,000) and 300 test images of MNIST; returns the folder."""
    folder.mkdir(exist_ok=True)
    mnist = loader.load(DataOptions(data="mnist", seed=0))
    for name, split, count in (("train", mnist.train, examples), ("t10k", mnist.test, 300)):
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", split.examples[:count, ..., 0])
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", split.labels[:count])
    return folder
