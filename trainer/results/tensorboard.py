"""TensorBoard's event files: the figures of each epoch, while the run goes on."""

from __future__ import annotations

import contextlib
import datetime
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow as tf
from tensorflow.core.framework.summary_pb2 import Summary
from tensorflow.core.util.event_pb2 import Event

from trainer import storage
from trainer.errors import StorageError
from trainer.log import LOGGER

_OURS = re.compile(r"events\.out\.tfevents\.\d+\.trainer")
_TAGS = {
    "loss": "loss/train",
    "val_loss": "loss/validation",
    "accuracy": "accuracy/train",
    "val_accuracy": "accuracy/validation",
}
_EVERY_S = 30.0  # Between two uploads: a bucket takes the whole file each time.


class EventFile:
    """One file with the history of a run so far; a file of an attempt before is replaced by it.

    TensorBoard follows a local file as it grows, so that one is written in its place; for a bucket
    it grows in a scratch folder and is put there now and then.
    """

    def __init__(
        self, folder: str, scratch: Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begins a file.

        Args:
            folder: where TensorBoard looks, local or gs://.
            scratch: an empty local folder.
            clock: seconds, rising.
        """
        self._name = f"events.out.tfevents.{_now():.0f}.trainer"
        self._folder = storage.folder(folder)
        self._remote = storage.is_remote(folder)
        place = scratch if self._remote else Path(folder)
        with storage.explained(folder):
            place.mkdir(parents=True, exist_ok=True)
        self._path = place / self._name
        earlier = [name for name in self._folder.names() if _OURS.fullmatch(name)]
        self._writer = tf.io.TFRecordWriter(str(self._path))
        self._write(Event(wall_time=_now(), file_version="brain.Event:2"))
        self._clock, self._put_s = clock, clock() - _EVERY_S
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
        if self._clock() - self._put_s >= _EVERY_S:
            self._put()

    def close(self, test: Mapping[str, float] | None = None) -> None:
        """Ends the file, with the figures of the final test if there are any."""
        if test is not None:
            self._add(self._written, {f"{name}/test": value for name, value in test.items()})
        self._writer.close()
        self._put()

    def _add(self, epoch: int, figures: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items()]
        self._write(Event(wall_time=_now(), step=epoch, summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        try:
            self._writer.write(event.SerializeToString())
            self._writer.flush()
        except tf.errors.OpError as error:
            raise StorageError(f"{self._path}: {error.message}") from error

    def _put(self) -> None:
        self._put_s = self._clock()
        if self._remote:
            try:
                self._folder.put(self._name, self._path)
            except StorageError as error:  # Nothing to lose a run for; the next one may go through.
                LOGGER.warning("TensorBoard is behind: %s", error)


@contextlib.contextmanager
def event_file(folder: str | None) -> Iterator[EventFile | None]:
    """Gives the event file of a run, or None if there is to be none; it is ended in any case."""
    if folder is None:
        yield None
        return
    with storage.scratch() as place:
        file = EventFile(folder, place)
        try:
            yield file
        except BaseException:
            file.close()
            raise


def _now() -> float:
    return datetime.datetime.now(datetime.UTC).timestamp()
