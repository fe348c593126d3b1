"""The training loop: many steps per execution, on the devices of a tf.distribute strategy.

Not Keras's `fit`: it fails under MultiWorkerMirroredStrategy (keras issue 20585), returns to Python
at each step, and cannot resume within an epoch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.config import ResolvedTrainOptions
from trainer.data.dataset import Array, Split
from trainer.distributed.collectives import Workers
from trainer.distributed.devices import Devices
from trainer.engine import train_function
from trainer.engine.features import FeatureExtractor
from trainer.engine.train_function import TrainFunction, TrainStepConfig
from trainer.engine.train_state import Logs, TrainState
from trainer.errors import DivergedError
from trainer.models import BACKBONE, PREPROCESS
from trainer.runs.metrics import loss_accuracy

# Target duration of an execution: short enough for a progress bar, and long enough that the time
# in Python does not count.
_EXECUTION_S = 0.2

# Called with the logs of all finished epochs, at the start and after each epoch.
MetricWriter = Callable[[Sequence[Logs]], None]


class TrainingHook:
    """Called between the steps of a run; this one does nothing."""

    def max_steps(self) -> int | None:
        """Returns the maximum number of steps of the next execution; None for any number."""
        return None

    def restore(self) -> TrainState:
        """Returns the state to start from, after setting the model's variables to it."""
        return TrainState()

    def after_steps(self, state: TrainState, steps: int, *, epoch_end: bool = False) -> None:
        """Called after `steps` training steps and at each epoch end; raises to stop the run."""

    def after_training(self, state: TrainState) -> None:
        """Called after the last epoch, before the model gets its final weights.

        These are, with some optimizers and callbacks, averages or the weights of an earlier epoch,
        from which the training could not continue.
        """


