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
from trainer.checkpoint.state import Progress
from trainer.data.dataset import Split
from trainer.distributed.devices import Devices
from trainer.engine import train_function
from trainer.engine.features import Features
from trainer.engine.loop import Pace, batches
from trainer.engine.train_function import Objective

_LEAST_S = 1.0
_MOST_TESTED = 2000


@dataclass(frozen=True)
class Speed:
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
    objective: Objective,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Takes real steps, the first ones of the run, until a second is over.

    Args:
        model: compiled within the scope of the strategy.
        train: what it is fitted to.
        batch_size: examples a step over all replicas.
        seed: of the order of examples.
        devices: where, and in which precision.
        objective: the loss, and what is done to examples.
        clock: seconds, rising.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    started = clock()
    features = Features(model)
    run_steps = train_function.compiled(features, train, model.optimizer, objective, devices)
    indices = batches(train.order(seed, 0), batch_size, run_steps.shares)
    key, counters = train_function.randomness(seed, 0, len(indices))
    pace = Pace(clock, lambda: run_steps.most(batch_size))
    call = functools.partial(run_steps, key)
    run_steps.begin(seed=seed, epochs=1, epoch=0, position=0)
    next(pace.calls(call, counters[:1], indices[:1], Progress()))
    first_step_s = clock() - started
    seen, seconds = 0, 0.0
    while seconds < _LEAST_S:
        epoch = Progress()
        run_steps.begin(seed=seed, epochs=1, epoch=0, position=0)
        for _ in pace.calls(call, counters, indices, epoch):
            if seconds + epoch.seconds >= _LEAST_S:
                break
        seen += int((indices[: epoch.step] >= 0).sum())
        seconds += epoch.seconds
    tested = Split(train.examples[:_MOST_TESTED], train.labels[:_MOST_TESTED])
    inputs = features.of(tested)
    for _ in range(2):  # Compiled in the first.
        started = clock()
        features.predict(inputs, batch_size)
    return Speed(first_step_s, seen / seconds, len(tested) / max(clock() - started, 1e-9))


def snapshot(
    model: keras.Model, callbacks: Sequence[keras.callbacks.Callback]
) -> tuple[int, float]:
    """Writes a snapshot to a scratch folder.

    Returns:
        Its size in bytes, and the seconds that it took.
    """
    started = time.perf_counter()
    with storage.scratch() as place:
        path = place / "snapshot.h5"
        state.write(
            state.capture(model, callbacks, Progress(), identity="", environment={}, seconds=0.0),
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
