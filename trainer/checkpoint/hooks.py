"""Keeps a run safe between its steps: snapshots, SIGTERM, the lease, and what hosts agree on.

Of several hosts the chief keeps the run, and the others follow it: they have its snapshot, which it
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

from trainer import config as configs
from trainer.checkpoint import state
from trainer.checkpoint.manager import Checkpoints
from trainer.checkpoint.state import Progress, Snapshot, SnapshotError
from trainer.config import ResolvedConfig
from trainer.distributed.collectives import Hosts
from trainer.distributed.devices import Devices
from trainer.engine.loop import Keeper
from trainer.errors import (
    ConflictError,
    DeviceError,
    DivergedError,
    HostLostError,
    StoppedError,
    StorageError,
    UsageError,
)
from trainer.runs import manifest
from trainer.runs.directory import snapshots_path
from trainer.runs.lease import Lease
from trainer.runtime import preemption
from trainer.runtime.log import LOGGER
from trainer.runtime.preemption import Request
from trainer.runtime.timers import Stopwatch

_UNLIKE = "a host has other settings, other data or another model than the chief; its log says more"


@contextlib.contextmanager
def keeping(
    model: keras.Model,
    callbacks: Sequence[keras.callbacks.Callback],
    config: ResolvedConfig,
    *,
    data_fingerprint: str,
    devices: Devices,
    lease: Lease,
    watch: Stopwatch,
) -> Iterator[Keeper]:
    """Gives the keeper of a run, and waits at the end for the snapshot that is being written.

    Args:
        model: compiled.
        callbacks: those whose memory is part of the run.
        config: its settings.
        data_fingerprint: SHA-256 of the data that it is trained on.
        devices: what it is trained on.
        lease: of its run directory.
        watch: its time, over all attempts.
    """
    checkpoints = Checkpoints(
        snapshots_path(config),
        lease,
        every_s=config.checkpoint_seconds,
        every_steps=config.checkpoint_steps,
    )
    run = RunFacts(
        identity=_identity(config, data_fingerprint),
        environment={"device": devices.description, **manifest.versions()},
        watch=watch,
    )
    with preemption.put_off() as request:
        try:
            yield SnapshotKeeper(model, callbacks, checkpoints, run, lease, request, devices.hosts)
        except ConflictError:
            raise  # The snapshots are not this job's any more.
        except (DivergedError, DeviceError, HostLostError, StorageError) as error:
            checkpoints.close()  # One may still be on its way.
            error.args = (f"{error}. The last good snapshot: {checkpoints.last_good()}",)
            raise
        finally:
            checkpoints.close()


@contextlib.contextmanager
def following(
    model: keras.Model,
    callbacks: Sequence[keras.callbacks.Callback],
    config: ResolvedConfig,
    *,
    data_fingerprint: str,
    hosts: Hosts,
) -> Iterator[Keeper]:
    """Gives the keeper of a host that is not the chief; nothing is read or written.

    Args:
        model: compiled.
        callbacks: those whose memory is part of the run.
        config: its settings.
        data_fingerprint: SHA-256 of the data that it is trained on.
        hosts: those that train together.
    """
    with preemption.put_off() as request:
        identity = _identity(config, data_fingerprint)
        yield FollowingKeeper(model, callbacks, identity, request, hosts)


def _identity(config: ResolvedConfig, data_fingerprint: str) -> str:
    settings = json.dumps([configs.experiment(config), data_fingerprint])
    return hashlib.sha256(settings.encode()).hexdigest()


@dataclass(frozen=True)
class RunFacts:
    """What a snapshot says of the run it belongs to.

    Attributes:
        identity: of settings and data; a snapshot of another is refused.
        environment: device and versions; with another, a run goes on, but not to the bit.
        watch: the run's time, over all attempts.
    """

    identity: str
    environment: dict[str, str]
    watch: Stopwatch


class SnapshotKeeper(Keeper):
    """Takes snapshots of a run, restores the latest, and stops when it is asked to."""

    def __init__(
        self,
        model: keras.Model,
        callbacks: Sequence[keras.callbacks.Callback],
        checkpoints: Checkpoints,
        run: RunFacts,
        lease: Lease,
        preemption: Request,
        hosts: Hosts,
    ) -> None:
        """Looks after the training of `model`.

        Args:
            model: compiled.
            callbacks: those whose memory is part of the run.
            checkpoints: where snapshots are.
            run: what a snapshot says of the run.
            lease: of the run directory.
            preemption: whether the end was asked for.
            hosts: those that train together; this is their chief.
        """
        self._model, self._callbacks = model, callbacks
        self._checkpoints, self._run = checkpoints, run
        self._lease, self._termination, self._hosts = lease, preemption, hosts

    def most_steps(self) -> int | None:
        """Returns the steps until the next snapshot is due, if they are counted."""
        return self._checkpoints.steps_left()

    def restore(self) -> Progress:
        """Returns where the run stands: at the latest snapshot, or at its start.

        Raises:
            SnapshotError: no snapshot is whole, or they are of another run.
            UsageError: another host trains something else.
        """
        snapshot = self._checkpoints.latest()
        progress = Progress() if snapshot is None else self._restored(snapshot)
        if self._hosts.count > 1:
            content = io.BytesIO()
            state.write(snapshot or self._captured(progress), content)
            self._hosts.chiefs_content(content.getvalue())
            if self._hosts.any(False):
                raise UsageError(_UNLIKE)
        return progress

    def _restored(self, snapshot: Snapshot) -> Progress:
        try:
            progress = state.restore(snapshot, self._model, self._callbacks, self._run.identity)
        except SnapshotError as error:
            raise SnapshotError(f"{self._checkpoints.last_good()}: {error}") from None
        LOGGER.info(
            "going on from %s: epoch %d, step %d",
            self._checkpoints.last_good(), progress.epoch + 1, progress.step,
        )  # fmt: skip
        self._warn_of_other_environment(snapshot.facts["environment"])
        self._run.watch.add_earlier(snapshot.facts["seconds"])
        return progress

    def after_steps(self, progress: Progress, steps: int, *, epoch_end: bool = False) -> None:
        """Takes a snapshot if it is time for one.

        Raises:
            StoppedError: SIGTERM came; a snapshot is saved.
            ConflictError: another job has taken the run directory over.
            StorageError: snapshots cannot be written any more.
        """
        self._lease.check()
        if self._hosts.any(self._termination.made):
            path = self._checkpoints.save(self._captured(progress))
            raise StoppedError(f"stopped by SIGTERM; the same command goes on from {path}")
        capture = functools.partial(self._captured, progress)
        self._checkpoints.offer(capture, steps=steps, epoch_end=epoch_end)

    def _captured(self, progress: Progress) -> Snapshot:
        return state.capture(
            self._model,
            self._callbacks,
            progress,
            identity=self._run.identity,
            environment=self._run.environment,
            seconds=self._run.watch.total(),
        )

    def _warn_of_other_environment(self, earlier: dict[str, str]) -> None:
        different = [
            f"{name} was {earlier.get(name)}, now {value}"
            for name, value in self._run.environment.items()
            if earlier.get(name) != value
        ]
        if different:
            LOGGER.warning("the result may differ in its last bits: %s", "; ".join(different))


class FollowingKeeper(Keeper):
    """Begins where the chief does, and stops when any host is asked to."""

    def __init__(
        self,
        model: keras.Model,
        callbacks: Sequence[keras.callbacks.Callback],
        identity: str,
        preemption: Request,
        hosts: Hosts,
    ) -> None:
        """Follows the chief in the training of `model`.

        Args:
            model: compiled.
            callbacks: those whose memory is part of the run.
            identity: of settings and data; that of the chief must be the same.
            preemption: whether the end was asked for.
            hosts: those that train together.
        """
        self._model, self._callbacks, self._identity = model, callbacks, identity
        self._termination, self._hosts = preemption, hosts

    def restore(self) -> Progress:
        """Returns where the chief stands, with its variables, callbacks and generators.

        Raises:
            UsageError: a host trains something else.
        """
        content = io.BytesIO(self._hosts.chiefs_content(b""))
        problem = ""
        try:
            progress = state.restore(
                state.read(content), self._model, self._callbacks, self._identity
            )
        except SnapshotError as error:
            problem = f"the chief's state: {error}"
        if self._hosts.any(bool(problem)):
            raise UsageError(problem or _UNLIKE)
        return progress

    def after_steps(self, progress: Progress, steps: int, *, epoch_end: bool = False) -> None:
        """Looks at SIGTERM.

        Raises:
            StoppedError: it came, here or on another host.
        """
        if self._hosts.any(self._termination.made):
            raise StoppedError("stopped by SIGTERM; the chief saves a snapshot")
