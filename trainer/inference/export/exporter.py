"""Exports a run's model to a format, and checks the result before it is written anywhere.

The module of a format has

- `SUFFIX`, the default suffix of its files;
- `PACKAGES`, the packages it needs besides those for training;
- `INPUT_KINDS`, the kinds of input for which the format can include the preprocessing;
- `RUN_FILES`, the files of the run that `write` needs; a name that ends in "/" is a folder;
- `write(source, path)`, which writes the file or folder to a local path;
- `load(path, kind)`, which loads it with the format's own runtime, and returns a function from raw
  examples (N, ...) to class probabilities, float32 (N, classes).

The outputs of the loaded file must match those of the run's own graph.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import storage
from trainer.errors import ExportMismatchError, TrainerError, UsageError
from trainer.runs.finished_run import Predictor
from trainer.runtime import imports
from trainer.runtime.log import suppress_output

if TYPE_CHECKING:
    from trainer.data.dataset import Array, Dataset, Split
    from trainer.inference.export.destination import Destination
    from trainer.inference.export.output_comparison import OutputComparison
    from trainer.runs.finished_run import FinishedRun

    Predict = Callable[[Array], Array]

FORMATS = {
    "saved_model": "trainer.inference.export.saved_model",
    "onnx": "trainer.inference.export.onnx",
    "litert": "trainer.inference.export.litert",
    "keras": "trainer.inference.export.keras",
    "h5": "trainer.inference.export.h5",
}

_COMPARED_EXAMPLES = 1000  # On which a file in 32 bits is compared with the run.
_TOLERANCE = 1e-4  # Maximum difference of a probability.
# In 8 bits, rounding changes some predictions; below this fraction of equal ones, the file is bad.
_MIN_SAME_CLASS = 0.9
_CALIBRATION_EXAMPLES = 500  # Which set the ranges of 8-bit numbers.


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """Input of a format's `write`.

    Attributes:
        run: the run.
        files: local folder with the format's `RUN_FILES`.
        model: the run's own graph.
        representative: training examples (N, ...) that determine the scales of 8-bit values; None
            for a file in 32 bits.
    """

    run: FinishedRun
    files: Path
    model: Predictor
    representative: Array | None = field(repr=False)


@dataclass(frozen=True)
class ExportResult:
    """The result of an export.

    Attributes:
        size_bytes: total size of the written files.
        comparison: comparison of its outputs with those of the run's own graph.
    """

    size_bytes: int
    comparison: OutputComparison


def find(name: str) -> Any:
    """Returns the module of a format.

    Raises:
        UsageError: a package of the format is not installed.
    """
    module = importlib.import_module(FORMATS[name])
    missing = [package for package in module.PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise UsageError(
            f"--format {name}: needs {', '.join(missing)}, which is not installed; run pip install "
            "'.[export]' in a checkout"
        )
    return module


def check_kind(name: str, kind: str) -> None:
    """Raises UsageError if a format cannot include the preprocessing of this kind of input."""
    if kind in find(name).INPUT_KINDS:
        return
    others = [
        each for each in FORMATS if kind in importlib.import_module(FORMATS[each]).INPUT_KINDS
    ]
    raise UsageError(
        f"--format {name}: found a model with {kind} input, which this format does not support, "
        f"expected one of: {', '.join(others)}"
    )


def export(
    run: FinishedRun, name: str, data: Dataset, destination: Destination, *, int8: bool = False
) -> ExportResult:
    """Converts a run's model, loads the result, compares its outputs, and only then writes it.

    Args:
        run: a finished run.
        name: name of the format.
        data: the data of the run.
        destination: where to write the result.
        int8: whether to quantize weights and activations to 8 bits (LiteRT only).

    Raises:
        DamagedRunError: files of the run differ from its manifest.
        UsageError: the format does not support an operator of the model.
        ExportMismatchError: the outputs differ from those of the run's own graph.
    """
    from trainer.inference.export import output_comparison
    from trainer.runs import filenames

    module = find(name)
    test = data.test if int8 else output_comparison.sample(data.test, _COMPARED_EXAMPLES)
    with (
        storage.temporary_directory() as temporary,
        run.files(f"{filenames.SAVED_MODEL}/", *module.RUN_FILES) as files,
    ):
        _use_cpu_in_float32()
        model = Predictor(files / filenames.SAVED_MODEL)
        source = ExportSource(
            run=run,
            files=files,
            model=model,
            representative=output_comparison.sample(data.train, _CALIBRATION_EXAMPLES).array
            if int8
            else None,
        )
        path = temporary / f"model{module.SUFFIX}"
        expected = output_comparison.predict_in_batches(model.predict, test.array, run.batch_size)
        outputs = _convert(name, module, source, path, test)
        comparison = output_comparison.compare(expected, outputs, test.labels)
        _check(name, comparison, int8=int8)
        destination.write(path)
        return ExportResult(size_bytes=_size(path), comparison=comparison)


def _convert(name: str, module: Any, source: ExportSource, path: Path, test: Split) -> Array:
    """Writes the file, loads it, and returns its outputs for the test examples."""
    from trainer.inference.export import output_comparison

    try:
        with suppress_output():
            module.write(source, path)
            predict: Predict = module.load(path, source.run.input.kind)
            return output_comparison.predict_in_batches(predict, test.array, source.run.batch_size)
    except (TrainerError, OSError, MemoryError, AttributeError, NameError):
        raise  # Not the model's fault; an internal error needs its traceback.
    except Exception as error:  # Each converter and runtime has error classes of its own.
        raise UsageError(
            f"--format {name}: this format does not support the model: {_reason(error)}"
        ) from error


def _check(name: str, comparison: OutputComparison, *, int8: bool) -> None:
    if int8:
        if not comparison.same_class >= _MIN_SAME_CLASS:
            raise ExportMismatchError(
                "--quantize int8: found the class of the run's model for "
                f"{comparison.same_class:.1%} of {comparison.examples:,} examples, expected at "
                f"least {_MIN_SAME_CLASS:.0%}; no file was written"
            )
    elif not comparison.difference <= _TOLERANCE:
        raise ExportMismatchError(
            f"--format {name}: found probabilities that differ by up to "
            f"{comparison.difference:.2g} from those of the run's model on "
            f"{comparison.examples:,} examples, expected at most {_TOLERANCE:g}; no file was "
            "written"
        )


def _use_cpu_in_float32() -> None:
    """Makes TensorFlow ignore GPUs, which another job may need, and their TensorFloat-32."""
    with imports.keras():
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
        with contextlib.suppress(RuntimeError):  # GPUs are initialized already.
            tf.config.set_visible_devices([], "GPU")


def _reason(error: Exception) -> str:
    """Returns the reason from the error of a converter or runtime, as part of a line."""
    text = str(error)
    # LiteRT's converter lists unsupported operators; Keras names the class within a long text.
    operators = sorted(set(re.findall(r"'(tf\.\w+)' op is neither", text)))
    if operators:
        return ", ".join(operators)
    unknown = re.search(r"(?:Could not locate class|Unknown layer:) '([^']+)'", text)
    if unknown:
        return f"cannot import the module of {unknown[1]}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rpartition("error: ")[2][:300]


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(file.stat().st_size for file in files)
