"""The Python interface: `trainer.train(...)` and `trainer.load(...)` return a `Run`.

    import trainer

    run = trainer.train(model="image", data="pets/", out="runs/pets")
    print(run.metrics["test"]["accuracy"])
    for prediction in run.predict(["cat.jpg", "dog.jpg"]):
        print(prediction.label, prediction.confidence)

It does what the command line does, with the same files, defaults and exceptions
(`trainer.errors`), and never exits the process. Importing `trainer` imports neither this module nor
TensorFlow; the first use of a name does.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import html
import inspect
import itertools
import numbers
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import trainer.train as job
from trainer import storage
from trainer.config import Config, ResolvedConfig, check, check_path, option_specs, resolve
from trainer.distributed.cluster import read_cluster
from trainer.errors import DataError, UsageError
from trainer.runs import filenames
from trainer.runs.finished_run import FinishedRun, load_model, read_run
from trainer.runtime import imports, log
from trainer.task import NAMES

if TYPE_CHECKING:
    from trainer.data.dataset import Array
    from trainer.inference.predict.items import Item
    from trainer.runs.finished_run import Predictor

_Settings = ParamSpec("_Settings")
_Result = TypeVar("_Result")

# Keras and TensorFlow hold the state of a training in globals of the process.
_training = threading.Lock()


@dataclass(frozen=True)
class Prediction:
    """The prediction of a model for one example.

    Attributes:
        label: name of the most probable class.
        confidence: probability of that class, 0 to 1.
        probabilities: probability of each class by its name, in the order of the run's classes.
    """

    label: str
    confidence: float
    probabilities: dict[str, float]


class Report(str):
    """Path of a run's `report.html`, local or gs://; a notebook shows the page itself."""

    def _repr_html_(self) -> str:
        """Returns an inline frame with the page, which needs no file beside it."""
        page = html.escape(storage.read_text(str(self)))
        style = "width: 100%; height: 800px; border: 0"
        return f'<iframe srcdoc="{page}" style="{style}" sandbox="allow-popups"></iframe>'


