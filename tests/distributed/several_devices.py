"""Trains the same model on one device and on several logical devices, in place of GPUs.

    python -m tests.distributed.several_devices DIGITS SHARDS OUT

A program, because logical devices are configured before TensorFlow starts. Writes the inputs and
results of each training to OUT, an .npz. Except for those of `run_layers`, the names of its arrays
start with a name in RUNS.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.engine.test_loop import small_model
from tests.fitting import fit
from trainer.checkpoint import state
from trainer.checkpoint.state import Checkpoint
from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Array, Dataset
from trainer.distributed.devices import Devices, mirrored_strategy
from trainer.engine import loop
from trainer.engine.train_state import TrainState

DEVICES = 4  # TensorFlow expects the same number for all strategies of a process.
BATCH = 95  # Not a multiple of DEVICES.
EPOCHS = 3
CHECKPOINT = (1, 5)  # Epoch and step of the checkpoint from which another run resumes.
# By the name of a run: its data, its number of devices, and the run that it resumes.
RUNS = {
    "1": ("digits", 1, None),
    "4": ("digits", DEVICES, None),
    "1 to 4": ("digits", DEVICES, "1"),
    "4 to 1": ("digits", 1, "4"),
    "4 to 4": ("digits", DEVICES, "4"),
    "1, shards": ("shards", 1, None),
    "4, shards": ("shards", DEVICES, None),
    "1, frozen": ("digits", 1, None),
    "4, frozen": ("digits", DEVICES, None),
}


class Recording:
    """An augmentation that changes nothing, and records the inputs of each replica."""

    values_per_example = 3

    def __init__(self) -> None:
        self._inputs: dict[int, list[tuple[Array, Array]]] = {}

    def __call__(self, examples: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group

        def record(number: Array, x: Array, values: Array) -> None:
            self._inputs.setdefault(int(number), []).append((x.copy(), values.copy()))

        tf.numpy_function(record, [replica, examples, uniform], [], stateful=True)
        return examples

    def batches(self, argument: int) -> Array:
        """Returns the examples (0) or random values (1) of each step, replica after replica."""
        of_replicas = [
            np.stack([inputs[argument] for inputs in steps])
            for _, steps in sorted(self._inputs.items())
        ]
        return np.concatenate(of_replicas, axis=1)


class CheckpointHook(loop.TrainingHook):
    """Takes one checkpoint of a run, and starts from that of another run if there is one."""

    def __init__(self, model: keras.Model, initial: Checkpoint | None) -> None:
        self._model, self._initial = model, initial
        self.checkpoint: Checkpoint | None = None

    def max_steps(self) -> int:
        return CHECKPOINT[1]  # An epoch has 11.

    def restore(self) -> TrainState:
        if self._initial is None:
            return TrainState()
        file = io.BytesIO()
        state.write(self._initial, file)
        return state.restore(state.read(file), self._model, [])

    def after_steps(self, train_state: TrainState, steps: int, *, epoch_end: bool = False) -> None:
        if (train_state.epoch, train_state.step) == CHECKPOINT:
            metadata: dict[str, Any] = {"identity": {}, "environment": {}, "seconds": 0.0}
            self.checkpoint = state.capture(self._model, [], train_state, **metadata)


def train(
    data: Dataset, devices: int, initial: Checkpoint | None, frozen_epochs: int
) -> tuple[dict[str, Array], Checkpoint | None]:
    """Trains on the first `devices` devices; returns inputs and results, and the checkpoint."""
    strategy = tf.distribute.get_strategy()
    if devices > 1:
        strategy = mirrored_strategy(tuple(f"CPU:{n}" for n in range(devices)))
    with strategy.scope():
        model = small_model(penalty=0.01)
    recording, hook = Recording(), CheckpointHook(model, initial)
    history = fit(
        model, data.train, data.test, epochs=EPOCHS, batch_size=BATCH, seed=0,
        augmentation=recording, frozen_epochs=frozen_epochs, devices=Devices(strategy), hook=hook,
    )  # fmt: skip
    metrics = [[row[name] for name in ("loss", "accuracy", "val_loss")] for row in history]
    arrays = {
        "metrics": np.array(metrics),
        "examples": recording.batches(0),
        "values": recording.batches(1),
    }
    for number, weight in enumerate(model.weights):
        copies = strategy.experimental_local_results(weight.value)
        arrays[f"weight {number}"] = np.stack([copy.numpy() for copy in copies])
    # The same weights in all runs, so that their predictions can be bit-identical.
    model.set_weights(small_model(penalty=0.01).get_weights())
    arrays["probabilities"] = loop.predict(model, data.test, batch_size=BATCH)
    return arrays, hook.checkpoint


def run_layers() -> dict[str, Array]:
    """Runs dropout and batch normalization on several devices.

    Returns:
        By device: `dropped` (2, 8), ones after dropout; `normalized` (2, 3), and the moving means
        `averages` (3,). And `saved` (3,), the moving means that a checkpoint would hold.
    """
    strategy = mirrored_strategy(tuple(f"CPU:{n}" for n in range(DEVICES)))
    with strategy.scope():
        keras.utils.set_random_seed(0)
        dropout, normalization = keras.layers.Dropout(0.5), keras.layers.BatchNormalization()
        normalization.build((None, 3))

    @tf.function
    def step() -> tuple[tf.Tensor, tf.Tensor]:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        x = tf.cast(replica, tf.float32) + tf.constant([[1.0, 2, 3], [4, 6, 8]])
        return dropout(tf.ones([2, 8]), training=True), normalization(x, training=True)

    dropped, normalized = strategy.run(step)
    replicated = {"dropped": dropped, "normalized": normalized}
    replicated["averages"] = normalization.moving_mean.value
    arrays = {
        name: np.stack([each.numpy() for each in strategy.experimental_local_results(values)])
        for name, values in replicated.items()
    }
    return {**arrays, "saved": np.array(normalization.moving_mean)}


def main(digits: str, shards: str, out: str) -> None:
    (cpu,) = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * DEVICES
    tf.config.set_logical_device_configuration(cpu, logical)
    data = {
        name: loader.load(DataOptions(data=path, seed=0))
        for name, path in (("digits", digits), ("shards", shards))
    }
    results, checkpoints = {}, {}
    for name, (data_name, devices, resumed) in RUNS.items():
        arrays, checkpoints[name] = train(
            data[data_name], devices, checkpoints.get(resumed), frozen_epochs=int("frozen" in name)
        )
        results |= {f"{name}: {array}": values for array, values in arrays.items()}
    np.savez(out, **results, **run_layers())


if __name__ == "__main__":
    main(*sys.argv[1:])
