"""Manages the files in the checkpoint folder of a run; the last two checkpoints are kept.

A checkpoint is written to a new file, then `latest.json` is replaced, and only then are older
checkpoints removed. So at any time `latest.json` names a complete checkpoint. Writing runs in
the background: training waits only for a copy in memory.
"""

from __future__ import annotations

import concurrent.futures
import json
import time
import uuid
from collections.abc import Callable

from trainer import storage
from trainer.checkpoint import state as checkpoint_state
from trainer.checkpoint.state import Checkpoint, CheckpointError, CheckpointFormatError
from trainer.errors import TransientStorageError
from trainer.runs import filenames
from trainer.runs.lease import Lease
from trainer.runtime.log import LOGGER

_POINTER = filenames.LATEST_CHECKPOINT
_MAX_CHECKPOINTS = 2
_MAX_TIME_FRACTION = 0.02  # For checkpoints at the ends of epochs.


class CheckpointManager:
    """Saves, loads and removes the checkpoints of one run."""

    def __init__(
        self,
        folder: str,
        lease: Lease,
        *,
        every_s: float,
        every_steps: int | None,
        epochs: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Creates the manager; reads and writes no files yet.

        Args:
            folder: folder of the checkpoints, local or gs://.
            lease: lease of the run, checked before `latest.json` is replaced.
            every_s: seconds between two checkpoints.
            every_steps: maximum number of steps between two checkpoints; None for no maximum.
            epochs: number of epochs of the run, which `latest.json` names.
            clock: monotonic clock, in seconds.
        """
        self._every_steps, self._epochs = every_steps, epochs
        self._folder = storage.folder(folder)
        self._lease, self._every_s, self._clock = lease, every_s, clock
        self._names: list[str] = []  # Names of the checkpoints, the latest first.
        self._generation = 0  # Generation of the pointer that this job wrote.
        self._last_s, self._steps, self._due = clock(), 0, False
        self._cost_s = 0.0  # CPU time of the last checkpoint.
        self._writer = concurrent.futures.ThreadPoolExecutor(1)
        self._writing: concurrent.futures.Future[None] | None = None

    def latest(self) -> Checkpoint | None:
        """Returns the newest undamaged checkpoint, or None if the run has no checkpoints.

        Raises:
            CheckpointError: all checkpoints are damaged, or one has another format.
        """
        self._generation = self._folder.generation(_POINTER)
        pointer = self._folder.read(_POINTER)
        if pointer is None:
            names = [name for name in self._folder.names() if name.endswith(".h5")]
            if names:
                LOGGER.info(
                    "%s: found %s without %s, which names the last complete checkpoint; starting "
                    "from the beginning", self._folder.path, names[0], _POINTER,
                )  # fmt: skip
            return None
        try:
            self._names = [str(name) for name in json.loads(pointer)["checkpoints"]]
        except (ValueError, KeyError, TypeError):
            self._names = [name for name in self._folder.names() if name.endswith(".h5")]
            LOGGER.warning("%s/%s is damaged", self._folder.path, _POINTER)
        for name in list(self._names):
            try:
                return self._read(name)
            except CheckpointFormatError as error:
                raise CheckpointFormatError(f"{self._folder.path}/{name}: {error}") from None
            except CheckpointError as error:
                LOGGER.warning(
                    "%s/%s: %s; skipping this checkpoint", self._folder.path, name, error
                )
                self._names.remove(name)
        raise CheckpointError(
            f"{self._folder.path}: all checkpoints are damaged; --resume never with --overwrite "
            "starts from the beginning"
        )

    def last_good(self) -> str:
        """Returns the path of the latest checkpoint, or "none", for messages."""
        return f"{self._folder.path}/{self._names[0]}" if self._names else "none"

    def maybe_save(self, capture: Callable[[], Checkpoint], *, steps: int, epoch_end: bool) -> None:
        """Starts to save a checkpoint if one is due and no earlier one is being written.

        Args:
            capture: copies the state of the run.
            steps: training steps since the previous call.
            epoch_end: whether an epoch has ended. A checkpoint is due then, unless epochs are so
                short that checkpoints would take more than 2 % of the time.

        Raises:
            StorageError: an earlier checkpoint could not be written, for a permanent reason.
        """
        self._steps += steps
        elapsed_s = self._clock() - self._last_s
        self._due |= elapsed_s >= self._every_s
        self._due |= epoch_end and elapsed_s * _MAX_TIME_FRACTION >= self._cost_s
        self._due |= self._every_steps is not None and self._steps >= self._every_steps
        if self._due and (self._writing is None or self._writing.done()):
            self._finish_writing()
            started = self._clock()
            checkpoint = capture()
            self._last_s, self._steps, self._due = self._clock(), 0, False
            self._writing = self._writer.submit(self._write, checkpoint, self._last_s - started)

    def steps_until_save(self) -> int | None:
        """Returns the steps until a checkpoint is due; None if only seconds count."""
        if self._every_steps is None:
            return None
        return max(1, self._every_steps - self._steps)

    def save(self, checkpoint: Checkpoint) -> str:
        """Writes a checkpoint, waits until it is stored, and returns its path.

        Raises:
            StorageError: the checkpoint could not be written.
        """
        self._finish_writing()
        self._write(checkpoint)
        return self.last_good()

    def close(self) -> None:
        """Waits until a checkpoint that is being written is stored."""
        self._writer.shutdown()

    def _finish_writing(self) -> None:
        if self._writing is not None:
            try:
                self._writing.result()
            except TransientStorageError as error:
                # Not fatal: an earlier checkpoint exists, and the next one may succeed.
                LOGGER.warning("checkpoint not saved: %s", error)
            self._writing = None

    def _write(self, checkpoint: Checkpoint, capture_s: float = 0.0) -> None:
        started = time.thread_time()
        name = f"{uuid.uuid4().hex}.h5"
        with storage.temporary_directory() as temporary:
            path = temporary / name
            checkpoint_state.write(checkpoint, path)
            self._folder.write(name, path, if_generation_match=0)
            self._lease.check()
            names = [name, *self._names[: _MAX_CHECKPOINTS - 1]]
            pointer = temporary / _POINTER
            pointer.write_text(json.dumps({"checkpoints": names, "epochs": self._epochs}))
            self._generation = self._folder.write(
                _POINTER, pointer, if_generation_match=self._generation
            )
        self._names = names
        # Removes older checkpoints, and incomplete ones of a killed attempt.
        for other in self._folder.names():
            if other not in (*names, _POINTER):
                self._folder.remove(other)
        # CPU time only: waiting for a disk or a bucket does not slow training down.
        self._cost_s = capture_s + time.thread_time() - started

    def _read(self, name: str) -> Checkpoint:
        content = self._folder.read(name)
        if content is None:
            raise CheckpointError("it is missing")
        with storage.temporary_directory() as temporary:
            path = temporary / "checkpoint.h5"
            path.write_bytes(content)
            return checkpoint_state.read(path)