class Run:
    """A finished run. `trainer.train` and `trainer.load` return it; its files are not changed.

    Methods may be called from several threads at once.
    """

    def __init__(self, finished_run: FinishedRun) -> None:
        """Wraps a finished run whose small files were read."""
        self._finished_run = finished_run
        self._lock = threading.Lock()
        self._predictor: Predictor | None = None

    def __repr__(self) -> str:
        """Returns the path, the model and the test accuracy."""
        examples = sum(row["support"] for row in self.metrics["per_class"])
        return (
            f"Run({self.path!r}: model {self._finished_run.config['model']}, test accuracy "
            f"{self.metrics['test']['accuracy']:.2%} of {examples:,} examples)"
        )

    @property
    def path(self) -> str:
        """The run directory: an absolute local path, or gs://bucket/path."""
        return self._finished_run.path

    @functools.cached_property
    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json`: quality on the test split, times, device and more."""
        return dict(self._finished_run.metrics)

    @functools.cached_property
    def history(self) -> list[dict[str, float]]:
        """The content of `history.csv`: the metrics of each epoch, first to last.

        Keys are `epoch` (from 1), `loss`, `accuracy`, `seconds`, `examples_per_second` and, with a
        validation split, `val_loss` and `val_accuracy`.

        Raises:
            DamagedRunError: the file is missing, or differs from the manifest.
        """
        from trainer.runs import metrics

        with self._finished_run.files(filenames.HISTORY) as folder:
            return metrics.read_history(folder)

    @functools.cached_property
    def config(self) -> ResolvedConfig:
        """The settings of the run, with nothing left open: the content of `config.json`.

        `trainer.train(config=f"{run.path}/config.json", epochs=20)` trains with the same settings
        but for the number of epochs.
        """
        labels = {each.name: f"{self.path}/config.json: {each.name}" for each in _OPTIONS}
        return check(ResolvedConfig, self._finished_run.config, labels=labels)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the model's outputs."""
        return self._finished_run.classes

    @property
    def report(self) -> Report:
        """Path of `report.html`; as the last line of a notebook's cell it shows the page."""
        return Report(f"{self.path}/{filenames.REPORT}")

    def predict(self, examples: Iterable[Any]) -> list[Prediction]:
        """Returns the model's prediction for each example, in order.

        The first call loads the model, which takes seconds; the Run then keeps it.

        Args:
            examples: a list or another iterable of examples, or an array with one example a row.
                For a model of images an example is an array, a nested list or a PIL image of the
                model's shape, (H, W, C), or (H, W) for one channel; or the path of an image file,
                local or gs://, as str or os.PathLike, which is resized as in training. For a model
                of texts it is a str; for a model of vectors, an array or list of numbers.

        Raises:
            UsageError: `examples` is a single text or path and not a list.
            DataError: an example cannot be read or does not fit the model; the message gives its
                index, from 0. Nothing is returned for the others.
            StorageError: the storage failed while an image was read.
            DamagedRunError: the model's files are missing or differ from the manifest.
        """
        import numpy as np

        from trainer.inference.predict import batches

        if isinstance(examples, str | bytes | os.PathLike) or not isinstance(examples, Iterable):
            raise UsageError(
                f"predict: found {type(examples).__name__}, expected a list of examples; for one "
                "example, a list of one"
            )
        if hasattr(examples, "__array__"):
            examples = np.atleast_1d(np.asarray(examples))  # Rows, also of a pandas DataFrame.
        several_files = self._finished_run.input.kind == "image" and isinstance(examples, list)
        run_each = storage.concurrent_map if several_files else map
        items = run_each(self._read, enumerate(examples))
        return [
            self._prediction(probabilities)
            for batch in batches.batches(items, self._finished_run.batch_size)
            for probabilities in self._predict_batch(batch)
        ]

    def _read(self, numbered: tuple[int, Any]) -> Item:
        from trainer.inference.predict.items import Item

        index, example = numbered
        try:
            return Item(f"example {index}", self._to_example(example))
        except DataError as error:
            raise DataError(f"example {index}: {error}") from None

    def _to_example(self, example: Any) -> Array:
        """Returns one example in the shape and dtype of the model's input."""
        import numpy as np

        from trainer.data.instances import InstanceReader

        signature = self._finished_run.input
        if signature.kind == "image" and isinstance(example, str | os.PathLike):
            return self._read_image(os.fspath(example))
        if isinstance(example, np.str_):
            example = str(example)
        array_like = hasattr(example, "__array__") or hasattr(example, "__array_interface__")
        if array_like or isinstance(example, list | tuple):
            if signature.kind == "text":
                raise DataError(f"found {type(example).__name__}, expected {signature.expected()}")
            try:
                return signature.from_numbers(np.asarray(example))
            except ValueError:
                raise DataError(
                    f"found lists of unequal lengths, expected {signature.expected()}"
                ) from None
        return InstanceReader.of(signature, self._finished_run.source).read(example)

    def _read_image(self, path: str) -> Array:
        from trainer.inference.predict.reader import STDIN, Reader

        reader = Reader(self._finished_run.input)
        local = check_path("predict", path)
        local = f"./{path}" if path == STDIN else local  # A file of that name, not stdin.
        items = list(itertools.islice(reader.items([local]), 2))
        if len(items) != 1 or items[0] is None:
            raise DataError(f"{path}: found several examples, expected one image file")
        if items[0].example is None:
            raise DataError(f"{path}: {items[0].error}")
        return items[0].example

    def _predict_batch(self, batch: Sequence[Item]) -> Array:
        examples = [item.example for item in batch if item.example is not None]
        return self._load_predictor().predict(self._finished_run.input.stack(examples))

    def _load_predictor(self) -> Predictor:
        with self._lock:
            if self._predictor is None:
                # TensorFlow logs by absl, which configures the root logger if nobody has.
                with log.fallback_handler("text"):
                    _open_devices()
                    with load_model(self._finished_run) as self._predictor:
                        pass  # In memory from here on.
            return self._predictor

    def _prediction(self, probabilities: Array) -> Prediction:
        index = int(probabilities.argmax())
        values = probabilities.tolist()
        return Prediction(
            self.classes[index], values[index], dict(zip(self.classes, values, strict=True))
        )


def _with_parameters_of(
    constructor: Callable[_Settings, Config],
) -> Callable[[Callable[..., _Result]], Callable[_Settings, _Result]]:
    """Gives a function the keyword parameters of `Config`, for type checkers and for `help()`."""

    def decorate(function: Callable[..., _Result]) -> Callable[_Settings, _Result]:
        keyword_only = inspect.Parameter.KEYWORD_ONLY
        function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(each.name, keyword_only, default=each.default) for each in _OPTIONS],
            return_annotation="Run",
        )
        lines = [f"            {each.name}: {each.help.format(**NAMES)}" for each in _OPTIONS]
        function.__doc__ = (function.__doc__ or "").replace(
            "            {settings}", "\n".join(lines)
        )
        return function

    return decorate


_OPTIONS = option_specs(Config)


@_with_parameters_of(Config)
def train(*_unnamed: Any, **settings: Any) -> Run:
    """Trains a model, writes its run directory, and returns the finished run.

    The settings are those of the command line, by the same names with `_` for `-`; error messages
    name a setting by its flag, `--batch-size` for `batch_size`. The weights are bit-identical to
    those of `trainer train` with the same settings, unless TensorFlow already computed something in
    this process. A run that was interrupted resumes from its latest checkpoint when the same call
    is repeated; a run that is finished is returned at once.

    The log goes where the program's logging sends it; without any, to stderr, one line an epoch,
    or a progress bar on a terminal. Random generators of Python, NumPy and Keras are seeded, and
    Keras's session is cleared. In the main thread, SIGTERM saves a checkpoint and then raises
    StoppedError. A process trains one model at a time.

    Args:
        **settings: the settings to change, by name:
            {settings}

    Returns:
        The finished run.

    Raises:
        UsageError: an unknown setting, one without a name, or a value that cannot work.
        DataError: the data is missing, damaged, or does not fit the model.
        DeviceError: the device is missing, cannot be opened, or is out of memory.
        RunExistsError: `out` holds another run, or another process is training it.
        StorageError: a path cannot be read or written.
        DivergedError: the loss is not finite any more.
        StoppedError: SIGTERM stopped the training; a checkpoint is saved.
    """
    if _unnamed:
        raise UsageError(
            f"train: found {_unnamed[0]!r} without a name, expected settings by name, such as "
            'model="mlp"'
        )
    config = _check_settings(settings)
    if not _training.acquire(blocking=False):
        raise UsageError(
            "train: another thread of this process is training, expected one training at a time; "
            "wait for it, or train in another process"
        )
    try:
        with log.fallback_handler(config.log), _keras_session():
            return load(job.run(config))
    finally:
        _training.release()


if TYPE_CHECKING:

    class _TrainModule:
        """The type of `trainer.train`: the function `train` and the module `trainer.train`."""

        __call__ = staticmethod(train)
        run = staticmethod(job.run)
        follow = staticmethod(job.follow)

    train_module = _TrainModule()


def load(path: str | os.PathLike[str], *, billing_project: str | None = None) -> Run:
    """Returns a finished run, to look at its results and to predict; the model is loaded later.

    Args:
        path: its run directory, local or gs://bucket/path.
        billing_project: Google Cloud project that pays for the requests of this process from now
            on, for a bucket whose reader pays.

    Raises:
        StorageError: there is no finished run.
        DamagedRunError: its files differ from its manifest, or do not describe the model.
        UsageError: the path is empty, no text, or has a scheme other than gs://.
    """
    name = os.fspath(path)
    if not isinstance(name, str) or not name:
        raise UsageError(f"load: found {path!r}, expected the path of a run directory")
    name = check_path("load", name)
    storage.set_billing_project(billing_project)
    # So that the run is still found when the program changes its working directory.
    return Run(read_run(name.rstrip("/") if storage.is_remote(name) else os.path.abspath(name)))


def _check_settings(settings: dict[str, Any]) -> Config:
    """Returns the checked settings of one run in this process.

    Raises:
        UsageError: an unknown setting, a wrong value, or a setting that needs the command line.
    """
    names = [each.name for each in _OPTIONS]
    for name in settings.keys() - set(names):
        near = difflib.get_close_matches(name.replace("-", "_"), names, n=1, cutoff=0.75)
        hint = f"Did you mean {near[0]}?" if near else f"Expected one of: {', '.join(names)}"
        raise UsageError(f"Unknown setting {name!r}. {hint}")
    values = {name: _plain(value) for name, value in settings.items() if value is not None}
    file_text = None
    storage.set_billing_project(values.get("billing_project"))
    if "config" in values:
        file_text = storage.read_text(check_path("config", str(values["config"])))
    config = resolve(values, file_text, os.environ)
    storage.set_billing_project(config.billing_project)
    if config.dry_run:
        raise UsageError("dry_run: returns no run; use the command, trainer train --dry-run")
    if config.folds and not config.fold:
        raise UsageError(
            "folds: requires fold, from 1, which is trained; trainer train --folds trains all folds"
        )
    if read_cluster(os.environ) is not None:
        raise UsageError("TF_CONFIG: found several workers, expected one; use trainer train there")
    return config


def _plain(value: Any) -> Any:
    """Returns a path as str, and a NumPy number as Python's."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, numbers.Integral) and not isinstance(value, int):
        return int(value)
    if isinstance(value, numbers.Real) and not isinstance(value, int | float):
        return float(value)
    return value


@contextlib.contextmanager
def _keras_session() -> Iterator[None]:
    """Frees models before and after; layer names count from 0 within, as in a new process."""
    _clear_session()
    try:
        yield
    finally:
        _clear_session()


def _clear_session() -> None:
    if "keras" in sys.modules:
        from trainer.engine import model_builder

        model_builder.clear_session()


def _open_devices() -> None:
    """Sets TensorFlow's threads as training does, since they cannot be changed later."""
    with imports.keras():
        import tensorflow as tf

        from trainer.distributed import devices

        if not tf.config.list_physical_devices("GPU"):
            devices.set_cpu_threads()
