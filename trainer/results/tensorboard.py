"""TensorBoard's event files: the figures of each epoch, while the run goes on."""

from __future__ import annotations

import concurrent.futures
import contextlib
import datetime
import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow as tf
from tensorflow.core.framework.summary_pb2 import Summary
from tensorflow.core.util.event_pb2 import Event

from trainer import storage
from trainer.errors import StorageError
from trainer.log import LOGGER

_TAGS = {
    "loss": "loss/train",
    "val_loss": "loss/validation",
    "accuracy": "accuracy/train",
    "val_accuracy": "accuracy/validation",
}
_EVERY_S = 30.0  # Between two uploads: a bucket takes the whole file each time.


class EventFile:
    """One file with the history of a run so far; that of an attempt before is replaced by it.

    TensorBoard follows a local file as it grows, so that one is written in its place; for a bucket
    it grows in a scratch folder, and a copy is put there now and then, in the background.
    """

    def __init__(
        self, folder: str, run: str, scratch: Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begins a file.

        Args:
            folder: where TensorBoard looks, local or gs://; other runs may have files there.
            run: the run directory, from which the file has its name.
            scratch: an empty local folder.
            clock: seconds, rising.
        """
        owner = hashlib.sha256(run.encode()).hexdigest()[:8]
        self._name = f"events.out.tfevents.{_now():.0f}.{owner}"
        self._folder = storage.folder(folder)
        self._remote = storage.is_remote(folder)
        self._scratch = scratch
        place = scratch if self._remote else Path(folder)
        with storage.explained(folder):
            place.mkdir(parents=True, exist_ok=True)
        self._path = place / self._name
        ours = re.compile(rf"events\.out\.tfevents\.\d+\.{owner}")
        earlier = [name for name in self._folder.names() if ours.fullmatch(name)]
        self._writer = tf.io.TFRecordWriter(str(self._path))
        self._write(Event(wall_time=_now(), file_version="brain.Event:2"))
        self._clock, self._put_s = clock, clock() - _EVERY_S
        self._uploads = concurrent.futures.ThreadPoolExecutor(1)
        self._upload: concurrent.futures.Future[None] | None = None
        self._written = 0
        for name in earlier:
            if name != self._name:
                self._folder.remove(name)

    def __call__(self, history: Sequence[Mapping[str, float]]) -> None:
        """Adds the epochs that are new.

        Args:
            history: a row for each epoch that is over.
        """
        for row in history[self._written :]:
            figures = {_TAGS.get(name, name): value for name, value in row.items()}
            self._add(int(figures.pop("epoch")), figures)
        self._written = len(history)
        idle = self._upload is None or self._upload.done()
        if self._remote and idle and self._clock() - self._put_s >= _EVERY_S:
            self._put_s = self._clock()
            copy = shutil.copyfile(self._path, self._scratch / "copy")
            self._upload = self._uploads.submit(self._put, copy)

    def close(self, test: Mapping[str, float] | None = None) -> None:
        """Ends the file, with the figures of the final test if there are any."""
        if test is not None:
            self._add(self._written, {f"{name}/test": value for name, value in test.items()})
        self._writer.close()
        self._uploads.shutdown()
        if self._remote:
            self._put(self._path)

    def _add(self, epoch: int, figures: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items()]
        self._write(Event(wall_time=_now(), step=epoch, summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        try:
            self._writer.write(event.SerializeToString())
            self._writer.flush()
        except tf.errors.OpError as error:
            raise StorageError(f"{self._path}: {error.message}") from error

    def _put(self, path: Path) -> None:
        try:
            self._folder.put(self._name, path)
        except StorageError as error:  # Nothing to lose a run for; the next one may go through.
            LOGGER.warning("TensorBoard is behind: %s", error)


@contextlib.contextmanager
def event_file(folder: str | None, run: str) -> Iterator[EventFile | None]:
    """Gives the event file of a run, or None if there is to be none; it is ended in any case.

    Takes what EventFile does.
    """
    if folder is None:
        yield None
        return
    with storage.scratch() as place:
        file = EventFile(folder, run, place)
        try:
            yield file
        except BaseException:
            file.close()
            raise


def _now() -> float:
    return datetime.datetime.now(datetime.UTC).timestamp()
