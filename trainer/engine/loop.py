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

from trainer.checkpoint.state import Logs, TrainState
from trainer.data.dataset import Array, Split
from trainer.distributed.collectives import Workers
from trainer.distributed.devices import Devices
from trainer.engine import train_function
from trainer.engine.features import FeatureExtractor
from trainer.engine.train_function import TrainFunction, TrainStepConfig
from trainer.errors import DivergedError
from trainer.models import BACKBONE, PREPROCESS
from trainer.models.augmentation import Augmentation
from trainer.runs.metrics import loss_accuracy

# A call of the compiled steps takes about this long: short enough for a state bar, long enough
# that Python costs nothing.
_CALL_S = 0.2

# Takes a row for each epoch that is over.
Report = Callable[[Sequence[Logs]], None]


class TrainingHook:
    """What looks after a run between its steps; this one does nothing."""

    def max_steps(self) -> int | None:
        """Returns how many steps the next call may have; None for any number."""
        return None

    def restore(self) -> TrainState:
        """Returns where the run stands, after it brought the variables back to there."""
        return TrainState()

    def after_steps(self, state: TrainState, steps: int, *, epoch_end: bool = False) -> None:
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
    hook: TrainingHook | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Logs]:
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
        hook: takes and restores checkpoints.
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
        hook=hook or TrainingHook(),
        clock=clock,
    )
    whole = TrainStepConfig(label_smoothing, augmentation, class_weights)
    head = dataclasses.replace(whole, augmentation=None)
    with training.started() as state:
        if state.epoch < frozen_epochs:
            training.run(BACKBONE, head, until=min(frozen_epochs, epochs))
        training.run(PREPROCESS, whole, until=epochs)
    return state.history


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
    hook: TrainingHook
    clock: Callable[[], float]

    @contextlib.contextmanager
    def started(self) -> Iterator[TrainState]:
        """Begins, or goes on from a checkpoint, and ends."""
        model = self.model
        steps_each = math.ceil(len(self.train) / self.batch_size)
        told = {"model": model, "epochs": self.epochs, "steps": steps_each}
        self._driven = keras.callbacks.CallbackList(list(self.callbacks), **told)
        self._display = keras.callbacks.CallbackList(list(self.shown), **told)
        self._one_by_one = any(map(_listens_to_batches, self.callbacks))
        model.stop_training = False
        with self.devices.strategy.scope():  # A checkpoint holds its variables.
            model.optimizer.build(FeatureExtractor(model).network.trainable_variables)
        self._driven.on_train_begin()
        self._progress = self.hook.restore()
        self._report()
        yield self._progress
        # Averages, if it has any.
        model.optimizer.finalize_variable_values(model.trainable_variables)
        self._driven.on_train_end()

    def run(self, fixed: str, step_config: TrainStepConfig, *, until: int) -> None:
        """Trains what lies behind a layer, or all of the model without it, to the end of an epoch.

        Args:
            fixed: name of the layer.
            step_config: the loss, and what is done to examples.
            until: how many epochs are behind the run then.
        """
        state, train = self._progress, self.train
        features = FeatureExtractor(self.model, fixed)
        run_steps = train_function.make_train_function(
            features, train, self.model.optimizer, step_config, self.devices
        )
        held_out = None
        if self.validation is not None:
            held_out = (features.extract(self.validation), self.validation.labels)
        width = min(self.batch_size, len(train)) + run_steps.microbatches

        def max_steps() -> int | None:
            limits = (self.hook.max_steps(), run_steps.most(width))
            return 1 if self._one_by_one else min((each for each in limits if each), default=None)

        tuner = StepsPerExecutionTuner(self.clock, max_steps, self.devices.workers)
        seen = min(state.step * self.batch_size, len(train))
        run_steps.start(seed=self.seed, epochs=until, epoch=state.epoch, position=seen)
        while state.epoch < until and not state.stopped:
            row = self._epoch(run_steps, tuner)
            if held_out is not None:
                probabilities = features.predict(held_out[0], self.batch_size)
                measured = loss_accuracy(probabilities, held_out[1])
                row |= {f"val_{name}": value for name, value in measured.items()}
            self._end_epoch(row)

    def _epoch(self, run_steps: TrainFunction, tuner: StepsPerExecutionTuner) -> Logs:
        """Makes the steps of an epoch, or the rest of them; returns its loss and accuracy."""
        state, epoch, workers = self._progress, self._progress.epoch, self.devices.workers
        if state.step == 0:  # Else it was told before the checkpoint that we come from.
            self._driven.on_epoch_begin(epoch)
        self._display.on_epoch_begin(epoch)
        order = self.train.order(self.seed, epoch)
        indices = batches(order, self.batch_size, run_steps.microbatches)
        counts = (indices >= 0).sum(axis=1)
        key, counters = train_function.epoch_rng(self.seed, epoch, len(indices))
        if state.step < len(indices):
            self._driven.on_train_batch_begin(state.step)
        for done in tuner.executions(functools.partial(run_steps, key), counters, indices, state):
            figures = _figures(state, counts)
            self._driven.on_train_batch_end(state.step - 1, figures)
            self._display.on_train_batch_end(state.step - 1, figures)
            # Nobody else listens within an epoch, and workers that ask each other take a moment.
            if self._one_by_one and workers.broadcast_flag(self.model.stop_training):
                self.model.stop_training = True
                break
            self.hook.after_steps(state, done)
            if state.step < len(counts):
                self._driven.on_train_batch_begin(state.step)
        return _figures(state, counts)

    def _end_epoch(self, row: Logs) -> None:
        """Tells everybody of an epoch that is over, and goes on to the next."""
        state, workers = self._progress, self.devices.workers
        row["learning_rate"] = _learning_rate(self.model)
        row["seconds"] = state.seconds
        row["examples_per_second"] = len(self.train) / state.seconds
        row = dict(zip(row, workers.broadcast(row.values()), strict=True))
        self._driven.on_epoch_end(state.epoch, row)
        self._display.on_epoch_end(state.epoch, row)
        # A callback may have added figures of NumPy, which JSON does not know.
        row = {name: getattr(value, "item", lambda v=value: v)() for name, value in row.items()}
        stopped = workers.broadcast_flag(self.model.stop_training)
        state.end_epoch({"epoch": state.epoch + 1, **row}, stopped=stopped)
        self._report()
        self.hook.after_steps(state, 0, epoch_end=True)

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
    features = FeatureExtractor(model)
    return features.predict(features.extract(split), batch_size)


