"""Measures the speed of training and testing by a second of real steps, which change the model."""

from __future__ import annotations

import functools
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import keras
import tensorflow as tf

from trainer.config import ResolvedTrainOptions
from trainer.data.dataset import Split
from trainer.distributed.devices import Devices
from trainer.engine import train_function
from trainer.engine.features import FeatureExtractor
from trainer.engine.loop import StepsPerExecutionTuner, batches
from trainer.engine.train_function import TrainStepConfig
from trainer.engine.train_state import TrainState

_MIN_S = 1.0
_MAX_TESTED = 2000


@dataclass(frozen=True)
class Throughput:
    """Speed of a run.

    Attributes:
        first_step_s: seconds of the first step, including compilation.
        trained_per_s: examples trained per second, after that.
        tested_per_s: examples predicted per second, in validation and test.
    """

    first_step_s: float
    trained_per_s: float
    tested_per_s: float


def measure(
    model: keras.Model,
    train: Split,
    options: ResolvedTrainOptions,
    *,
    devices: Devices,
    step_config: TrainStepConfig,
    clock: Callable[[], float] = time.perf_counter,
) -> Throughput:
    """Runs the first steps of a run for one second, and predicts some examples.

    Args:
        model: compiled within the scope of the strategy; its weights change.
        train: training split.
        options: batch size over all replicas, and seed.
        devices: where, and in which precision.
        step_config: loss and augmentation.
        clock: monotonic seconds.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    batch_size, seed = options.batch_size, options.seed
    started = clock()
    features = FeatureExtractor(model)
    train_steps = train_function.make_train_function(
        features, train, model.optimizer, step_config, devices
    )
    indices = batches(train.order(seed, 0), batch_size, train_steps.microbatches)
    key, counters = train_function.epoch_rng(seed, 0, len(indices))
    tuner = StepsPerExecutionTuner(clock, lambda: train_steps.max_steps(batch_size))
    call = functools.partial(train_steps, key)
    train_steps.start(seed=seed, epochs=1, epoch=0, position=0)
    next(tuner.executions(call, counters[:1], indices[:1], TrainState()))
    first_step_s = clock() - started
    examples, seconds = 0, 0.0
    while seconds < _MIN_S:
        state = TrainState()
        train_steps.start(seed=seed, epochs=1, epoch=0, position=0)
        for _ in tuner.executions(call, counters, indices, state):
            if seconds + state.seconds >= _MIN_S:
                break
        examples += int((indices[: state.step] >= 0).sum())
        seconds += state.seconds
    tested = Split(train.examples[:_MAX_TESTED], train.labels[:_MAX_TESTED])
    inputs = features.extract(tested)
    for _ in range(2):  # Compiled in the first.
        started = clock()
        features.predict(inputs, batch_size)
    return Throughput(first_step_s, examples / seconds, len(tested) / max(clock() - started, 1e-9))


def peak_memory() -> dict[str, int]:
    """Returns the peak memory use so far in bytes, by the name of the memory."""
    peaks = {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    for gpu in tf.config.list_logical_devices("GPU"):
        name = gpu.name.removeprefix("/device:")
        peaks[f"memory of {name}"] = tf.config.experimental.get_memory_info(name)["peak"]
    return peaks