@dataclass(kw_only=True)
class TrainingLoop:
    """Trains a compiled model, and drives Keras callbacks as `Model.fit` does.

    Attributes:
        model: from raw examples to probabilities, compiled within the scope of the strategy.
        train: training split.
        validation: split that is measured after each epoch, if there is one.
        options: epochs, batch size over all replicas, seed. During the first `frozen_epochs`, the
            layer named `backbone` is frozen: its outputs are computed once per example, without
            augmentation.
        devices: where, and in which precision; float16 needs an optimizer that scales the loss.
        step_config: loss and augmentation.
        callbacks: part of the run. If one of them overrides a batch method, an execution has one
            step; otherwise it has many.
        progress_callback: displays progress. Called once per execution, not per batch; must not
            change the model.
        metric_writers: called at the start and after each epoch.
        hook: saves and restores checkpoints.
        clock: monotonic seconds.
    """

    model: keras.Model
    train: Split
    validation: Split | None
    options: ResolvedTrainOptions
    devices: Devices
    step_config: TrainStepConfig = TrainStepConfig()
    callbacks: Sequence[keras.callbacks.Callback] = ()
    progress_callback: keras.callbacks.Callback | None = None
    metric_writers: Sequence[MetricWriter] = ()
    hook: TrainingHook = field(default_factory=TrainingHook)
    clock: Callable[[], float] = time.perf_counter

    def run(self) -> list[Logs]:
        """Trains until `options.epochs` are done, or a callback stops the training.

        Returns:
            One dict per epoch: epoch (from 1), loss, accuracy, val_loss and val_accuracy if there
            is a validation split, learning_rate, seconds, examples_per_second.

        Raises:
            DivergedError: the loss became NaN or infinite.
        """
        epochs, frozen_epochs = self.options.epochs, self.options.frozen_epochs or 0
        frozen = dataclasses.replace(self.step_config, augmentation=None)
        with self._started() as state:
            if state.epoch < frozen_epochs:
                self._run_epochs(BACKBONE, frozen, until=min(frozen_epochs, epochs))
            self._run_epochs(PREPROCESS, self.step_config, until=epochs)
        return state.history

    @contextlib.contextmanager
    def _started(self) -> Iterator[TrainState]:
        """Starts the training, or resumes it from a checkpoint, and ends it."""
        model, display = self.model, self.progress_callback
        steps = math.ceil(len(self.train) / self.options.batch_size)
        params = {"epochs": self.options.epochs, "steps": steps}
        self._callbacks = keras.callbacks.CallbackList(list(self.callbacks), model=model)
        self._params = _RecordingParams(params)
        self._callbacks.set_params(self._params)
        self._display = keras.callbacks.CallbackList(
            [display] if display else [], model=model, **params
        )
        self._single_steps = any(map(_overrides_batch_methods, self.callbacks))
        model.stop_training = False
        with self.devices.strategy.scope():  # A checkpoint holds the optimizer's variables.
            model.optimizer.build(FeatureExtractor(model).network.trainable_variables)
        self._callbacks.on_train_begin()
        self._state = self.hook.restore()
        self._record_uses()
        self._write_metrics()
        yield self._state
        self.hook.after_training(self._state)
        # Some optimizers replace the variables by their moving averages here.
        model.optimizer.finalize_variable_values(model.trainable_variables)
        self._callbacks.on_train_end()

    def _run_epochs(self, fixed: str, step_config: TrainStepConfig, *, until: int) -> None:
        """Trains the layers behind one that is fixed, or all layers if the model has no such layer.

        Args:
            fixed: name of the layer.
            step_config: loss and augmentation.
            until: number of finished epochs at which to stop.
        """
        state, train, batch_size = self._state, self.train, self.options.batch_size
        features = FeatureExtractor(self.model, fixed)
        train_steps = train_function.make_train_function(
            features, train, self.model.optimizer, step_config, self.devices
        )
        validation = None
        if self.validation is not None:
            validation = (features.extract(self.validation), self.validation.labels)
        width = min(batch_size, len(train)) + train_steps.microbatches

        def max_steps() -> int | None:
            limits = (self.hook.max_steps(), train_steps.max_steps(width))
            return 1 if self._single_steps else min((each for each in limits if each), default=None)

        tuner = StepsPerExecutionTuner(self.clock, max_steps, self.devices.workers)
        position = min(state.step * batch_size, len(train))
        train_steps.start(
            seed=self.options.seed, epochs=until, epoch=state.epoch, position=position
        )
        while state.epoch < until and not state.stopped:
            logs = self._run_epoch(train_steps, tuner)
            if validation is not None:
                probabilities = features.predict(validation[0], batch_size)
                measured = loss_accuracy(probabilities, validation[1])
                logs |= {f"val_{name}": value for name, value in measured.items()}
            self._end_epoch(logs)

    def _run_epoch(self, train_steps: TrainFunction, tuner: StepsPerExecutionTuner) -> Logs:
        """Runs the remaining steps of an epoch; returns its loss and accuracy."""
        state, workers = self._state, self.devices.workers
        seed, epoch = self.options.seed, state.epoch
        if state.step == 0:  # Otherwise it was called before the checkpoint.
            self._callbacks.on_epoch_begin(epoch)
        self._display.on_epoch_begin(epoch)
        order = self.train.order(seed, epoch)
        indices = batches(order, self.options.batch_size, train_steps.microbatches)
        counts = (indices >= 0).sum(axis=1)
        key, counters = train_function.epoch_rng(seed, epoch, len(indices))
        execute = functools.partial(train_steps, key)
        if state.step < len(indices):
            self._callbacks.on_train_batch_begin(state.step)
        for steps in tuner.executions(execute, counters, indices, state):
            logs = _loss_accuracy_so_far(state, counts)
            self._callbacks.on_train_batch_end(state.step - 1, logs)
            self._display.on_train_batch_end(state.step - 1, logs)
            self._record_uses()
            # Without single steps no callback runs within an epoch, and a broadcast takes time.
            if self._single_steps and workers.broadcast_flag(self.model.stop_training):
                self.model.stop_training = True
                break
            self.hook.after_steps(state, steps)
            if state.step < len(counts):
                self._callbacks.on_train_batch_begin(state.step)
        return _loss_accuracy_so_far(state, counts)

    def _end_epoch(self, logs: Logs) -> None:
        """Calls callbacks, metric writers and the hook at the end of an epoch."""
        state, workers = self._state, self.devices.workers
        logs["learning_rate"] = _learning_rate(self.model)
        logs["seconds"] = state.seconds
        logs["examples_per_second"] = len(self.train) / state.seconds
        logs = dict(zip(logs, workers.broadcast(logs.values()), strict=True))
        self._callbacks.on_epoch_end(state.epoch, logs)
        self._display.on_epoch_end(state.epoch, logs)
        # A callback may have added NumPy scalars, which JSON cannot encode.
        logs = {name: getattr(value, "item", lambda v=value: v)() for name, value in logs.items()}
        stopped = workers.broadcast_flag(self.model.stop_training)
        state.end_epoch({"epoch": state.epoch + 1, **logs}, stopped=stopped)
        self._record_uses()
        self._write_metrics()
        self.hook.after_steps(state, 0, epoch_end=True)

    def _record_uses(self) -> None:
        """Records in the state whether a callback has read the number of epochs so far."""
        self._state.uses_epochs |= self._params.epochs_read

    def _write_metrics(self) -> None:
        for write in self.metric_writers:
            write(self._state.history)


