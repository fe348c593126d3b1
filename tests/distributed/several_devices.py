"""The same training on one device and on several logical ones, which stand for several GPUs.

    python -m tests.distributed.several_devices DIGITS SHARDS OUT

A program, since logical devices are made before TensorFlow starts. Writes what each training had
and gave to OUT, an .npz; names of its arrays begin with those of RUNS, but for `layers_alone`.
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

DEVICES = 4  # Of all strategies of a process TensorFlow expects the same number.
BATCH = 95  # Which they do not divide.
EPOCHS = 3
HANDED_OVER = (1, 5)  # Epoch and step of the checkpoint that a run on other devices goes on from.
# Of each run where its examples are, on how many devices it is, and which run it goes on with.
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


class Seen:
    """An augmentation that changes nothing, and remembers what each replica was given."""

    values_per_example = 3

    def __init__(self) -> None:
        self._given: dict[int, list[tuple[Array, Array]]] = {}

    def __call__(self, examples: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group

        def remember(number: Array, x: Array, drawn: Array) -> None:
            self._given.setdefault(int(number), []).append((x.copy(), drawn.copy()))

        tf.numpy_function(remember, [replica, examples, uniform], [], stateful=True)
        return examples

    def whole(self, part: int) -> Array:
        """Returns examples (0) or random numbers (1) of each step, replica behind replica."""
        microbatches = [
            np.stack([given[part] for given in steps]) for _, steps in sorted(self._given.items())
        ]
        return np.concatenate(microbatches, axis=1)


class HandOver(loop.TrainingHook):
    """Takes one checkpoint of a run, and may begin with that of another."""

    def __init__(self, model: keras.Model, begun: Checkpoint | None) -> None:
        self._model, self._begun = model, begun
        self.taken: Checkpoint | None = None

    def max_steps(self) -> int:
        return HANDED_OVER[1]  # Of 11 in an epoch.

    def restore(self) -> TrainState:
        if self._begun is None:
            return TrainState()
        file = io.BytesIO()
        state.write(self._begun, file)
        return state.restore(state.read(file), self._model, [], "")

    def after_steps(self, progress: TrainState, steps: int, *, epoch_end: bool = False) -> None:
        if (progress.epoch, progress.step) == HANDED_OVER:
            kind: dict[str, Any] = {"identity": "", "environment": {}, "seconds": 0.0}
            self.taken = state.capture(self._model, [], progress, **kind)


def trained(
    data: Dataset, devices: int, begun: Checkpoint | None, frozen_epochs: int
) -> tuple[dict[str, Array], Checkpoint | None]:
    """Trains on some of the devices; returns what is to be looked at, and the checkpoint."""
    strategy = tf.distribute.get_strategy()
    if devices > 1:
        strategy = mirrored_strategy(tuple(f"CPU:{n}" for n in range(devices)))
    with strategy.scope():
        model = small_model(penalty=0.01)
    seen, hook = Seen(), HandOver(model, begun)
    history = fit(
        model, data.train, data.test, epochs=EPOCHS, batch_size=BATCH, seed=0, augmentation=seen,
        frozen_epochs=frozen_epochs, devices=Devices(strategy), hook=hook,
    )  # fmt: skip
    figures = [[row[name] for name in ("loss", "accuracy", "val_loss")] for row in history]
    arrays = {"figures": np.array(figures), "given": seen.whole(0), "drawn": seen.whole(1)}
    for number, weight in enumerate(model.weights):
        copies = strategy.experimental_local_results(weight.value)
        arrays[f"weight {number}"] = np.stack([copy.numpy() for copy in copies])
    # The same weights on all devices, so that what is said can be the same to the bit.
    model.set_weights(small_model(penalty=0.01).get_weights())
    arrays["said"] = loop.predict(model, data.test, batch_size=BATCH)
    return arrays, hook.taken


def layers_alone() -> dict[str, Array]:
    """Runs the layers that compute on each device's share; returns what they gave, and kept.

    Of each device the share (2, 8) before and after dropout, and (2, 3) after normalisation; and
    its moving means, which are those of `saved` in one of them.
    """
    strategy = mirrored_strategy(tuple(f"CPU:{n}" for n in range(DEVICES)))
    with strategy.scope():
        keras.utils.set_random_seed(0)
        dropout, normalisation = keras.layers.Dropout(0.5), keras.layers.BatchNormalization()
        normalisation.build((None, 3))

    @tf.function
    def step() -> tuple[tf.Tensor, tf.Tensor]:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        microbatch_size = tf.cast(replica, tf.float32) + tf.constant([[1.0, 2, 3], [4, 6, 8]])
        return dropout(tf.ones([2, 8]), training=True), normalisation(
            microbatch_size, training=True
        )

    dropped, normalised = strategy.run(step)
    parts = {"dropped": dropped, "normalised": normalised}
    parts["averages"] = normalisation.moving_mean.value
    found = {
        name: np.stack([each.numpy() for each in strategy.experimental_local_results(values)])
        for name, values in parts.items()
    }
    return {**found, "saved": np.array(normalisation.moving_mean)}


def main(digits: str, shards: str, out: str) -> None:
    (processor,) = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * DEVICES
    tf.config.set_logical_device_configuration(processor, logical)
    data = {
        name: loader.load(DataOptions(data=path, seed=0))
        for name, path in (("digits", digits), ("shards", shards))
    }
    found, checkpoints = {}, {}
    for name, (place, devices, begun) in RUNS.items():
        arrays, checkpoints[name] = trained(
            data[place], devices, checkpoints.get(begun), frozen_epochs=int("frozen" in name)
        )
        found |= {f"{name}: {what}": values for what, values in arrays.items()}
    np.savez(out, **found, **layers_alone())


if __name__ == "__main__":
    main(*sys.argv[1:])
