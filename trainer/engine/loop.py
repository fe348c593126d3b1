"""The training loop: many steps in one call, on the devices of a tf.distribute strategy.

Not Keras's `fit`: under MultiWorkerMirroredStrategy it fails (keras issue 20585), it crosses from
Python to the device at each step, and it cannot be resumed within an epoch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from trainer.checkpoint.state import Progress, Row
from trainer.data.dataset import Array, Split
from trainer.distributed.collectives import Hosts
from trainer.distributed.devices import Devices
from trainer.engine import train_function
from trainer.engine.features import Features
from trainer.engine.train_function import Objective, Steps
from trainer.errors import DivergedError
from trainer.models import BACKBONE, PREPROCESS
from trainer.models.augmentation import Augmentation
from trainer.runs.metrics import loss_accuracy

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
    frozen_epochs: int = 0,
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
        frozen_epochs: the first epochs, in which the layer named `backbone` is fixed. What it gives
            is computed once for each example, without augmentation.
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
    training = _Training(
        model=model,
        train=train,
        validation=validation,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        devices=devices,
        callbacks=callbacks,
        shown=[shown] if shown else [],
        reports=reports,
        keeper=keeper or Keeper(),
        clock=clock,
    )
    whole = Objective(label_smoothing, augmentation, class_weights)
    head = dataclasses.replace(whole, augmentation=None)
    with training.begun() as progress:
        if progress.epoch < frozen_epochs:
            training.run(BACKBONE, head, until=min(frozen_epochs, epochs))
        training.run(PREPROCESS, whole, until=epochs)
    return progress.history


@dataclass(kw_only=True)
class _Training:
    """What stays the same through a training, as `fit` takes it, and where it stands."""

    model: keras.Model
    train: Split
    validation: Split | None
    epochs: int
    batch_size: int
    seed: int
    devices: Devices
    callbacks: Sequence[keras.callbacks.Callback]
    shown: Sequence[keras.callbacks.Callback]
    reports: Sequence[Report]
    keeper: Keeper
    clock: Callable[[], float]

    @contextlib.contextmanager
    def begun(self) -> Iterator[Progress]:
        """Begins, or goes on from a snapshot, and ends."""
        model = self.model
        steps_each = math.ceil(len(self.train) / self.batch_size)
        told = {"model": model, "epochs": self.epochs, "steps": steps_each}
        self._driven = keras.callbacks.CallbackList(list(self.callbacks), **told)
        self._display = keras.callbacks.CallbackList(list(self.shown), **told)
        self._one_by_one = any(map(_listens_to_batches, self.callbacks))
        model.stop_training = False
        with self.devices.strategy.scope():  # A snapshot holds its variables.
            model.optimizer.build(Features(model).network.trainable_variables)
        self._driven.on_train_begin()
        self._progress = self.keeper.restore()
        self._report()
        yield self._progress
        # Averages, if it has any.
        model.optimizer.finalize_variable_values(model.trainable_variables)
        self._driven.on_train_end()

    def run(self, fixed: str, objective: Objective, *, until: int) -> None:
        """Trains what lies behind a layer, or all of the model without it, to the end of an epoch.

        Args:
            fixed: name of the layer.
            objective: the loss, and what is done to examples.
            until: how many epochs are behind the run then.
        """
        progress, train = self._progress, self.train
        features = Features(self.model, fixed)
        run_steps = train_function.compiled(
            features, train, self.model.optimizer, objective, self.devices
        )
        held_out = None
        if self.validation is not None:
            held_out = (features.of(self.validation), self.validation.labels)
        width = min(self.batch_size, len(train)) + run_steps.shares

        def most_steps() -> int | None:
            limits = (self.keeper.most_steps(), run_steps.most(width))
            return 1 if self._one_by_one else min((each for each in limits if each), default=None)

        pace = Pace(self.clock, most_steps, self.devices.hosts)
        seen = min(progress.step * self.batch_size, len(train))
        run_steps.begin(seed=self.seed, epochs=until, epoch=progress.epoch, position=seen)
        while progress.epoch < until and not progress.stopped:
            row = self._epoch(run_steps, pace)
            if held_out is not None:
                probabilities = features.predict(held_out[0], self.batch_size)
                measured = loss_accuracy(probabilities, held_out[1])
                row |= {f"val_{name}": value for name, value in measured.items()}
            self._end_epoch(row)

    def _epoch(self, run_steps: Steps, pace: Pace) -> Row:
        """Makes the steps of an epoch, or the rest of them; returns its loss and accuracy."""
        progress, epoch, hosts = self._progress, self._progress.epoch, self.devices.hosts
        if progress.step == 0:  # Else it was told before the snapshot that we come from.
            self._driven.on_epoch_begin(epoch)
        self._display.on_epoch_begin(epoch)
        order = self.train.order(self.seed, epoch)
        indices = batches(order, self.batch_size, run_steps.shares)
        counts = (indices >= 0).sum(axis=1)
        key, counters = train_function.randomness(self.seed, epoch, len(indices))
        if progress.step < len(indices):
            self._driven.on_train_batch_begin(progress.step)
        for done in pace.calls(functools.partial(run_steps, key), counters, indices, progress):
            figures = _figures(progress, counts)
            self._driven.on_train_batch_end(progress.step - 1, figures)
            self._display.on_train_batch_end(progress.step - 1, figures)
            # Nobody else listens within an epoch, and hosts that ask each other take a moment.
            if self._one_by_one and hosts.chief_says(self.model.stop_training):
                self.model.stop_training = True
                break
            self.keeper.after_steps(progress, done)
            if progress.step < len(counts):
                self._driven.on_train_batch_begin(progress.step)
        return _figures(progress, counts)

    def _end_epoch(self, row: Row) -> None:
        """Tells everybody of an epoch that is over, and goes on to the next."""
        progress, hosts = self._progress, self.devices.hosts
        row["learning_rate"] = _learning_rate(self.model)
        row["seconds"] = progress.seconds
        row["examples_per_second"] = len(self.train) / progress.seconds
        row = dict(zip(row, hosts.chiefs(row.values()), strict=True))
        self._driven.on_epoch_end(progress.epoch, row)
        self._display.on_epoch_end(progress.epoch, row)
        # A callback may have added figures of NumPy, which JSON does not know.
        row = {name: getattr(value, "item", lambda v=value: v)() for name, value in row.items()}
        stopped = hosts.chief_says(self.model.stop_training)
        progress.end_epoch({"epoch": progress.epoch + 1, **row}, stopped=stopped)
        self._report()
        self.keeper.after_steps(progress, 0, epoch_end=True)

    def _report(self) -> None:
        for report in self.reports:
            report(self._progress.history)


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


def batches(order: Array, batch_size: int, shares: int) -> Array:
    """Cuts an order of examples into steps.

    Returns:
        Indices, int64 (steps, width): width is batch_size, or all examples if there are fewer,
        rounded up to a multiple of the shares. A step that is left with fewer repeats its own, as
        ~index; those do not count.
    """
    width = math.ceil(min(batch_size, len(order)) / shares) * shares
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
