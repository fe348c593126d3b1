"""TensorBoard's event files: settings, model, the figures of each epoch, and what came of it.

TensorBoard itself is not needed to write them. What its HParams tab reads are messages of its own;
their fields are written here by number, from its plugin_data.proto.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import datetime
import hashlib
import io
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from google.protobuf import proto
from google.protobuf.struct_pb2 import Struct
from tensorflow.core.framework.summary_pb2 import Summary, SummaryMetadata
from tensorflow.core.util.event_pb2 import Event

from trainer import storage
from trainer.config import ResolvedConfig, result_settings
from trainer.errors import StorageError
from trainer.runs import filenames
from trainer.runtime.log import LOGGER

_TAGS = {
    "loss": "loss/train",
    "val_loss": "loss/validation",
    "accuracy": "accuracy/train",
    "val_accuracy": "accuracy/validation",
}
_START, _END = "_hparams_/session_start_info", "_hparams_/session_end_info"
_EVERY_S = 30.0  # Between two uploads: a bucket takes the whole file each time.


class EventFile:
    """One file with the history of a run so far; that of an attempt before is replaced by it.

    TensorBoard follows a local file as it grows, so that one is written in its place; for a bucket
    it grows in a temporary_directory folder, and a copy is put there now and then, in the background.
    """

    def __init__(
        self,
        folder: str,
        config: ResolvedConfig,
        model: keras.Model,
        temporary_directory: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins a file with the settings and a summary of the model.

        Args:
            folder: where TensorBoard looks, local or gs://; other runs may have files there.
            config: of the run; from its run directory the file has its name.
            model: of the run.
            temporary_directory: an empty local folder.
            clock: seconds, rising.
        """
        owner = hashlib.sha256(config.out.encode()).hexdigest()[:8]
        self._name = f"events.out.tfevents.{_now():.0f}.{owner}"
        self._folder = storage.folder(folder)
        self._remote = storage.is_remote(folder)
        self._scratch = temporary_directory
        place = temporary_directory if self._remote else Path(folder)
        with storage.translate_errors(folder):
            place.mkdir(parents=True, exist_ok=True)
        self._path = place / self._name
        ours = re.compile(rf"events\.out\.tfevents\.\d+\.{owner}")
        earlier = [name for name in self._folder.names() if ours.fullmatch(name)]
        self._writer = tf.io.TFRecordWriter(str(self._path))
        self._write(Event(wall_time=_now(), file_version="brain.Event:2"))
        self._add(0, [*_unless_it_fails(lambda: _model(model)), _session_start(config)])
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
        new = history[self._written :]
        ago_s = sum(row.get("seconds", 0.0) for row in new)
        for row in new:
            figures = {_TAGS.get(name, name): value for name, value in row.items()}
            epoch = int(figures.pop("epoch"))
            ago_s -= row.get("seconds", 0.0)
            self._add(epoch, _scalars(figures), ago_s=ago_s)
        self._written = len(history)
        idle = self._upload is None or self._upload.done()
        if self._remote and idle and self._clock() - self._put_s >= _EVERY_S:
            self._put_s = self._clock()
            copy = shutil.copyfile(self._path, self._scratch / "copy")
            self._upload = self._uploads.submit(self._put, copy)

    def close(self, result: Mapping[str, Any] | None = None) -> None:
        """Ends the file.

        Args:
            result: what `metrics.json` holds; None if the run came to no end.
        """
        if result is not None:
            figures = {f"{name}/test": value for name, value in result["test"].items()}
            image = _unless_it_fails(lambda: _confusion(result))
            self._add(self._written, [*_scalars(figures), *image, _session_end()])
        self._writer.close()
        self._uploads.shutdown()
        if self._remote:
            self._put(self._path)

    def _add(self, epoch: int, values: Sequence[Summary.Value], *, ago_s: float = 0.0) -> None:
        summary = Summary(value=values)
        self._write(Event(wall_time=_now() - ago_s, step=epoch, summary=summary))

    def _write(self, event: Event) -> None:
        try:
            self._writer.write(event.SerializeToString())
            self._writer.flush()
        except tf.errors.OpError as error:
            raise StorageError(f"{self._path}: {error.message}") from error

    def _put(self, path: Path) -> None:
        try:
            self._folder.write(self._name, path)
        except StorageError as error:  # Nothing to lose a run for; the next one may go through.
            LOGGER.warning("TensorBoard is behind: %s", error)


@contextlib.contextmanager
def event_file(
    folder: str | None, config: ResolvedConfig, model: keras.Model
) -> Iterator[EventFile | None]:
    """Gives the event file of a run, or None if there is to be none; it is ended in any case.

    Takes what EventFile does.
    """
    if folder is None:
        yield None
        return
    with storage.temporary_directory() as place:
        file = EventFile(folder, config, model, place)
        try:
            yield file
        except BaseException:
            file.close()
            raise


def write(
    config: ResolvedConfig,
    model: keras.Model,
    history: Sequence[Mapping[str, float]],
    result: Mapping[str, Any],
    folder: Path,
) -> None:
    """Writes `tensorboard/` of a finished run into a local folder.

    Args:
        config: of the run.
        model: of the run.
        history: a row an epoch.
        result: what `metrics.json` holds.
        folder: where it goes.
    """
    with storage.temporary_directory() as place:
        file = EventFile(str(folder / filenames.TENSORBOARD), config, model, place)
        file(history)
        file.close(result)


def _scalars(figures: Mapping[str, float]) -> list[Summary.Value]:
    return [Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items()]


def _unless_it_fails(make: Callable[[], Summary.Value]) -> list[Summary.Value]:
    """Returns what is made; a defect in it is logged, and costs no run."""
    try:
        return [make()]
    except Exception:
        LOGGER.exception("TensorBoard's file goes without what could not be made for it")
        return []


def _model(model: keras.Model) -> Summary.Value:
    """Returns what the layers of a model are, as text: a block of Markdown."""
    lines: list[str] = []
    model.summary(print_fn=lines.append, expand_nested=True)
    return Summary.Value(
        tag="model",
        metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text")),
        tensor=tf.make_tensor_proto("\n".join(["```", *lines, "```"]), tf.string),
    )


def _confusion(result: Mapping[str, Any]) -> Summary.Value:
    """Returns the confusion matrix as an image."""
    from trainer.reports import charts

    classes = [row["class"] for row in result["per_class"]]
    png = charts.confusion(np.array(result["confusion"]), classes)
    image = Summary.Image(
        width=charts.SIDE, height=charts.SIDE, colorspace=4, encoded_image_string=png
    )
    return Summary.Value(tag="confusion", image=image)


def _session_start(config: ResolvedConfig) -> Summary.Value:
    """Returns the settings that decide the result, for the HParams tab."""
    settings = result_settings(config)
    hparams = Struct()
    hparams.update({name: value for name, value in settings.items() if value is not None})
    # Field 3 of what the plugin reads is a session's start, whose first field is such a map too.
    content = io.BytesIO()
    content.write(b"\x1a")
    proto.serialize_length_prefixed(hparams, content)
    return _hparams(_START, content.getvalue())


def _session_end() -> Summary.Value:
    """Returns that a session has ended well: status 1, in field 4 of what the plugin reads."""
    return _hparams(_END, b"\x22\x02\x08\x01")


def _hparams(tag: str, content: bytes) -> Summary.Value:
    data = SummaryMetadata.PluginData(plugin_name="hparams", content=content)
    nothing = tf.make_tensor_proto([], tf.float32, [0])
    return Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=data), tensor=nothing)


def _now() -> float:
    return datetime.datetime.now(datetime.UTC).timestamp()
