"""The model of a finished run, to be asked: what `evaluate`, `predict`, `serve` and `export` share.

It is the run's SavedModel, the very graph that TensorFlow Serving would load. It needs no code of
the model's, and no file is read that is not the one of the run's manifest.
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
    from trainer.data.dataset import Array
    from trainer.data.inputs import InputSignature


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A finished run, its small files read and checked; the model is not loaded yet.

    Attributes:
        run: the run directory, as it was given.
        manifest: of the run.
        config: its settings, by name.
        metrics: what `metrics.json` holds.
        input: what the model takes.
        classes: class names.
    """

    run: str
    manifest: Mapping[str, Any] = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    metrics: Mapping[str, Any] = field(repr=False)
    input: InputSignature
    classes: tuple[str, ...]

    @property
    def batch_size(self) -> int:
        """Examples that were in memory at once when it was trained, and so fit now."""
        return int(self.config["batch_size"])

    @contextlib.contextmanager
    def files(self, *wanted: str) -> Iterator[Path]:
        """Gives a local folder with files of the run; one that ends in "/" is all below it.

        Raises:
            DamagedRunError: one of them is missing, or not the one of the manifest.
        """
        with storage.temporary_directory() as folder:
            manifest.fetch(storage.folder(self.run), self.manifest, wanted, folder)
            yield folder


class Predictor:
    """From raw examples to class probabilities; may be called by several threads at once."""

    def __init__(self, path: Path) -> None:
        """Loads the SavedModel at a local path."""
        # Else TensorFlow would take all of a GPU's memory, which others may be using.
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        with imports.keras():
            import tensorflow as tf

            # What is loaded is let go of when nothing refers to it any more.
            self._loaded: Any = tf.saved_model.load(str(path))
        self._signature: Any = self._loaded.signatures["serving_default"]
        (self._name,) = self._signature.structured_input_signature[1]
        (self._output,) = self._signature.structured_outputs

    def predict(self, examples: Array) -> Array:
        """Returns the class probabilities of a batch: float32 (N, classes).

        Args:
            examples: (N, ...), as `InputSignature` makes them; at least one.
        """
        from trainer.models import as_input

        answer: Array = self._signature(**{self._name: as_input(examples)})[self._output].numpy()
        return answer

    def graph(self, name: str, output: str) -> tuple[Any, Any]:
        """Returns the graph with its input and output named so, for what converts it.

        Returns:
            A tf.ConcreteFunction, and the object that holds its variables and tables.
        """
        import tensorflow as tf

        taken = self._signature.structured_input_signature[1][self._name]

        @tf.function(input_signature=[tf.TensorSpec(taken.shape, taken.dtype, name=name)])
        def predict(examples: Any) -> dict[str, Any]:
            return {output: self._signature(**{self._name: examples})[self._output]}

        return predict.get_concrete_function(), self._loaded


def read_run(run: str) -> FinishedRun:
    """Reads what a finished run says of itself.

    Args:
        run: a run directory, local or gs://.

    Raises:
        StorageError: there is no finished run.
        DamagedRunError: its files are not those of its manifest, or say nothing of the model.
    """
    from trainer.data.inputs import InputSignature

    folder = storage.folder(run)
    described = manifest.read(folder)
    with storage.temporary_directory() as place:
        manifest.fetch(folder, described, (filenames.CONFIG, filenames.METRICS), place)
        try:
            config, metrics = (
                json.loads((place / name).read_text("utf-8"))
                for name in (filenames.CONFIG, filenames.METRICS)
            )
            return FinishedRun(
                run=run,
                manifest=described,
                config=config,
                metrics=metrics,
                input=InputSignature.read(metrics["input"]),
                classes=tuple(each["class"] for each in metrics["per_class"]),
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise DamagedRunError(
                f"{run}: {filenames.CONFIG} and {filenames.METRICS} do not describe the model: "
                f"{error!r}"
            ) from None


@contextlib.contextmanager
def load_model(trained: FinishedRun) -> Iterator[Predictor]:
    """Gives the model of a run.

    Raises:
        DamagedRunError: it is missing, or not the one of the manifest.
    """
    with trained.files(f"{filenames.SAVED_MODEL}/") as folder:
        if not (folder / filenames.SAVED_MODEL).is_dir():
            raise DamagedRunError(f"{trained.run}: no {filenames.SAVED_MODEL} in its manifest")
        yield Predictor(folder / filenames.SAVED_MODEL)
