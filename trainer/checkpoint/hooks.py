"""Training hooks, called between steps: checkpoints, SIGTERM, the lease, agreement of workers.

Of several workers only the chief reads and writes checkpoints. The others receive its checkpoint
when training starts, and stop when it stops.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import keras

from trainer.checkpoint import state as checkpoint_state
from trainer.checkpoint.manager import CheckpointManager
from trainer.checkpoint.state import Checkpoint, CheckpointError
from trainer.config import ResolvedConfig, result_settings
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
from trainer.runs import manifest
from trainer.runs.directory import checkpoints_path
from trainer.runs.lease import Lease
from trainer.runtime import preemption
from trainer.runtime.log import LOGGER
from trainer.runtime.preemption import PreemptionSignal
from trainer.runtime.timers import StageTimer

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
    data_fingerprint: str,
    devices: Devices,
    lease: Lease,
    timer: StageTimer,
) -> Iterator[TrainingHook]:
    """Yields the hook of the chief; waits at the end for a checkpoint that is being written.

    Args:
        model: compiled.
        callbacks: callbacks whose state is saved in checkpoints.
        config: settings of the run.
        data_fingerprint: SHA-256 of the training data.
        devices: devices that the model is trained on.
        lease: lease of the run directory.
        timer: timer of the run, over all attempts.

    Raises:
        TrainerError: an error of training, with the path of the last good checkpoint added.
    """
    manager = CheckpointManager(
        checkpoints_path(config),
        lease,
        every_s=config.checkpoint_seconds,
        every_steps=config.checkpoint_steps,
    )
    metadata = RunMetadata(
        identity=_identity(config, data_fingerprint),
        environment={"device": devices.description, **manifest.versions()},
        timer=timer,
    )
    with preemption.defer_sigterm() as sigterm:
        try:
            yield ChiefHook(model, callbacks, manager, metadata, lease, sigterm, devices.workers)
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
    config: ResolvedConfig,
    *,
    data_fingerprint: str,
    workers: Workers,
) -> Iterator[TrainingHook]:
    """Yields the hook of a worker that is not the chief; it reads and writes no files.

    Args:
        model: compiled.
        callbacks: callbacks whose state is part of the run.
        config: settings of the run.
        data_fingerprint: SHA-256 of the training data.
        workers: the workers that train together.
    """
    with preemption.defer_sigterm() as sigterm:
        identity = _identity(config, data_fingerprint)
        yield WorkerHook(model, callbacks, identity, sigterm, workers)


def _identity(config: ResolvedConfig, data_fingerprint: str) -> str:
    settings = json.dumps([result_settings(config), data_fingerprint])
    return hashlib.sha256(settings.encode()).hexdigest()


@dataclass(frozen=True)
class RunMetadata:
    """What a checkpoint stores about its run.

    Attributes:
        identity: digest of settings and data; a checkpoint with another identity is refused.
        environment: device and versions; in another environment a run resumes, but its result is
            not bit-identical.
        timer: timer of the run, over all attempts.
    """

    identity: str
    environment: dict[str, str]
    timer: StageTimer


class ChiefHook(TrainingHook):
    """Saves checkpoints, restores the latest one, and stops the run after SIGTERM."""

    def __init__(
        self,
        model: keras.Model,
        callbacks: Sequence[keras.callbacks.Callback],
        manager: CheckpointManager,
        metadata: RunMetadata,
        lease: Lease,
        preemption: PreemptionSignal,
        workers: Workers,
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
        """
        self._model, self._callbacks = model, callbacks
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
        checkpoint = self._manager.latest()
        state = TrainState() if checkpoint is None else self._load(checkpoint)
        if self._workers.count > 1:
            content = io.BytesIO()
            checkpoint_state.write(checkpoint or self._capture(state), content)
            self._workers.broadcast_bytes(content.getvalue())
            if self._workers.any(False):
                raise UsageError(_MISMATCH)
        return state

    def _load(self, checkpoint: Checkpoint) -> TrainState:
        try:
            state = checkpoint_state.restore(
                checkpoint, self._model, self._callbacks, self._metadata.identity
            )
        except CheckpointError as error:
            raise CheckpointError(f"{self._manager.last_good()}: {error}") from None
        LOGGER.info(
            "resuming from %s: epoch %d, step %d",
            self._manager.last_good(), state.epoch + 1, state.step,
        )  # fmt: skip
        self._warn_about_environment(checkpoint.metadata["environment"])
        self._metadata.timer.add_earlier_attempts(checkpoint.metadata["seconds"])
        return state

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


class WorkerHook(TrainingHook):
    """Starts from the state of the chief, and stops after SIGTERM on any worker."""

    def __init__(
        self,
        model: keras.Model,
        callbacks: Sequence[keras.callbacks.Callback],
        identity: str,
        preemption: PreemptionSignal,
        workers: Workers,
    ) -> None:
        """Creates the hook for the training of `model`.

        Args:
            model: compiled.
            callbacks: callbacks whose state is part of the run.
            identity: digest of settings and data; the chief's must be the same.
            preemption: records SIGTERM.
            workers: the workers that train together.
        """
        self._model, self._callbacks, self._identity = model, callbacks, identity
        self._preemption, self._workers = preemption, workers

    def restore(self) -> TrainState:
        """Loads the variables, callbacks and random generators of the chief; returns its state.

        Raises:
            UsageError: a worker has other settings, other data or another model.
        """
        content = io.BytesIO(self._workers.broadcast_bytes(b""))
        problem = ""
        try:
            state = checkpoint_state.restore(
                checkpoint_state.read(content), self._model, self._callbacks, self._identity
            )
        except CheckpointError as error:
            problem = f"the chief's state: {error}"
        if self._workers.any(bool(problem)):
            raise UsageError(problem or _MISMATCH)
        return state

    def after_steps(self, state: TrainState, steps: int, *, epoch_end: bool = False) -> None:
        """Checks for SIGTERM on all workers.

        Raises:
            StoppedError: a worker has received SIGTERM.
        """
        if self._workers.any(self._preemption.received):
            raise StoppedError("stopped by SIGTERM; the chief saves a checkpoint")
