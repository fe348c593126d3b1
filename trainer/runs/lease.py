"""Leases, which allow one job at a time to write to a run directory; that of a dead job expires.

A local lease is a lock on the folder, which ends with the process. In a bucket a lease is an object
that the job rewrites every few seconds; if it stays unchanged for `TRAINER_LEASE_SECONDS`, the job
is dead. This does not depend on the clocks of other machines.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from trainer import storage
from trainer.errors import ConflictError, RunExistsError, StorageError, TransientStorageError
from trainer.runs import filenames
from trainer.runtime import variables
from trainer.runtime.log import LOGGER

_NAME = filenames.LEASE
_POLL_S = 0.5


class Lease(Protocol):
    """The right to write to a run directory."""

    def check(self) -> None:
        """Raises ConflictError if another job has taken over the run directory."""


@contextlib.contextmanager
def acquire(out: str) -> Iterator[Lease]:
    """Holds the lease of a run directory; creates the directory if needed.

    Raises:
        RunExistsError: another job is running on the directory.
        StorageError: the directory cannot be written.
    """
    lease = _BucketLease(out) if storage.is_remote(out) else _LocalLease(out)
    with lease.hold():
        yield lease


class _LocalLease:
    """The lease of a local run directory: a lock on the folder, which ends with the process."""

    def __init__(self, out: str) -> None:
        self._out = out

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        with storage.translate_errors(self._out):
            os.makedirs(self._out, exist_ok=True)
            descriptor = os.open(self._out, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise RunExistsError(f"--out {self._out}: another job is running on it") from None
        except OSError:  # The file system does not support locks, for example a mounted bucket.
            LOGGER.warning(
                "%s: the file system has no locks; do not start two jobs on this folder", self._out
            )
        self._locked = os.fstat(descriptor)
        try:
            yield
        finally:
            os.close(descriptor)

    def check(self) -> None:
        try:
            is_same = os.path.samestat(self._locked, os.stat(self._out))
        except OSError:
            is_same = False
        if not is_same:
            raise ConflictError(
                f"--out {self._out}: was deleted, or replaced by another folder, during the job"
            )


class _BucketLease:
    """The lease of a run directory in a bucket: an object that a thread rewrites regularly."""

    def __init__(self, out: str) -> None:
        self._out = out
        self._folder = storage.folder(out)
        self._expires_s = variables.seconds(variables.LEASE)
        self._generation = 0
        self._count = 0
        self._lost = ""  # The reason, if the lease is lost.
        self._released = threading.Event()

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        self._acquire()
        renewal = threading.Thread(target=self._renew, daemon=True)
        renewal.start()
        try:
            yield
        finally:
            self._released.set()
            renewal.join()
            if not self._lost:
                self._folder.remove(_NAME)

    def check(self) -> None:
        if self._lost:
            raise ConflictError(
                f"--out {self._out}: was taken over by another job, or deleted: {self._lost}"
            )

    def _acquire(self) -> None:
        generation = self._folder.generation(_NAME)
        holder = _parse_holder(self._folder.read(_NAME))
        if generation and not _is_dead(holder):
            name = f"{holder.get('host', '?')}, process {holder.get('pid', '?')}"
            LOGGER.info(
                "%s: locked by %s; waiting up to %g s to see if it is alive",
                self._out, name, self._expires_s,
            )  # fmt: skip
            deadline = time.monotonic() + self._expires_s
            while time.monotonic() < deadline and self._folder.generation(_NAME) == generation:
                time.sleep(_POLL_S)
            latest = self._folder.generation(_NAME)
            if latest not in (generation, 0):
                raise RunExistsError(f"--out {self._out}: another job is running on it ({name})")
            generation = latest
        try:
            self._write_lease(if_generation_match=generation)
        except ConflictError:
            raise RunExistsError(f"--out {self._out}: another job has just started on it") from None

    def _renew(self) -> None:
        while not self._released.wait(self._expires_s / 3):
            try:
                self._write_lease(if_generation_match=self._generation)
            except TransientStorageError:
                continue  # Retried; the lease is lost only if another job has changed the object.
            except StorageError as error:
                self._lost = str(error)
                return

    def _write_lease(self, *, if_generation_match: int) -> None:
        self._count += 1  # Makes each content, and so its checksum, unique.
        with storage.temporary_directory() as temporary:
            path = temporary / "lease"
            path.write_text(json.dumps({**_this_process(), "count": self._count}))
            self._generation = self._folder.write(
                _NAME, path, if_generation_match=if_generation_match
            )


def _this_process() -> dict[str, Any]:
    return {"host": os.uname().nodename, "pid": os.getpid(), "machine": _machine(),
            "started": _start_time(os.getpid())}  # fmt: skip


def _parse_holder(content: bytes | None) -> dict[str, Any]:
    try:
        holder = json.loads(content or b"{}")
    except ValueError:
        holder = {}
    return holder if isinstance(holder, dict) else {}


def _is_dead(holder: dict[str, Any]) -> bool:
    """Returns whether the holder is a dead process of this machine; False for other machines."""
    return (
        holder.get("machine") == _machine() is not None
        and _start_time(int(holder.get("pid", 0))) != holder.get("started")
    )  # fmt: skip


def _machine() -> str | None:
    """Returns an id of this boot of the machine and of the container; None if it is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _start_time(pid: int) -> str | None:
    """Returns the start time of a process, in clock ticks since boot; None if it does not exist."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
