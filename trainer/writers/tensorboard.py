"""Writes TensorBoard event files: settings, model summary, metrics of epochs, test results.

TensorBoard need not be installed. The messages for its HParams tab are encoded here by their field
numbers in TensorBoard's plugin_data.proto.
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
_UPLOAD_INTERVAL_S = 30.0  # Each upload to a bucket transfers the whole file.


class EventFile:
    """Event file with the history of a run; replaces the file of an earlier attempt.

    A local file is written in place, since TensorBoard reads it while it grows. For a bucket the
    file grows in a temporary folder, and is uploaded at intervals in the background.
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
        """Creates a file with the settings and a summary of the model.

        Args:
            folder: TensorBoard's log folder, local or gs://; may hold files of other runs.
            config: settings of the run; the file name contains a digest of `out`.
            model: model of the run.
            temporary_directory: an empty local folder.
            clock: monotonic clock, in seconds.
        """
        owner = hashlib.sha256(config.out.encode()).hexdigest()[:8]
        self._name = f"events.out.tfevents.{_now():.0f}.{owner}"
        self._folder = storage.folder(folder)
        self._remote = storage.is_remote(folder)
        self._temporary_directory = temporary_directory
        directory = temporary_directory if self._remote else Path(folder)
        with storage.translate_errors(folder):
            directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / self._name
        pattern = re.compile(rf"events\.out\.tfevents\.\d+\.{owner}")
        old_names = [name for name in self._folder.names() if pattern.fullmatch(name)]
        self._writer = tf.io.TFRecordWriter(str(self._path))
        self._write(Event(wall_time=_now(), file_version="brain.Event:2"))
        self._add(0, [*_log_errors(lambda: _model(model)), _session_start(config)])
        self._clock, self._uploaded_s = clock, clock() - _UPLOAD_INTERVAL_S
        self._uploads = concurrent.futures.ThreadPoolExecutor(1)
        self._upload: concurrent.futures.Future[None] | None = None
        self._written_epochs = 0
        for name in old_names:
            if name != self._name:
                self._folder.remove(name)

    def __call__(self, history: Sequence[Mapping[str, float]]) -> None:
        """Adds the epochs that are not in the file yet.

        Args:
            history: one row per finished epoch.
        """
        new = history[self._written_epochs :]
        ago_s = sum(row.get("seconds", 0.0) for row in new)
        for row in new:
            scalars = {_TAGS.get(name, name): value for name, value in row.items()}
            epoch = int(scalars.pop("epoch"))
            ago_s -= row.get("seconds", 0.0)
            self._add(epoch, _scalars(scalars), ago_s=ago_s)
        self._written_epochs = len(history)
        idle = self._upload is None or self._upload.done()
        if self._remote and idle and self._clock() - self._uploaded_s >= _UPLOAD_INTERVAL_S:
            self._uploaded_s = self._clock()
            copy = shutil.copyfile(self._path, self._temporary_directory / "copy")
            self._upload = self._uploads.submit(self._write_remote, copy)

    def close(self, result: Mapping[str, Any] | None = None) -> None:
        """Adds the test results and closes the file.

        Args:
            result: content of `metrics.json`; None if the run is not finished.
        """
        if result is not None:
            scalars = {f"{name}/test": value for name, value in result["test"].items()}
            image = _log_errors(lambda: _confusion(result))
            self._add(self._written_epochs, [*_scalars(scalars), *image, _session_end()])
        self._writer.close()
        self._uploads.shutdown()
        if self._remote:
            self._write_remote(self._path)

    def _add(self, epoch: int, values: Sequence[Summary.Value], *, ago_s: float = 0.0) -> None:
        summary = Summary(value=values)
        self._write(Event(wall_time=_now() - ago_s, step=epoch, summary=summary))

    def _write(self, event: Event) -> None:
        try:
            self._writer.write(event.SerializeToString())
            self._writer.flush()
        except tf.errors.OpError as error:
            raise StorageError(f"{self._path}: {error.message}") from error

    def _write_remote(self, path: Path) -> None:
        try:
            self._folder.write(self._name, path)
        except StorageError as error:  # Not fatal; the next upload contains the whole file.
            LOGGER.warning("TensorBoard events not uploaded: %s", error)


@contextlib.contextmanager
def event_file(
    folder: str | None, config: ResolvedConfig, model: keras.Model
) -> Iterator[EventFile | None]:
    """Yields the event file of a run, or None without a folder; closes it after an error.

    Args:
        folder: TensorBoard's log folder, local or gs://; None for no event file.
        config: settings of the run.
        model: model of the run.
    """
    if folder is None:
        yield None
        return
    with storage.temporary_directory() as temporary:
        file = EventFile(folder, config, model, temporary)
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
    """Writes the folder `tensorboard` of a finished run.

    Args:
        config: settings of the run.
        model: model of the run.
        history: one row per epoch.
        result: content of `metrics.json`.
        folder: local folder of the run's files.
    """
    with storage.temporary_directory() as temporary:
        file = EventFile(str(folder / filenames.TENSORBOARD), config, model, temporary)
        file(history)
        file.close(result)


def _scalars(values: Mapping[str, float]) -> list[Summary.Value]:
    return [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]


def _log_errors(make: Callable[[], Summary.Value]) -> list[Summary.Value]:
    """Returns the created value; an internal error is logged and does not fail the run."""
    try:
        return [make()]
    except Exception:
        LOGGER.exception("TensorBoard events: internal error; a summary is left out")
        return []


def _model(model: keras.Model) -> Summary.Value:
    """Returns the summary of the model's layers as a block of Markdown."""
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
    """Returns the settings that affect the result, for the HParams tab."""
    settings = result_settings(config)
    hparams = Struct()
    hparams.update({name: value for name, value in settings.items() if value is not None})
    # Field 3 of HParamsPluginData is SessionStartInfo; its field 1 is a map with the wire format
    # of a Struct.
    content = io.BytesIO()
    content.write(b"\x1a")
    proto.serialize_length_prefixed(hparams, content)
    return _hparams(_START, content.getvalue())


def _session_end() -> Summary.Value:
    """Returns the end of a session with status 1, success, in field 4 of HParamsPluginData."""
    return _hparams(_END, b"\x22\x02\x08\x01")


def _hparams(tag: str, content: bytes) -> Summary.Value:
    data = SummaryMetadata.PluginData(plugin_name="hparams", content=content)
    empty = tf.make_tensor_proto([], tf.float32, [0])
    return Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=data), tensor=empty)


def _now() -> float:
    return datetime.datetime.now(datetime.UTC).timestamp()
