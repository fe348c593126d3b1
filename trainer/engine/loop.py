"""The training loop: many steps in one call, on the devices of a tf.distribute strategy.

Not Keras's `fit`: under MultiWorkerMirroredStrategy it fails (keras issue 20585), it crosses from
Python to the device at each step, and it cannot be resumed within an epoch.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer.datasets.dataset import Array, Split
from trainer.engine import steps
from trainer.engine.devices import Devices
from trainer.engine.features import Features
from trainer.engine.hosts import Hosts
from trainer.engine.state import Progress, Row
from trainer.engine.steps import Objective
from trainer.errors import DivergedError
from trainer.models.augmentation import Augmentation
from trainer.results.metrics import loss_accuracy

# A call of the compiled steps takes about this long: short enough for a progress bar, long enough
# that Python costs nothing.
_CALL_S = 0.2

# Takes a row for each epoch that is over.
Report = Callable[[Sequence[Row]], None]


class Keeper:
    """What looks after a run between its steps; this one does nothing."""

    def most_steps(self) -> int | None:
        """Returns how many steps the next call may have; None for any number."""
        return None

    def restore(self) -> Progress:
        """Returns where the run stands, after it brought the variables back to there."""
        return Progress()

    def after_steps(self, progress: Progress, steps: int, *, epoch_end: bool = False) -> None:
        """Is told that so many steps were done, or that an epoch ended; may stop the run."""


def fit(
    model: keras.Model,
    train: Split,
    validation: Split | None,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    devices: Devices,
    label_smoothing: float = 0.0,
    augmentation: Augmentation | None = None,
    class_weights: Array | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    shown: keras.callbacks.Callback | None = None,
    reports: Sequence[Report] = (),
    keeper: Keeper | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Row]:
    """Trains a compiled model, and drives Keras callbacks as `Model.fit` does.

    Args:
        model: from raw examples to probabilities, compiled within the scope of the strategy.
        train: what it is fitted to.
        validation: what it is measured on after each epoch, if anything.
        epochs: passes over `train`; a callback may stop earlier.
        batch_size: examples a step over all replicas; the last step of an epoch takes the rest.
        seed: of the order of examples.
        devices: where, and in which precision; float16 wants an optimizer that scales the loss.
        label_smoothing: part of each target that is spread over all classes.
        augmentation: changes training examples.
        class_weights: what the loss of an example counts in training, by its class: float32
            (classes,); as `fit` does, the mean is over the examples, not over the weights.
        callbacks: part of the run. If one of them listens to batches, a call has one step; else
            many steps run in a call.
        shown: shows what happens, and changes nothing; it is told of calls, not of batches.
        reports: are told the history so far, at the start and after each epoch.
        keeper: takes and restores snapshots.
        clock: seconds, rising.

    Returns:
        A row an epoch: epoch (from 1), loss, accuracy, val_loss and val_accuracy if there is a
        validation part, learning_rate, seconds, examples_per_second.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    features = Features(model)
    objective = Objective(label_smoothing, augmentation, class_weights)
    run_steps = steps.compiled(features, train, model.optimizer, objective, devices)
    held_out = None if validation is None else (features.of(validation), validation.labels)
    keeper, hosts = keeper or Keeper(), devices.hosts
    one_by_one = any(map(_listens_to_batches, callbacks))
    width = min(batch_size, len(train)) + devices.replicas

    def most_steps() -> int | None:
        limits = (keeper.most_steps(), run_steps.most(width))
        return 1 if one_by_one else min((each for each in limits if each), default=None)

    pace = Pace(clock, most_steps, hosts)
    told = {"model": model, "epochs": epochs, "steps": math.ceil(len(train) / batch_size)}
    driven = keras.callbacks.CallbackList(list(callbacks), **told)
    display = keras.callbacks.CallbackList([shown] if shown else [], **told)
    model.stop_training = False
    driven.on_train_begin()
    progress = keeper.restore()
    for report in reports:
        report(progress.history)
    seen = min(progress.step * batch_size, len(train))
    run_steps.begin(seed=seed, epochs=epochs, epoch=progress.epoch, position=seen)
    while progress.epoch < epochs and not progress.stopped:
        epoch = progress.epoch
        if progress.step == 0:  # Else it was told before the snapshot that we come from.
            driven.on_epoch_begin(epoch)
        display.on_epoch_begin(epoch)
        indices = batches(train.order(seed, epoch), batch_size, devices.replicas)
        counts = (indices >= 0).sum(axis=1)
        key, counters = steps.randomness(seed, epoch, len(indices))
        calls = pace.calls(functools.partial(run_steps, key), counters, indices, progress)
        if progress.step < len(indices):
            driven.on_train_batch_begin(progress.step)
        for done in calls:
            figures = _figures(progress, counts)
            driven.on_train_batch_end(progress.step - 1, figures)
            display.on_train_batch_end(progress.step - 1, figures)
            # Nobody else listens within an epoch, and hosts that ask each other take a moment.
            if one_by_one and hosts.chief_says(model.stop_training):
                model.stop_training = True
                break
            keeper.after_steps(progress, done)
            if progress.step < len(counts):
                driven.on_train_batch_begin(progress.step)
        row = _figures(progress, counts)
        if held_out is not None:
            measured = loss_accuracy(features.predict(held_out[0], batch_size), held_out[1])
            row |= {f"val_{name}": value for name, value in measured.items()}
        row["learning_rate"] = _learning_rate(model)
        row["seconds"] = progress.seconds
        row["examples_per_second"] = len(train) / progress.seconds
        row = dict(zip(row, hosts.chiefs(row.values()), strict=True))
        driven.on_epoch_end(epoch, row)
        display.on_epoch_end(epoch, row)
        # A callback may have added figures of NumPy, which JSON does not know.
        row = {name: getattr(value, "item", lambda v=value: v)() for name, value in row.items()}
        stopped = hosts.chief_says(model.stop_training)
        progress.end_epoch({"epoch": epoch + 1, **row}, stopped=stopped)
        for report in reports:
            report(progress.history)
        keeper.after_steps(progress, 0, epoch_end=True)
    model.optimizer.finalize_variable_values(model.trainable_variables)  # Averages, if it has any.
    driven.on_train_end()
    return progress.history