def batches(order: Array, batch_size: int, microbatches: int) -> Array:
    """Cuts an order of examples into steps.

    Returns:
        Indices, int64 (steps, width): width is batch_size, or all examples if there are fewer,
        rounded up to a multiple of the microbatches. A step that is left with fewer repeats its own, as
        ~index; those do not count.
    """
    width = math.ceil(min(batch_size, len(order)) / microbatches) * microbatches
    order = order.astype(np.int64)
    rows = []
    for at in range(0, len(order), batch_size):
        row = order[at : at + batch_size]
        rows.append(np.append(row, ~np.resize(row, width)[len(row) :]))
    return np.stack(rows)


class StepsPerExecutionTuner:
    """How many steps a call has: one at first, then as many as take `_CALL_S` on the chief."""

    def __init__(
        self,
        clock: Callable[[], float],
        max_steps: Callable[[], int | None],
        workers: Workers | None = None,
    ) -> None:
        """Begins with one step.

        Args:
            clock: seconds, rising.
            max_steps: how many the next call may have; None for any number.
            workers: those that take the same steps; None for one.
        """
        self._clock, self._most_steps, self._workers = clock, max_steps, workers or Workers()
        self._size = 1

    def executions(
        self,
        run_steps: Callable[[Array, Array], tf.Tensor],
        counters: Array,
        indices: Array,
        state: TrainState,
    ) -> Iterator[int]:
        """Runs the rest of an epoch; gives the number of steps after each call."""
        while state.step < len(indices):
            first = state.step
            wanted = min(self._most_steps() or self._size, self._size, len(indices) - first)
            last = first + int(self._workers.broadcast([wanted])[0])
            started = self._clock()
            # The only thing that the host waits for.
            results = run_steps(counters[first:last], indices[first:last]).numpy()
            seconds = self._clock() - started
            # Summed step by step, so that the result does not depend on how many a call has.
            for step, (loss_sum, correct) in enumerate(results, first):
                if not math.isfinite(loss_sum):
                    raise DivergedError(
                        f"the loss became {loss_sum} in epoch {state.epoch + 1}, step "
                        f"{step + 1}; expected a finite number. Try a lower --learning-rate"
                    )
                state.loss_sum += float(loss_sum)
                state.correct += float(correct)
            state.step = last
            state.seconds += seconds
            yield last - first
            # The last call of an epoch is short, and says little of what one could hold.
            fitting = int((last - first) * _CALL_S / max(seconds, 1e-6))
            if last - first == self._size or fitting < self._size:
                self._size = max(1, min(2 * self._size, fitting))


def _figures(state: TrainState, counts: Array) -> Logs:
    """Returns loss and accuracy over the examples of the epoch so far."""
    seen = int(counts[: state.step].sum())
    return {"loss": state.loss_sum / seen, "accuracy": state.correct / seen}


def _listens_to_batches(callback: keras.callbacks.Callback) -> bool:
    hooks = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
    return any(
        getattr(type(callback), hook) is not getattr(keras.callbacks.Callback, hook)
        for hook in hooks
    )


def _learning_rate(model: keras.Model) -> float:
    # A schedule gives a tensor, and several devices a variable that is no number to Python.
    return float(tf.convert_to_tensor(model.optimizer.learning_rate))
