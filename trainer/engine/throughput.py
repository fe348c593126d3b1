"""A second of real training, to tell what a run will take; the model is of no use after it."""

from __future__ import annotations

import functools
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from trainer import storage
from trainer.checkpoint import state
from trainer.checkpoint.state import TrainState
from trainer.data.dataset import Split
from trainer.distributed.devices import Devices
from trainer.engine import train_function
from trainer.engine.features import FeatureExtractor
from trainer.engine.loop import StepsPerExecutionTuner, batches
from trainer.engine.train_function import TrainStepConfig

_MIN_S = 1.0
_MAX_TESTED = 2000


@dataclass(frozen=True)
class Throughput:
    """How fast a run will be.

    Attributes:
        first_step_s: seconds of the first step, in which it is compiled.
        trained_per_s: examples a second, after that.
        tested_per_s: the same in a test or a validation.
    """

    first_step_s: float
    trained_per_s: float
    tested_per_s: float


def speed(
    model: keras.Model,
    train: Split,
    *,
    batch_size: int,
    seed: int,
    devices: Devices,
    step_config: TrainStepConfig,
    clock: Callable[[], float] = time.perf_counter,
) -> Throughput:
    """Takes real steps, the first ones of the run, until a second is over.

    Args:
        model: compiled within the scope of the strategy.
        train: what it is fitted to.
        batch_size: examples a step over all replicas.
        seed: of the order of examples.
        devices: where, and in which precision.
        step_config: the loss, and what is done to examples.
        clock: seconds, rising.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    started = clock()
    features = FeatureExtractor(model)
    run_steps = train_function.make_train_function(
        features, train, model.optimizer, step_config, devices
    )
    indices = batches(train.order(seed, 0), batch_size, run_steps.microbatches)
    key, counters = train_function.epoch_rng(seed, 0, len(indices))
    tuner = StepsPerExecutionTuner(clock, lambda: run_steps.most(batch_size))
    call = functools.partial(run_steps, key)
    run_steps.start(seed=seed, epochs=1, epoch=0, position=0)
    next(tuner.executions(call, counters[:1], indices[:1], TrainState()))
    first_step_s = clock() - started
    seen, seconds = 0, 0.0
    while seconds < _MIN_S:
        epoch = TrainState()
        run_steps.start(seed=seed, epochs=1, epoch=0, position=0)
        for _ in tuner.executions(call, counters, indices, epoch):
            if seconds + epoch.seconds >= _MIN_S:
                break
        seen += int((indices[: epoch.step] >= 0).sum())
        seconds += epoch.seconds
    tested = Split(train.examples[:_MAX_TESTED], train.labels[:_MAX_TESTED])
    inputs = features.extract(tested)
    for _ in range(2):  # Compiled in the first.
        started = clock()
        features.predict(inputs, batch_size)
    return Throughput(first_step_s, seen / seconds, len(tested) / max(clock() - started, 1e-9))


def checkpoint(
    model: keras.Model, callbacks: Sequence[keras.callbacks.Callback]
) -> tuple[int, float]:
    """Writes a checkpoint to a temporary_directory folder.

    Returns:
        Its size in bytes, and the seconds that it took.
    """
    started = time.perf_counter()
    with storage.temporary_directory() as place:
        path = place / "checkpoint.h5"
        state.write(
            state.capture(model, callbacks, TrainState(), identity="", environment={}, seconds=0.0),
            path,
        )
        return path.stat().st_size, time.perf_counter() - started


def peak_memory() -> dict[str, int]:
    """Returns the most bytes that were taken so far, by the name of the memory."""
    peaks = {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    for gpu in tf.config.list_logical_devices("GPU"):
        name = gpu.name.removeprefix("/device:")
        peaks[f"memory of {name}"] = tf.config.experimental.get_memory_info(name)["peak"]
    return peaks