def predict(model: keras.Model, split: Split, *, batch_size: int) -> Array:
    """Returns the class probabilities of every example, once and in order: float32 (N, classes).

    Args:
        model: from raw examples to probabilities.
        split: the examples.
        batch_size: examples that fit into memory at once.

    Raises:
        DivergedError: they are no numbers.
    """
    features = Features(model)
    return features.predict(features.of(split), batch_size)


def batches(order: Array, batch_size: int, replicas: int) -> Array:
    """Cuts an order of examples into steps.

    Returns:
        Indices, int64 (steps, width): width is batch_size, or all examples if there are fewer,
        rounded up to a multiple of the replicas. A step that is left with fewer repeats its own, as
        ~index; those do not count.
    """
    width = math.ceil(min(batch_size, len(order)) / replicas) * replicas
    order = order.astype(np.int64)
    rows = []
    for at in range(0, len(order), batch_size):
        row = order[at : at + batch_size]
        rows.append(np.append(row, ~np.resize(row, width)[len(row) :]))
    return np.stack(rows)


class Pace:
    """How many steps a call has: one at first, then as many as take `_CALL_S` on the chief."""

    def __init__(
        self,
        clock: Callable[[], float],
        most_steps: Callable[[], int | None],
        hosts: Hosts | None = None,
    ) -> None:
        """Begins with one step.

        Args:
            clock: seconds, rising.
            most_steps: how many the next call may have; None for any number.
            hosts: those that take the same steps; None for one.
        """
        self._clock, self._most_steps, self._hosts = clock, most_steps, hosts or Hosts()
        self._size = 1

    def calls(
        self,
        run_steps: Callable[[Array, Array], tf.Tensor],
        counters: Array,
        indices: Array,
        progress: Progress,
    ) -> Iterator[int]:
        """Runs the rest of an epoch; gives the number of steps after each call."""
        while progress.step < len(indices):
            first = progress.step
            wanted = min(self._most_steps() or self._size, self._size, len(indices) - first)
            last = first + int(self._hosts.chiefs([wanted])[0])
            started = self._clock()
            # The only thing that the host waits for.
            results = run_steps(counters[first:last], indices[first:last]).numpy()
            seconds = self._clock() - started
            # Summed step by step, so that the result does not depend on how many a call has.
            for step, (loss_sum, correct) in enumerate(results, first):
                if not math.isfinite(loss_sum):
                    raise DivergedError(
                        f"the loss became {loss_sum} in epoch {progress.epoch + 1}, step "
                        f"{step + 1}; expected a finite number. Try a lower --learning-rate"
                    )
                progress.loss_sum += float(loss_sum)
                progress.correct += float(correct)
            progress.step = last
            progress.seconds += seconds
            yield last - first
            # The last call of an epoch is short, and says little of what one could hold.
            fitting = int((last - first) * _CALL_S / max(seconds, 1e-6))
            if last - first == self._size or fitting < self._size:
                self._size = max(1, min(2 * self._size, fitting))


def _figures(progress: Progress, counts: Array) -> Row:
    """Returns loss and accuracy over the examples of the epoch so far."""
    seen = int(counts[: progress.step].sum())
    return {"loss": progress.loss_sum / seen, "accuracy": progress.correct / seen}


def _listens_to_batches(callback: keras.callbacks.Callback) -> bool:
    hooks = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
    return any(
        getattr(type(callback), hook) is not getattr(keras.callbacks.Callback, hook)
        for hook in hooks
    )


def _learning_rate(model: keras.Model) -> float:
    # A schedule gives a tensor, and several devices a variable that is no number to Python.
    return float(tf.convert_to_tensor(model.optimizer.learning_rate))