def predict(model: keras.Model, split: Split, *, batch_size: int) -> Array:
    """Returns the class probabilities of all examples, in order: float32 (N, classes).

    Args:
        model: from raw examples to probabilities.
        split: the examples.
        batch_size: examples that fit into memory at once.

    Raises:
        DivergedError: the probabilities are not finite.
    """
    features = FeatureExtractor(model)
    return features.predict(features.extract(split), batch_size)


def batches(order: Array, batch_size: int, microbatches: int) -> Array:
    """Cuts an order of examples into steps.

    Args:
        order: indices of examples, (N,).
        batch_size: examples per step.
        microbatches: number of parts that a batch is cut into, over all devices.

    Returns:
        Indices, int64 (steps, width): width is batch_size, or N if that is less, rounded up to a
        multiple of `microbatches`. The last step is filled up with its own examples, as ~index;
        those have no weight in the loss.
    """
    width = math.ceil(min(batch_size, len(order)) / microbatches) * microbatches
    order = order.astype(np.int64)
    rows = []
    for start in range(0, len(order), batch_size):
        row = order[start : start + batch_size]
        rows.append(np.append(row, ~np.resize(row, width)[len(row) :]))
    return np.stack(rows)


class StepsPerExecutionTuner:
    """Chooses the steps of each execution: one at first, then as many as take `_EXECUTION_S`."""

    def __init__(
        self,
        clock: Callable[[], float],
        max_steps: Callable[[], int | None],
        workers: Workers | None = None,
    ) -> None:
        """Starts with one step.

        Args:
            clock: monotonic seconds.
            max_steps: maximum number of steps of the next execution; None for any number.
            workers: the workers that take the same steps, by the chief's clock; None for one.
        """
        self._clock, self._max_steps, self._workers = clock, max_steps, workers or Workers()
        self._size = 1

    def executions(
        self,
        execute: Callable[[Array, Array], tf.Tensor],
        counters: Array,
        indices: Array,
        state: TrainState,
    ) -> Iterator[int]:
        """Runs the remaining steps of an epoch; yields the number of steps of each execution.

        Args:
            execute: takes counters and indices of some steps; returns float32 (steps, 2), the sum
                of losses and the number of correct predictions of each step.
            counters: of the random generator, uint64 (steps, 2).
            indices: of examples, int64 (steps, width), as `batches` returns them.
            state: updated after each execution.

        Raises:
            DivergedError: the loss became NaN or infinite.
        """
        while state.step < len(indices):
            first = state.step
            steps = min(self._max_steps() or self._size, self._size, len(indices) - first)
            last = first + int(self._workers.broadcast([steps])[0])
            started = self._clock()
            # The only place where Python waits for the device.
            results = execute(counters[first:last], indices[first:last]).numpy()
            seconds = self._clock() - started
            # Summed step by step, so that the sum does not depend on the steps per execution.
            for step, (loss_sum, correct) in enumerate(results, first):
                if not math.isfinite(loss_sum):
                    raise DivergedError(
                        f"the loss became {loss_sum} in epoch {state.epoch + 1}, step {step + 1}; "
                        "expected a finite number. Try a lower --learning-rate"
                    )
                state.loss_sum += float(loss_sum)
                state.correct += float(correct)
            state.step = last
            state.seconds += seconds
            yield last - first
            # The last execution of an epoch is short, and says little about the possible size.
            fitting = int((last - first) * _EXECUTION_S / max(seconds, 1e-6))
            if last - first == self._size or fitting < self._size:
                self._size = max(1, min(2 * self._size, fitting))


class _RecordingParams(dict[str, Any]):
    """The parameters of callbacks; records whether the number of epochs was read.

    Attributes:
        epochs_read: whether it was.
    """

    epochs_read = False

    def __getitem__(self, name: str) -> Any:
        self.epochs_read |= name == "epochs"
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default

    def __iter__(self) -> Iterator[str]:  # Python then copies by `keys` and `__getitem__`.
        return super().__iter__()

    def items(self) -> Any:
        self.epochs_read = True
        return super().items()

    def values(self) -> Any:
        self.epochs_read = True
        return super().values()

    def copy(self) -> dict[str, Any]:
        return dict(self.items())


def _loss_accuracy_so_far(state: TrainState, counts: Array) -> Logs:
    examples = int(counts[: state.step].sum())
    return {"loss": state.loss_sum / examples, "accuracy": state.correct / examples}


def _overrides_batch_methods(callback: keras.callbacks.Callback) -> bool:
    methods = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
    return any(
        getattr(type(callback), name) is not getattr(keras.callbacks.Callback, name)
        for name in methods
    )


def _learning_rate(model: keras.Model) -> float:
    # A schedule gives a tensor; under several devices it is a variable without __float__.
    return float(tf.convert_to_tensor(model.optimizer.learning_rate))
