"""Training hooks, called between steps: checkpoints, SIGTERM, the lease, agreement of workers.

Of several workers only the chief reads and writes checkpoints. The others receive its checkpoint
when training starts, and stop when it stops.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from trainer.checkpoint import identity as run_identity
from trainer.checkpoint import state as checkpoint_state
from trainer.checkpoint.identity import Identity
from trainer.checkpoint.manager import CheckpointManager
from trainer.checkpoint.state import Checkpoint, CheckpointError, CheckpointFormatError
from trainer.config import ResolvedConfig
from trainer.distributed.collectives import Workers
from trainer.distributed.devices import Devices
from trainer.engine.loop import TrainingHook
from trainer.engine.train_state import TrainState
from trainer.errors import (
    ConflictError,
    DeviceError,
    DivergedError,
    StoppedError,
    StorageError,
    UsageError,
    WorkerLostError,
)
from trainer.runs import filenames, manifest
from trainer.runs.directory import checkpoints_path
from trainer.runs.lease import Lease
from trainer.runtime import preemption
from trainer.runtime.log import LOGGER
from trainer.runtime.preemption import PreemptionSignal
from trainer.runtime.timers import StageTimer

CallbacksFactory = Callable[[], Sequence[keras.callbacks.Callback]]

_CLOCK_STEP_S = 1.1  # A name with a time in it has seconds.
_MISMATCH = (
    "a worker has other settings, other data or another model than the chief, expected the same on "
    "all workers; see its log"
)


@contextlib.contextmanager
def chief_hook(
    model: keras.Model,
    callbacks: Sequence[keras.callbacks.Callback],
    config: ResolvedConfig,
    *,
    identity: Identity,
    new_callbacks: CallbacksFactory,
    devices: Devices,
    lease: Lease,
    timer: StageTimer,
    finished: Checkpoint | None = None,
) -> Iterator[ChiefHook]:
    """Yields the hook of the chief; waits at the end for a checkpoint that is being written.

    Args:
        model: compiled.
        callbacks: callbacks whose state is saved in checkpoints.
        config: settings of the run.
        identity: what the result depends on, by `identity.describe`.
        new_callbacks: creates the callbacks once more, to tell what differs in each run.
        devices: devices that the model is trained on.
        lease: lease of the run directory.
        timer: timer of the run, over all attempts.
        finished: final state of the finished run that is trained for more epochs, if it is one.

    Raises:
        TrainerError: an error of training, with the path of the last good checkpoint added.
    """
    manager = CheckpointManager(
        checkpoints_path(config),
        lease,
        every_s=config.checkpoint_seconds,
        every_steps=config.checkpoint_steps,
        epochs=config.epochs,
    )
    metadata = RunMetadata(
        identity=identity,
        new_callbacks=new_callbacks,
        environment={"device": devices.description, **manifest.versions()},
        timer=timer,
        final_path=f"{config.out}/{filenames.FINAL_CHECKPOINT}",
    )
    with preemption.defer_sigterm() as sigterm:
        try:
            yield ChiefHook(
                model, callbacks, manager, metadata, lease, sigterm, devices.workers, finished
            )
        except ConflictError:
            raise  # The checkpoints belong to another job now.
        except (DivergedError, DeviceError, WorkerLostError, StorageError) as error:
            manager.close()  # Completes a checkpoint that is being written.
            error.args = (f"{error}. The last good checkpoint: {manager.last_good()}",)
            raise
        finally:
            manager.close()


@contextlib.contextmanager
def worker_hook(
    model: keras.Model,
    callbacks: Sequence[keras.callbacks.Callback],
    *,
    identity: Identity,
    new_callbacks: CallbacksFactory,
    workers: Workers,
) -> Iterator[TrainingHook]:
    """Yields the hook of a worker that is not the chief; it reads and writes no files.

    Args:
        model: compiled.
        callbacks: callbacks whose state is part of the run.
        identity: what the result depends on, by `identity.describe`.
        new_callbacks: creates the callbacks once more, to tell what differs in each run.
        workers: the workers that train together.
    """
    with preemption.defer_sigterm() as sigterm:
        yield WorkerHook(model, callbacks, identity, new_callbacks, sigterm, workers)


@dataclass(frozen=True)
class RunMetadata:
    """What a checkpoint stores about its run.

    Attributes:
        identity: what the result depends on; a checkpoint with another identity is refused.
        new_callbacks: creates the callbacks once more.
        environment: device and versions; in another environment a run resumes, but its result is
            not bit-identical.
        timer: timer of the run, over all attempts.
        final_path: path of the final checkpoint of the finished run, for messages.
    """

    identity: Identity
    new_callbacks: CallbacksFactory
    environment: dict[str, str]
    timer: StageTimer
    final_path: str


class ChiefHook(TrainingHook):
    """Saves checkpoints, restores the latest one, and stops the run after SIGTERM.

    Attributes:
        final: state at the end of the training, from which more epochs can continue.
    """

    final: Checkpoint

    def __init__(
        self,
        model: keras.Model,
        callbacks: Sequence[keras.callbacks.Callback],
        manager: CheckpointManager,
        metadata: RunMetadata,
        lease: Lease,
        preemption: PreemptionSignal,
        workers: Workers,
        finished: Checkpoint | None = None,
    ) -> None:
        """Creates the hook for the training of `model`.

        Args:
            model: compiled.
            callbacks: callbacks whose state is saved in checkpoints.
            manager: manager of the checkpoints' files.
            metadata: what a checkpoint stores about the run.
            lease: lease of the run directory.
            preemption: records SIGTERM.
            workers: the workers that train together, with this one as chief.
            finished: final state of the finished run that is trained for more epochs.
        """
        self._model, self._callbacks, self._finished = model, callbacks, finished
        self._manager, self._metadata = manager, metadata
        self._lease, self._preemption, self._workers = lease, preemption, workers

    def max_steps(self) -> int | None:
        """Returns the steps until the next checkpoint, or None if only seconds count."""
        return self._manager.steps_until_save()

    def restore(self) -> TrainState:
        """Restores the latest checkpoint, if there is one; returns the state to resume from.

        Raises:
            CheckpointError: all checkpoints are damaged, or they belong to another run.
            UsageError: another worker has other settings, other data or another model.
        """
        checkpoint, path = self._latest()
        state = TrainState() if checkpoint is None else self._load(checkpoint, path)
        if self._workers.count > 1:
            content = io.BytesIO()
            own = dataclasses.replace(
                checkpoint, metadata=checkpoint.metadata | {"identity": self._metadata.identity}
            ) if checkpoint else self._capture(state)  # fmt: skip
            checkpoint_state.write(own, content)
            self._workers.broadcast_bytes(content.getvalue())
            if self._workers.any(False):
                raise UsageError(_MISMATCH)
        return state

    def _latest(self) -> tuple[Checkpoint | None, str]:
        """Returns the latest state of the run, and where it is, for messages."""
        finished = self._finished
        try:
            checkpoint = self._manager.latest()
        except CheckpointFormatError:
            raise
        except CheckpointError as error:
            if finished is None:
                raise
            LOGGER.warning("%s", error)
            checkpoint = None
        if finished is not None and (
            checkpoint is None
            or checkpoint_state.position(checkpoint) < checkpoint_state.position(finished)
        ):
            return finished, self._metadata.final_path
        return checkpoint, self._manager.last_good()

    def _load(self, checkpoint: Checkpoint, path: str) -> TrainState:
        metadata, epochs = self._metadata, self._metadata.identity["epochs"]
        saved = checkpoint.metadata
        try:
            checkpoint_state.check_identity(
                checkpoint, metadata.identity, lambda: _describe_again(metadata.new_callbacks)
            )
            done, steps = checkpoint_state.position(checkpoint)
            planned = saved["identity"]["epochs"]
            if (done, steps) > (epochs, 0):
                raise CheckpointError(
                    f"--epochs is {epochs}, and the run was trained for {done} epochs"
                    f"{f' and {steps} steps' if steps else ''} already, expected no fewer. "
                    f"{checkpoint_state.START_ANEW}"
                )
            if planned != epochs and saved["train_state"]["uses_epochs"]:
                raise CheckpointError(
                    f"--epochs was {planned}, now {epochs}, and a callback of this recipe reads "
                    f"the number of epochs. {checkpoint_state.START_ANEW}"
                )
            state = checkpoint_state.restore(checkpoint, self._model, self._callbacks)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        LOGGER.info("resuming from %s: epoch %d, step %d", path, state.epoch + 1, state.step)
        if state.stopped and planned != epochs:
            LOGGER.warning(
                "a callback ended the training after epoch %d; --epochs %d changes nothing",
                state.epoch, epochs,
            )  # fmt: skip
        self._warn_about_environment(saved["environment"])
        metadata.timer.add_earlier_attempts(saved["seconds"])
        return state

    def after_training(self, state: TrainState) -> None:
        """Keeps the state, from which more epochs can continue.

        If a finished run is trained for more epochs, the state is also saved as a checkpoint: from
        then on the files of the finished run can be replaced.

        Raises:
            StorageError: the checkpoint could not be written.
        """
        self.final = self._capture(state)
        if self._finished is not None:
            self._manager.save(self.final)

    def after_steps(self, state: TrainState, steps: int, *, epoch_end: bool = False) -> None:
        """Saves a checkpoint if one is due.

        Raises:
            StoppedError: after SIGTERM, when a checkpoint is saved.
            ConflictError: another job has taken over the run directory.
            StorageError: checkpoints cannot be written.
        """
        self._lease.check()
        if self._workers.any(self._preemption.received):
            path = self._manager.save(self._capture(state))
            raise StoppedError(f"stopped by SIGTERM; the same command resumes from {path}")
        capture = functools.partial(self._capture, state)
        self._manager.maybe_save(capture, steps=steps, epoch_end=epoch_end)

    def _capture(self, state: TrainState) -> Checkpoint:
        return checkpoint_state.capture(
            self._model,
            self._callbacks,
            state,
            identity=self._metadata.identity,
            environment=self._metadata.environment,
            seconds=self._metadata.timer.total(),
        )

    def _warn_about_environment(self, saved: dict[str, str]) -> None:
        differences = [
            f"{name} was {saved.get(name)}, now {value}"
            for name, value in self._metadata.environment.items()
            if saved.get(name) != value
        ]
        if differences:
            LOGGER.warning("the result may not be bit-identical: %s", "; ".join(differences))


def _describe_again(new_callbacks: CallbacksFactory) -> list[dict[str, Any]]:
    """Describes newly created callbacks."""
    time.sleep(_CLOCK_STEP_S)  # So that the time of creation differs.
    return run_identity.describe_callbacks(new_callbacks())


class WorkerHook(TrainingHook):
    """Starts from the state of the chief, and stops after SIGTERM on any worker."""

    def __init__(
        self,
        model: keras.Model,
        callbacks: Sequence[keras.callbacks.Callback],
        identity: Identity,
        new_callbacks: CallbacksFactory,
        preemption: PreemptionSignal,
        workers: Workers,
    ) -> None:
        """Creates the hook for the training of `model`.

        Args:
            model: compiled.
            callbacks: callbacks whose state is part of the run.
            identity: what the result depends on; the chief's must be the same.
            new_callbacks: creates the callbacks once more.
            preemption: records SIGTERM.
            workers: the workers that train together.
        """
        self._model, self._callbacks, self._identity = model, callbacks, identity
        self._new_callbacks = new_callbacks
        self._preemption, self._workers = preemption, workers

    def restore(self) -> TrainState:
        """Loads the variables, callbacks and random generators of the chief; returns its state.

        Raises:
            UsageError: a worker has other settings, other data or another model.
        """
        content = io.BytesIO(self._workers.broadcast_bytes(b""))
        problem, state = "", TrainState()
        try:
            checkpoint = checkpoint_state.read(content)
            problem = self._compare(checkpoint.metadata["identity"])
            if not problem:
                state = checkpoint_state.restore(checkpoint, self._model, self._callbacks)
        except CheckpointError as error:
            problem = f"the chief's state: {error}"
        if self._workers.any(bool(problem)):
            raise UsageError(problem or _MISMATCH)
        return state

    def _compare(self, chief: Identity) -> str:
        """Returns what differs from the chief's identity; "" if nothing does."""
        lines = run_identity.differences(
            chief, self._identity, lambda: _describe_again(self._new_callbacks)
        )
        if chief["epochs"] != self._identity["epochs"]:
            lines.insert(0, f"--epochs was {chief['epochs']}, now {self._identity['epochs']}")
        text = run_identity.format_differences(lines)
        return f"this worker (now) differs from the chief (was): {text}" if lines else ""

    def after_steps(self, state: TrainState, steps: int, *, epoch_end: bool = False) -> None:
        """Checks for SIGTERM on all workers.

        Raises:
            StoppedError: a worker has received SIGTERM.
        """
        if self._workers.any(self._preemption.received):
            raise StoppedError("stopped by SIGTERM; the chief saves a checkpoint")
