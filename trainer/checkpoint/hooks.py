"""Keeps a run safe between its steps: checkpoints, SIGTERM, the lease, and what workers agree on.

Of several workers the chief keeps the run, and the others follow it: they have its checkpoint, which it
sends them, and end when it does.
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

_UNLIKE = (
    "a worker has other settings, other data or another model than the chief; its log says more"
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
    """Gives the keeper of a run, and waits at the end for the checkpoint that is being written.

    Args:
        model: compiled.
        callbacks: those whose memory is part of the run.
        config: its settings.
        data_fingerprint: SHA-256 of the data that it is trained on.
        devices: what it is trained on.
        lease: of its run directory.
        timer: its time, over all attempts.
    """
    checkpoints = CheckpointManager(
        checkpoints_path(config),
        lease,
        every_s=config.checkpoint_seconds,
        every_steps=config.checkpoint_steps,
    )
    run = RunMetadata(
        identity=_identity(config, data_fingerprint),
        environment={"device": devices.description, **manifest.versions()},
        timer=timer,
    )
    with preemption.defer_sigterm() as request:
        try:
            yield ChiefHook(model, callbacks, checkpoints, run, lease, request, devices.workers)
        except ConflictError:
            raise  # The checkpoints are not this job's any more.
        except (DivergedError, DeviceError, WorkerLostError, StorageError) as error:
            checkpoints.close()  # One may still be on its way.
            error.args = (f"{error}. The last good checkpoint: {checkpoints.last_good()}",)
            raise
        finally:
            checkpoints.close()


@contextlib.contextmanager
def worker_hook(
    model: keras.Model,
    callbacks: Sequence[keras.callbacks.Callback],
    config: ResolvedConfig,
    *,
    data_fingerprint: str,
    workers: Workers,
) -> Iterator[TrainingHook]:
    """Gives the keeper of a worker that is not the chief; nothing is read or written.

    Args:
        model: compiled.
        callbacks: those whose memory is part of the run.
        config: its settings.
        data_fingerprint: SHA-256 of the data that it is trained on.
        workers: those that train together.
    """
    with preemption.defer_sigterm() as request:
        identity = _identity(config, data_fingerprint)
        yield WorkerHook(model, callbacks, identity, request, workers)


def _identity(config: ResolvedConfig, data_fingerprint: str) -> str:
    settings = json.dumps([result_settings(config), data_fingerprint])
    return hashlib.sha256(settings.encode()).hexdigest()


@dataclass(frozen=True)
class RunMetadata:
    """What a checkpoint says of the run it belongs to.

    Attributes:
        identity: of settings and data; a checkpoint of another is refused.
        environment: device and versions; with another, a run goes on, but not to the bit.
        timer: the run's time, over all attempts.
    """

    identity: str
    environment: dict[str, str]
    timer: StageTimer


class ChiefHook(TrainingHook):
    """Takes checkpoints of a run, restores the latest, and stops when it is asked to."""

    def __init__(
        self,
        model: keras.Model,
        callbacks: Sequence[keras.callbacks.Callback],
        checkpoints: CheckpointManager,
        run: RunMetadata,
        lease: Lease,
        preemption: PreemptionSignal,
        workers: Workers,
    ) -> None:
        """Looks after the training of `model`.

        Args:
            model: compiled.
            callbacks: those whose memory is part of the run.
            checkpoints: where checkpoints are.
            run: what a checkpoint says of the run.
            lease: of the run directory.
            preemption: whether the end was asked for.
            workers: those that train together; this is their chief.
        """
        self._model, self._callbacks = model, callbacks
        self._checkpoints, self._run = checkpoints, run
        self._lease, self._termination, self._workers = lease, preemption, workers

    def max_steps(self) -> int | None:
        """Returns the steps until the next checkpoint is due, if they are counted."""
        return self._checkpoints.steps_until_save()

    def restore(self) -> TrainState:
        """Returns where the run stands: at the latest checkpoint, or at its start.

        Raises:
            CheckpointError: no checkpoint is whole, or they are of another run.
            UsageError: another worker trains something else.
        """
        checkpoint = self._checkpoints.latest()
        state = TrainState() if checkpoint is None else self._restored(checkpoint)
        if self._workers.count > 1:
            content = io.BytesIO()
            checkpoint_state.write(checkpoint or self._captured(state), content)
            self._workers.broadcast_bytes(content.getvalue())
            if self._workers.any(False):
                raise UsageError(_UNLIKE)
        return state

    def _restored(self, checkpoint: Checkpoint) -> TrainState:
        try:
            state = checkpoint_state.restore(
                checkpoint, self._model, self._callbacks, self._run.identity
            )
        except CheckpointError as error:
            raise CheckpointError(f"{self._checkpoints.last_good()}: {error}") from None
        LOGGER.info(
            "going on from %s: epoch %d, step %d",
            self._checkpoints.last_good(), state.epoch + 1, state.step,
        )  # fmt: skip
        self._warn_of_other_environment(checkpoint.metadata["environment"])
        self._run.timer.add_earlier(checkpoint.metadata["seconds"])
        return state

    def after_steps(self, state: TrainState, steps: int, *, epoch_end: bool = False) -> None:
        """Takes a checkpoint if it is time for one.

        Raises:
            StoppedError: SIGTERM came; a checkpoint is saved.
            ConflictError: another job has taken the run directory over.
            StorageError: checkpoints cannot be written any more.
        """
        self._lease.check()
        if self._workers.any(self._termination.made):
            path = self._checkpoints.save(self._captured(state))
            raise StoppedError(f"stopped by SIGTERM; the same command goes on from {path}")
        capture = functools.partial(self._captured, state)
        self._checkpoints.maybe_save(capture, steps=steps, epoch_end=epoch_end)

    def _captured(self, state: TrainState) -> Checkpoint:
        return checkpoint_state.capture(
            self._model,
            self._callbacks,
            state,
            identity=self._run.identity,
            environment=self._run.environment,
            seconds=self._run.timer.total(),
        )

    def _warn_of_other_environment(self, earlier: dict[str, str]) -> None:
        different = [
            f"{name} was {earlier.get(name)}, now {value}"
            for name, value in self._run.environment.items()
            if earlier.get(name) != value
        ]
        if different:
            LOGGER.warning("the result may differ in its last bits: %s", "; ".join(different))


class WorkerHook(TrainingHook):
    """Begins where the chief does, and stops when any worker is asked to."""

    def __init__(
        self,
        model: keras.Model,
        callbacks: Sequence[keras.callbacks.Callback],
        identity: str,
        preemption: PreemptionSignal,
        workers: Workers,
    ) -> None:
        """Follows the chief in the training of `model`.

        Args:
            model: compiled.
            callbacks: those whose memory is part of the run.
            identity: of settings and data; that of the chief must be the same.
            preemption: whether the end was asked for.
            workers: those that train together.
        """
        self._model, self._callbacks, self._identity = model, callbacks, identity
        self._termination, self._workers = preemption, workers

    def restore(self) -> TrainState:
        """Returns where the chief stands, with its variables, callbacks and generators.

        Raises:
            UsageError: a worker trains something else.
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
            raise UsageError(problem or _UNLIKE)
        return state

    def after_steps(self, state: TrainState, steps: int, *, epoch_end: bool = False) -> None:
        """Looks at SIGTERM.

        Raises:
            StoppedError: it came, here or on another worker.
        """
        if self._workers.any(self._termination.made):
            raise StoppedError("stopped by SIGTERM; the chief saves a checkpoint")
