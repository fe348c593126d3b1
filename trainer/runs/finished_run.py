"""Loads a finished run for inference: for `evaluate`, `predict`, `serve` and `export`.

The model is the run's SavedModel, which TensorFlow Serving loads too; the code that built it is not
needed. Each file is compared with its digest in the manifest before it is read.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import storage
from trainer.errors import DamagedRunError
from trainer.runs import filenames, manifest
from trainer.runtime import imports

if TYPE_CHECKING:
    from trainer.data.dataset import Array, Source
    from trainer.data.inputs import InputSignature


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A finished run with its settings and metrics; the model is not loaded yet.

    Attributes:
        path: path of the run directory, local or gs://.
        manifest: content of `manifest.json`.
        config: the settings, by name.
        metrics: content of `metrics.json`.
        input: kind, shape and dtype of the model's input.
        source: how the training data was read; None if a program made it.
        classes: class names.
    """

    path: str
    manifest: Mapping[str, Any] = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    metrics: Mapping[str, Any] = field(repr=False)
    input: InputSignature
    source: Source | None
    classes: tuple[str, ...]

    @property
    def batch_size(self) -> int:
        """The batch size in training, which is known to fit into memory."""
        return int(self.config["batch_size"])

    @contextlib.contextmanager
    def files(self, *names: str) -> Iterator[Path]:
        """Yields a local folder with a copy of files; a name with "/" at its end is a folder.

        Raises:
            DamagedRunError: a file is missing, or differs from the manifest.
        """
        with storage.temporary_directory() as folder:
            manifest.fetch(storage.folder(self.path), self.manifest, names, folder)
            yield folder


class Predictor:
    """Computes class probabilities of raw examples with a SavedModel; thread-safe."""

    def __init__(self, path: Path) -> None:
        """Loads the SavedModel at a local path."""
        # Else TensorFlow allocates all memory of a GPU that other processes may be using.
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        with imports.keras():
            import tensorflow as tf

            # Kept, since the signatures do not keep the loaded object alive.
            self._loaded: Any = tf.saved_model.load(str(path))
        self._signature: Any = self._loaded.signatures["serving_default"]
        (self._name,) = self._signature.structured_input_signature[1]
        (self._output,) = self._signature.structured_outputs

    def predict(self, examples: Array) -> Array:
        """Returns the class probabilities of a batch: float32 (N, classes).

        Args:
            examples: (N, ...), of the kind and shape of `FinishedRun.input`; N is at least 1.
        """
        from trainer.models import as_input

        inputs = {self._name: as_input(examples)}
        probabilities: Array = self._signature(**inputs)[self._output].numpy()
        return probabilities

    def graph(self, name: str, output: str) -> tuple[Any, Any]:
        """Returns the graph with renamed input and output, for conversion to other formats.

        Args:
            name: new name of the input.
            output: new name of the output.

        Returns:
            A tf.ConcreteFunction, and the object that owns its variables and tables.
        """
        import tensorflow as tf

        spec = self._signature.structured_input_signature[1][self._name]

        @tf.function(input_signature=[tf.TensorSpec(spec.shape, spec.dtype, name=name)])
        def predict(examples: Any) -> dict[str, Any]:
            return {output: self._signature(**{self._name: examples})[self._output]}

        return predict.get_concrete_function(), self._loaded


def read_run(path: str) -> FinishedRun:
    """Reads the manifest, settings and metrics of a finished run.

    Args:
        path: a run directory, local or gs://.

    Raises:
        StorageError: the directory holds no finished run.
        DamagedRunError: files differ from the manifest, or do not describe a model.
    """
    from trainer.data.dataset import Source
    from trainer.data.inputs import InputSignature

    folder = storage.folder(path)
    content = manifest.read(folder)
    with storage.temporary_directory() as temporary:
        manifest.fetch(folder, content, (filenames.CONFIG, filenames.METRICS), temporary)
        try:
            config, metrics = (
                json.loads((temporary / name).read_text("utf-8"))
                for name in (filenames.CONFIG, filenames.METRICS)
            )
            return FinishedRun(
                path=path,
                manifest=content,
                config=config,
                metrics=metrics,
                input=InputSignature.from_dict(metrics["input"]),
                source=metrics["source"] and Source.from_dict(metrics["source"]),
                classes=tuple(row["class"] for row in metrics["per_class"]),
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise DamagedRunError(
                f"{path}: {filenames.CONFIG} and {filenames.METRICS} do not describe the model: "
                f"{error!r}"
            ) from None


@contextlib.contextmanager
def load_model(run: FinishedRun) -> Iterator[Predictor]:
    """Yields the model of a run.

    Raises:
        DamagedRunError: a file of the model is missing, or differs from the manifest.
    """
    with run.files(f"{filenames.SAVED_MODEL}/") as folder:
        if not (folder / filenames.SAVED_MODEL).is_dir():
            raise DamagedRunError(f"{run.path}: no {filenames.SAVED_MODEL} in its manifest")
        yield Predictor(folder / filenames.SAVED_MODEL)
