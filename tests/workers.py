"""A job on several workers: processes with a folder each, on loopback or on other addresses."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tests.kills import MODEL, ROOT

# Nothing random in it, so that what it computes is the same on any number of workers; and each worker
# leaves its weights behind, and what it was given in each step. The chief may be slow at the end,
# and all may be told to stop after an epoch.
PLAIN = """
import json, os, signal, time
import keras, numpy
from trainer.models import Recipe

class Seen:
    values_per_example = 3
    given, drawn = [], []

    def __call__(self, examples, uniform):
        import tensorflow as tf

        def remember(x, drawn):
            flat = x.reshape(len(x), -1)
            self.given.append(flat @ numpy.arange(flat.shape[1]))
            self.drawn.append(drawn.copy())

        tf.numpy_function(remember, [examples, uniform], [], stateful=True)
        return examples

class Leave(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if os.environ.get("ENDS_AFTER") == str(epoch + 1):
            os.kill(os.getpid(), signal.SIGTERM)

    def on_train_end(self, logs=None):
        index = json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 0}}'))["task"]["index"]
        place = f"{os.environ['WEIGHTS']}/{index}"
        numpy.savez(f"{place}.npz", *self.model.get_weights())
        numpy.savez(f"{place}-seen.npz", given=Seen.given, drawn=Seen.drawn)
        time.sleep(float(os.environ.get("CHIEF_LINGERS", "0")) if index == 0 else 0)

RECIPE = Recipe(batch_size=96, epochs=3, callbacks=lambda: [Leave()], augmentation=Seen())

def build(spec):
    layers = keras.layers
    return keras.Sequential([
        keras.Input(spec.shape, dtype=spec.dtype),
        layers.Rescaling(1 / 255),
        layers.Conv2D(4, 5, strides=3, activation="relu", kernel_regularizer="l2"),
        layers.Flatten(),
        layers.Dense(10, activation="softmax"),
    ])
"""


class Team:
    """Starts jobs of several workers, the chief first."""

    def __init__(self, folder: Path, data: Path, *, prefixes: Sequence[Sequence[str]] = ()) -> None:
        """Gives each worker a folder of its own, in which it starts; no file is shared but the data.

        Args:
            folder: of all that is written.
            data: what is trained on.
            prefixes: a command before each worker's own, as `ip netns exec` is.
        """
        self.folder, self._prefixes = folder, prefixes
        (folder / "plain.py").write_text(PLAIN)
        (folder / "killed.py").write_text(MODEL)
        (folder / "weights").mkdir()
        # Several workers and one are equal but for rounding in float32, not in 16 bits.
        self._arguments = [
            f"--data={data}",
            "--validation-split=0.2",
            "--seed=7",
            "--precision=float32",
        ]
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self, model: str, *arguments: str, addresses: Sequence[str] = (), **environment: str
    ) -> list[subprocess.Popen[bytes]]:
        """Starts a process on each worker; two on loopback, if no addresses are given."""
        addresses = addresses or [f"127.0.0.1:{free_port()}" for _ in range(2)]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
        processes = []
        for index in range(len(addresses)):
            self.place(index).mkdir(exist_ok=True)
            described = {}
            if len(addresses) > 1:
                task = {"type": "worker", "index": index}
                cluster = {"worker": list(addresses)}
                described = {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}
            command = [sys.executable, "-m", "trainer.task", f"--model={model}", *self._arguments]
            prefix = self._prefixes[index] if self._prefixes else ()
            with self.log(index).open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        [*prefix, *command, *arguments],
                        cwd=self.place(index),
                        env={
                            **inherited,
                            "PYTHONPATH": f"{ROOT}:{self.folder}",
                            "WEIGHTS": str(self.folder / "weights"),
                            **described,
                            **environment,
                        },
                        stdout=log,
                        stderr=log,
                    )
                )
        self._started += processes
        return processes

    def finish(
        self, model: str, *arguments: str, workers: int = 2, code: int = 0, **environment: str
    ) -> None:
        """Runs a job on so many workers, which has to end with this code."""
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(workers)]
        started = self.start(model, *arguments, addresses=addresses, **environment)
        ended = [process.wait(120) for process in started]
        assert ended == [code] * workers, [self.said(index) for index in range(workers)]

    def place(self, index: int) -> Path:
        """Returns the folder of a worker."""
        return self.folder / f"host{index}"

    def log(self, index: int) -> Path:
        return self.folder / f"host{index}.log"

    def said(self, index: int) -> str:
        """Returns what the last job wrote on this worker's terminal."""
        return self.log(index).read_text()

    def wait_for(self, text: str, *, index: int = 0, within_s: float = 60) -> None:
        """Waits until a worker says so."""
        deadline = time.monotonic() + within_s
        while text not in self.said(index):
            assert time.monotonic() < deadline, self.said(index)
            time.sleep(0.02)

    def weights(self, index: int) -> list[np.ndarray]:
        """Returns what a worker of the plain model ended with."""
        with np.load(self.folder / "weights" / f"{index}.npz") as arrays:
            return [arrays[name] for name in arrays.files]

    def seen(self, workers: int) -> dict[str, np.ndarray]:
        """Returns what the last job of the plain model was given in its steps, host behind host.

        Of each example a number that tells it from others, as `given`, int64 (steps, width); and
        its random numbers, as `drawn`, float32 (steps, width, 3).
        """
        found = []
        for index in range(workers):
            with np.load(self.folder / "weights" / f"{index}-seen.npz") as arrays:
                found.append(dict(arrays))
        if workers == 1:  # Two shares of each step, one after the other.
            (one,) = found
            found = [{name: each[first::2] for name, each in one.items()} for first in (0, 1)]
        return {name: np.concatenate([each[name] for each in found], axis=1) for name in found[0]}

    def end(self) -> None:
        """Kills what a test has left running."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait()


@contextlib.contextmanager
def team(folder: Path, data: Path, *, prefixes: Sequence[Sequence[str]] = ()) -> Iterator[Team]:
    """Gives a team, and leaves none of its processes behind."""
    workers = Team(folder, data, prefixes=prefixes)
    try:
        yield workers
    finally:
        workers.end()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
