"""A run's model in another format: one file a format, one line here.

Each module has

- `SUFFIX`, what its files are called by default;
- `NEEDS`, packages that it takes besides those of training;
- `KINDS`, kinds of input that the format can hold raw;
- `OF_RUN`, which files of the run it is made of; one that ends in "/" stands for all below it;
- `write(source, path)`, which makes the file or folder at a local path;
- `load(path, kind)`, which loads it by the format's own runtime and returns a function from raw
  examples (N, ...) to class probabilities, float32 (N, classes).

What is loaded so must agree with the run's own graph before anything is left anywhere.
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
from trainer.runtime.log import output_hidden

if TYPE_CHECKING:
    from trainer.data.dataset import Array, Dataset, Split
    from trainer.inference.export.destination import Destination
    from trainer.inference.export.output_comparison import OutputComparison
    from trainer.runs.finished_run import FinishedRun, Predictor

    Predict = Callable[[Array], Array]

FORMATS = {
    "saved_model": "trainer.inference.export.saved_model",
    "onnx": "trainer.inference.export.onnx",
    "litert": "trainer.inference.export.litert",
    "keras": "trainer.inference.export.keras",
    "h5": "trainer.inference.export.h5",
}

OUTPUT = "probabilities"  # What the output is called where the format is ours to name.

_EXAMPLES = 1000
_TOLERANCE = 1e-4
# A file in 8 bits rounds; what says otherwise more often than this is broken.
_MIN_SAME = 0.9
_REPRESENTATIVE = 500


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """What a format is made of.

    Attributes:
        run: the run.
        files: local folder with those files of the run that the format is made of.
        model: the run's own graph.
        representative: training examples by which values are scaled to 8 bits, (N, ...); None for a
            file in 32 bits.
    """

    run: FinishedRun
    files: Path
    model: Predictor
    representative: Array | None = field(repr=False)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        size_bytes: of all its files.
        comparison: of its answers with those of the run's own graph.
    """

    size_bytes: int
    comparison: OutputComparison


def find(name: str) -> Any:
    """Returns the module of a format.

    Raises:
        UsageError: a package that it needs is not installed.
    """
    module = importlib.import_module(FORMATS[name])
    missing = [package for package in module.NEEDS if importlib.util.find_spec(package) is None]
    if missing:
        raise UsageError(
            f"--format {name}: needs {', '.join(missing)}, not installed; pip install '.[export]' "
            "brings it"
        )
    return module


def check_kind(name: str, kind: str) -> None:
    """Raises UsageError if a format cannot hold a model that takes this kind of input, raw."""
    if kind in find(name).KINDS:
        return
    others = [each for each in FORMATS if kind in importlib.import_module(FORMATS[each]).KINDS]
    raise UsageError(
        f"--format {name}: found a model that takes a {kind}, which this format cannot hold, "
        f"expected one of: {', '.join(others)}"
    )


def export(
    run: FinishedRun, name: str, data: Dataset, destination: Destination, *, int8: bool = False
) -> Exported:
    """Converts a run's model, loads the result again, compares it, and only then puts it in place.

    Args:
        run: a finished run.
        name: of the format.
        data: of the run.
        destination: where it goes.
        int8: whether weights and what is computed from them take 8 bits; of LiteRT only.

    Raises:
        DamagedRunError: files of the run are not those of its manifest.
        UsageError: the model has parts that the format cannot hold.
        ExportMismatchError: it answers otherwise than the run's own graph.
    """
    from trainer.inference.export import output_comparison
    from trainer.runs import filenames

    module = find(name)
    test = data.test if int8 else output_comparison.some(data.test, _EXAMPLES)
    with (
        storage.temporary_directory() as temporary_directory,
        run.files(f"{filenames.SAVED_MODEL}/", *module.OF_RUN) as files,
    ):
        _compute_in_full()
        model = Predictor(files / filenames.SAVED_MODEL)
        source = ExportSource(
            run=run,
            files=files,
            model=model,
            representative=output_comparison.some(data.train, _REPRESENTATIVE).array
            if int8
            else None,
        )
        path = temporary_directory / f"model{module.SUFFIX}"
        expected = output_comparison.in_batches(model.predict, test.array, run.batch_size)
        answers = _converted(name, module, source, path, test)
        found = output_comparison.compare(expected, answers, test.labels)
        _check(name, found, int8=int8)
        destination.write(path)
        return Exported(size_bytes=_size(path), comparison=found)


def _converted(name: str, module: Any, source: ExportSource, path: Path, test: Split) -> Array:
    """Writes the file and returns what it says of examples, loaded again."""
    from trainer.inference.export import output_comparison

    try:
        with output_hidden():
            module.write(source, path)
            predict: Predict = module.load(path, source.run.input.kind)
            return output_comparison.in_batches(predict, test.array, source.run.batch_size)
    except (TrainerError, OSError, MemoryError, AttributeError, NameError):
        raise  # Not the model's fault, and a defect's traceback is of use.
    except Exception as error:  # Each converter and runtime has its own.
        raise UsageError(
            f"--format {name}: the model has parts that this format cannot hold: {_reason(error)}"
        ) from error


def _check(name: str, found: OutputComparison, *, int8: bool) -> None:
    if int8:
        if not found.same >= _MIN_SAME:
            raise ExportMismatchError(
                f"--quantize int8: {found.same:.1%} of {found.examples:,} examples are said to be "
                f"of the class that the run's own graph says, expected at least {_MIN_SAME:.0%}; "
                "no file is left"
            )
    elif not found.difference <= _TOLERANCE:
        raise ExportMismatchError(
            f"--format {name}: probabilities differ by up to {found.difference:.2g} from those of "
            f"the run's own graph on {found.examples:,} examples, expected at most "
            f"{_TOLERANCE:g}; no file is left"
        )


def _compute_in_full() -> None:
    """Keeps TensorFlow off GPUs, which another job may need, and their shorter floats."""
    with imports.keras():
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
        with contextlib.suppress(RuntimeError):  # They are in use already.
            tf.config.set_visible_devices([], "GPU")


def _reason(error: Exception) -> str:
    """Returns what a converter or runtime says, in part of a line."""
    text = str(error)
    # LiteRT's converter lists operators one by one; Keras says it in the middle of a page.
    operators = sorted(set(re.findall(r"'(tf\.\w+)' op is neither", text)))
    if operators:
        return ", ".join(operators)
    unknown = re.search(r"(?:Could not locate class|Unknown layer:) '([^']+)'", text)
    if unknown:
        return f"{unknown[1]}, whose module is not here to import"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rpartition("error: ")[2][:300]


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(file.stat().st_size for file in files)
