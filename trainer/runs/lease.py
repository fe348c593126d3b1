"""One job at a time on a run directory, by a lease that a crashed job loses.

Locally that is a lock on the folder, which ends with the process. In a bucket it is an object that
the job puts anew every few seconds: one that stays the same for `TRAINER_LEASE_SECONDS` has no job
any more. No clock of another machine is trusted for this, only whether the object changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from trainer import storage
from trainer.errors import ConflictError, RunExistsError, StorageError, TransientStorageError
from trainer.runtime.log import LOGGER

_NAME = ".lease"
_POLL_S = 0.5


class Lease(Protocol):
    """The right to write into a run directory."""

    def check(self) -> None:
        """Raises ConflictError if another job has taken the run directory over."""


@contextlib.contextmanager
def acquire(out: str) -> Iterator[Lease]:
    """Holds the lease of a run directory, which is made if it is not there.

    Raises:
        RunExistsError: another job is running on it.
        StorageError: it cannot be written.
    """
    lease = _BucketLease(out) if storage.is_remote(out) else _LocalLease(out)
    with lease.acquired():
        yield lease


class _LocalLease:
    def __init__(self, out: str) -> None:
        self._out = out

    @contextlib.contextmanager
    def acquired(self) -> Iterator[None]:
        with storage.translate_errors(self._out):
            os.makedirs(self._out, exist_ok=True)
            descriptor = os.open(self._out, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise RunExistsError(f"--out {self._out}: another job is running on it") from None
        except OSError:  # A file system without locks, such as a mounted bucket.
            LOGGER.warning("%s: no locks here; start one job at a time on it", self._out)
        self._locked = os.fstat(descriptor)
        try:
            yield
        finally:
            os.close(descriptor)

    def check(self) -> None:
        try:
            there = os.path.samestat(self._locked, os.stat(self._out))
        except OSError:
            there = False
        if not there:
            raise ConflictError(
                f"--out {self._out}: was deleted, or replaced by another folder, while the job ran"
            )


class _BucketLease:
    def __init__(self, out: str) -> None:
        self._out = out
        self._folder = storage.folder(out)
        self._expires_s = float(os.environ.get("TRAINER_LEASE_SECONDS", "30"))
        self._generation = 0
        self._count = 0
        self._lost = ""  # Why, when it is.
        self._ended = threading.Event()

    @contextlib.contextmanager
    def acquired(self) -> Iterator[None]:
        self._acquire()
        renewing = threading.Thread(target=self._renew, daemon=True)
        renewing.start()
        try:
            yield
        finally:
            self._ended.set()
            renewing.join()
            if not self._lost:
                self._folder.remove(_NAME)

    def check(self) -> None:
        if self._lost:
            raise ConflictError(
                f"--out {self._out}: another job has taken it over, or it was deleted: {self._lost}"
            )

    def _acquire(self) -> None:
        there = self._folder.generation(_NAME)
        holder = _holder(self._folder.read(_NAME))
        if there and not _has_died(holder):
            name = f"{holder.get('host', '?')}, process {holder.get('pid', '?')}"
            LOGGER.info("%s: held by %s; waiting whether it is alive", self._out, name)
            deadline = time.monotonic() + self._expires_s
            while time.monotonic() < deadline and self._folder.generation(_NAME) == there:
                time.sleep(_POLL_S)
            now = self._folder.generation(_NAME)
            if now not in (there, 0):
                raise RunExistsError(f"--out {self._out}: another job is running on it ({name})")
            there = now
        try:
            self._write_lease(if_generation_match=there)
        except ConflictError:
            raise RunExistsError(f"--out {self._out}: another job has just begun on it") from None

    def _renew(self) -> None:
        while not self._ended.wait(self._expires_s / 3):
            try:
                self._write_lease(if_generation_match=self._generation)
            except TransientStorageError:
                continue  # Whoever would take it over has no connection either, or a new version.
            except StorageError as error:
                self._lost = str(error)
                return

    def _write_lease(self, *, if_generation_match: int) -> None:
        self._count += 1  # So that each content, and its checksum, is another.
        with tempfile.NamedTemporaryFile("w") as file:
            json.dump({**_this_process(), "count": self._count}, file)
            file.flush()
            self._generation = self._folder.write(
                _NAME, Path(file.name), if_generation_match=if_generation_match
            )


def _this_process() -> dict[str, Any]:
    return {"host": os.uname().nodename, "pid": os.getpid(), "machine": _machine(),
            "started": _started(os.getpid())}  # fmt: skip


def _holder(content: bytes | None) -> dict[str, Any]:
    try:
        holder = json.loads(content or b"{}")
    except ValueError:
        holder = {}
    return holder if isinstance(holder, dict) else {}


def _has_died(holder: dict[str, Any]) -> bool:
    """Tells whether a process of this very machine is gone; of others nothing is known."""
    return (
        holder.get("machine") == _machine() is not None
        and _started(int(holder.get("pid", 0))) != holder.get("started")
    )  # fmt: skip


def _machine() -> str | None:
    """Names this boot of this machine, and the container in it; None where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """Returns when a process started, in ticks since boot; None if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
