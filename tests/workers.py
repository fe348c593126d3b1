"""Starts jobs of several workers: one process and one folder per worker."""

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

# Without dropout, so that it computes the same on any number of workers. Each worker writes its
# weights, and the inputs of its augmentation in each step. Environment variables make the chief
# wait at the end of training (CHIEF_WAITS_S), and all workers stop after an epoch
# (STOP_AFTER_EPOCH).
PLAIN = """
import json, os, signal, time
import keras, numpy
from trainer.models import Recipe

class Recording:
    values_per_example = 3
    examples, values = [], []

    def __call__(self, examples, uniform):
        import tensorflow as tf

        def record(x, values):
            flat = x.reshape(len(x), -1)
            self.examples.append(flat @ numpy.arange(flat.shape[1]))
            self.values.append(values.copy())

        tf.numpy_function(record, [examples, uniform], [], stateful=True)
        return examples

class WriteRecording(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if os.environ.get("STOP_AFTER_EPOCH") == str(epoch + 1):
            os.kill(os.getpid(), signal.SIGTERM)

    def on_train_end(self, logs=None):
        index = json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 0}}'))["task"]["index"]
        path = f"{os.environ['WEIGHTS']}/{index}"
        numpy.savez(f"{path}.npz", *self.model.get_weights())
        numpy.savez(f"{path}-inputs.npz", examples=Recording.examples, values=Recording.values)
        time.sleep(float(os.environ.get("CHIEF_WAITS_S", "0")) if index == 0 else 0)

RECIPE = Recipe(batch_size=96, epochs=3, callbacks=lambda: [WriteRecording()],
                augmentation=Recording())

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
        """Prepares a folder for each worker, in which it starts; only the data is shared.

        Args:
            folder: for everything that the workers write.
            data: the training data.
            prefixes: a command before that of each worker, such as `ip netns exec`.
        """
        self.folder, self._prefixes = folder, prefixes
        (folder / "plain.py").write_text(PLAIN)
        (folder / "killed.py").write_text(MODEL)
        (folder / "weights").mkdir()
        # In float32 the results of one and several workers differ by rounding only.
        self._arguments = [
            f"--data={data}",
            "--validation-split=0.2",
            "--seed=7",
            "--precision=float32",
        ]
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(
        self, model: str, *arguments: str, addresses: Sequence[str] = (), **environment: str
    ) -> list[subprocess.Popen[bytes]]:
        """Starts a process for each address; two on loopback by default."""
        addresses = addresses or [f"127.0.0.1:{free_port()}" for _ in range(2)]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
        processes = []
        for index in range(len(addresses)):
            self.worker_folder(index).mkdir(exist_ok=True)
            tf_config = {}
            if len(addresses) > 1:
                task = {"type": "worker", "index": index}
                cluster = {"worker": list(addresses)}
                tf_config = {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}
            command = [sys.executable, "-m", "trainer.task", f"--model={model}", *self._arguments]
            prefix = self._prefixes[index] if self._prefixes else ()
            with self.log(index).open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        [*prefix, *command, *arguments],
                        cwd=self.worker_folder(index),
                        env={
                            **inherited,
                            "PYTHONPATH": f"{ROOT}:{self.folder}",
                            "WEIGHTS": str(self.folder / "weights"),
                            **tf_config,
                            **environment,
                        },
                        stdout=log,
                        stderr=log,
                    )
                )
        self._processes += processes
        return processes

    def finish(
        self, model: str, *arguments: str, workers: int = 2, code: int = 0, **environment: str
    ) -> None:
        """Runs a job on a number of workers, each of which must end with the exit code `code`."""
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(workers)]
        processes = self.start(model, *arguments, addresses=addresses, **environment)
        codes = [process.wait(120) for process in processes]
        assert codes == [code] * workers, [self.output(index) for index in range(workers)]

    def worker_folder(self, index: int) -> Path:
        """Returns the folder of a worker."""
        return self.folder / f"worker{index}"

    def log(self, index: int) -> Path:
        return self.folder / f"worker{index}.log"

    def output(self, index: int) -> str:
        """Returns what a worker of the last job wrote to stdout and stderr."""
        return self.log(index).read_text()

    def wait_for(self, text: str, *, index: int = 0, within_s: float = 60) -> None:
        """Waits until the output of a worker contains a text."""
        deadline = time.monotonic() + within_s
        while text not in self.output(index):
            assert time.monotonic() < deadline, self.output(index)
            time.sleep(0.02)

    def weights(self, index: int) -> list[np.ndarray]:
        """Returns the final weights of a worker of the last job with the model `plain`."""
        with np.load(self.folder / "weights" / f"{index}.npz") as arrays:
            return [arrays[name] for name in arrays.files]

    def inputs(self, workers: int) -> dict[str, np.ndarray]:
        """Returns the recorded inputs of the last job with the model `plain`, worker after worker.

        Returns:
            As `examples` a number that identifies each example, int64 (steps, width); as `values`
            the random values of each example, float32 (steps, width, 3).
        """
        recorded = []
        for index in range(workers):
            with np.load(self.folder / "weights" / f"{index}-inputs.npz") as arrays:
                recorded.append(dict(arrays))
        if workers == 1:  # The two microbatches of each step, one after the other.
            (one,) = recorded
            recorded = [{name: each[first::2] for name, each in one.items()} for first in (0, 1)]
        return {
            name: np.concatenate([each[name] for each in recorded], axis=1) for name in recorded[0]
        }

    def kill(self) -> None:
        """Kills all processes that still run."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()


@contextlib.contextmanager
def team(folder: Path, data: Path, *, prefixes: Sequence[Sequence[str]] = ()) -> Iterator[Team]:
    """Yields a team, and kills its processes at the end."""
    workers = Team(folder, data, prefixes=prefixes)
    try:
        yield workers
    finally:
        workers.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
