"""Checkpoints of an unfinished run, in `checkpoints/` of its run directory: the last two of them.

A checkpoint is a new file under a name of its own; then `latest.json` is put in place of the one
before it, and only then an older checkpoint is removed. So at every instant there is a whole checkpoint
that `latest.json` names. It is written in the background: training waits for a copy in memory
alone.
"""

from __future__ import annotations

import concurrent.futures
import json
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from trainer import storage
from trainer.checkpoint import state as checkpoint_state
from trainer.checkpoint.state import Checkpoint, CheckpointError
from trainer.errors import TransientStorageError
from trainer.runs.lease import Lease
from trainer.runtime.log import LOGGER

_POINTER = "latest.json"
_KEPT = 2
_MAX_SHARE = 0.02  # Of the time, for checkpoints at the ends of epochs.


class CheckpointManager:
    """Keeps the checkpoints of one run."""

    def __init__(
        self,
        folder: str,
        lease: Lease,
        *,
        every_s: float,
        every_steps: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keeps checkpoints in `folder`, local or gs://; nothing is read or written yet.

        Args:
            folder: where they are.
            lease: must still be held when a checkpoint is made the latest.
            every_s: seconds between two checkpoints.
            every_steps: steps between two checkpoints; None leaves it to the seconds.
            clock: seconds, rising.
        """
        self._every_steps = every_steps
        self._folder = storage.folder(folder)
        self._lease, self._every_s, self._clock = lease, every_s, clock
        self._kept: list[str] = []  # Names, the latest first.
        self._generation = 0  # Of the pointer, as this job left it.
        self._last_s, self._steps, self._due = clock(), 0, False
        self._cost_s = 0.0
        self._writer = concurrent.futures.ThreadPoolExecutor(1)
        self._writing: concurrent.futures.Future[None] | None = None

    def latest(self) -> Checkpoint | None:
        """Returns the newest checkpoint that is whole, or None if there is none at all.

        Raises:
            CheckpointError: there are checkpoints, and none of them is whole.
        """
        self._generation = self._folder.generation(_POINTER)
        pointer = self._folder.read(_POINTER)
        if pointer is None:
            return None
        try:
            self._kept = [str(name) for name in json.loads(pointer)["checkpoints"]]
        except (ValueError, KeyError, TypeError):
            self._kept = [name for name in self._folder.names() if name.endswith(".h5")]
            LOGGER.warning("%s/%s is damaged", self._folder.path, _POINTER)
        for name in list(self._kept):
            try:
                return self._read(name)
            except CheckpointError as error:
                LOGGER.warning("%s/%s: %s; going on without it", self._folder.path, name, error)
                self._kept.remove(name)
        raise CheckpointError(
            f"{self._folder.path}: no checkpoint is whole; --resume never "
            "with --overwrite starts anew"
        )

    def last_good(self) -> str:
        """Says which checkpoint is the latest, for a message."""
        return f"{self._folder.path}/{self._kept[0]}" if self._kept else "none"

    def maybe_save(self, capture: Callable[[], Checkpoint], *, steps: int, epoch_end: bool) -> None:
        """Takes a checkpoint if it is time for one; an earlier one still being written puts it off.

        Args:
            capture: copies the state.
            steps: that were done since the last offer.
            epoch_end: whether an epoch ended, which is a time for one, unless epochs are so short
                that checkpoints would take more than 2 % of the time.

        Raises:
            StorageError: an earlier checkpoint could not be written, and trying again is no use.
        """
        self._steps += steps
        passed_s = self._clock() - self._last_s
        self._due |= passed_s >= self._every_s
        self._due |= epoch_end and passed_s * _MAX_SHARE >= self._cost_s
        self._due |= self._every_steps is not None and self._steps >= self._every_steps
        if self._due and (self._writing is None or self._writing.done()):
            self._finish_writing()
            started = self._clock()
            checkpoint = capture()
            self._last_s, self._steps, self._due = self._clock(), 0, False
            self._writing = self._writer.submit(self._write, checkpoint, self._last_s - started)

    def steps_until_save(self) -> int | None:
        """Returns the steps until a checkpoint is due; None if only the seconds count."""
        if self._every_steps is None:
            return None
        return max(1, self._every_steps - self._steps)

    def save(self, checkpoint: Checkpoint) -> str:
        """Writes a checkpoint now, and returns its path when it is safe.

        Raises:
            StorageError: it could not be written.
        """
        self._finish_writing()
        self._write(checkpoint)
        return self.last_good()

    def close(self) -> None:
        """Waits for what is being written."""
        self._writer.shutdown()

    def _finish_writing(self) -> None:
        if self._writing is not None:
            try:
                self._writing.result()
            except (
                TransientStorageError
            ) as error:  # The next one may go through; the last good one is there.
                LOGGER.warning("no checkpoint this time: %s", error)
            self._writing = None

    def _write(self, checkpoint: Checkpoint, capture_s: float = 0.0) -> None:
        started = time.thread_time()
        name = f"{uuid.uuid4().hex}.h5"
        with storage.temporary_directory() as place:
            path = place / name
            checkpoint_state.write(checkpoint, path)
            self._folder.write(name, path, if_generation_match=0)
            self._lease.check()
            kept = [name, *self._kept[: _KEPT - 1]]
            pointer = place / _POINTER
            pointer.write_text(json.dumps({"checkpoints": kept}))
            self._generation = self._folder.write(
                _POINTER, pointer, if_generation_match=self._generation
            )
        self._kept = kept
        # Those before, and what an attempt left behind that was killed in between.
        for other in self._folder.names():
            if other not in (*kept, _POINTER):
                self._folder.remove(other)
        # What it takes from the cores: to wait for a disk or a bucket takes nothing from training.
        self._cost_s = capture_s + time.thread_time() - started

    def _read(self, name: str) -> Checkpoint:
        content = self._folder.read(name)
        if content is None:
            raise CheckpointError("it is missing")
        with tempfile.NamedTemporaryFile(suffix=".h5") as file:
            file.write(content)
            file.flush()
            return checkpoint_state.read(Path(file.name))
