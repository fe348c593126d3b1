"""Format litert: a .tflite file for LiteRT on phones and small machines, in 32 or 8 bits.

Text models cannot be converted: LiteRT has no operators that split texts into words, and no LiteRT
interpreter for Python includes those of TensorFlow.

Source of the 8-bit quantization: Jacob et al. 2018 (arXiv:1712.05877), with scales from training
examples.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.models import OUTPUT

if TYPE_CHECKING:
    from trainer.data.dataset import Array
    from trainer.inference.export.exporter import ExportSource, Predict

SUFFIX = ".tflite"
PACKAGES = ("ai_edge_litert",)
INPUT_KINDS = ("image", "vector")
RUN_FILES: tuple[str, ...] = ()

_LABELS = "labels.txt"


def write(source: ExportSource, path: Path) -> None:
    """Converts the run's graph, and appends the class names as `labels.txt`."""
    import tensorflow as tf

    name = source.run.input.kind
    function, holder = source.model.graph(name, OUTPUT)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], holder)
    examples = source.representative
    if examples is not None:

        def representative() -> Iterator[dict[str, Array]]:
            for index in range(len(examples)):
                yield {name: examples[index : index + 1]}

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        # All operators must be int8; input and output keep their dtypes.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    path.write_bytes(converter.convert())
    # LiteRT's own tools look for such files in a ZIP archive at the end of the model.
    with zipfile.ZipFile(path, "a") as archive:
        # One line per class: a name with a line feed would shift all names after it.
        names = (re.sub(r"[\r\n]+", " ", name) for name in source.run.classes)
        archive.writestr(_LABELS, "\n".join(names) + "\n")


def load(path: Path, kind: str) -> Predict:
    """Loads the file with LiteRT's interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(path)).get_signature_runner()

    def predict(examples: Array) -> Array:
        probabilities: Array = runner(**{kind: examples})[OUTPUT]
        return probabilities

    return predict
