"""A .tflite file for LiteRT, on phones and small machines, in 32 bits or in 8.

Texts are cut into words by operators that LiteRT has not; those of TensorFlow's, which the
converter could put in their place, no LiteRT interpreter for Python is built with.

ExportSource of 8 bits: Jacob et al. 2018 (arXiv:1712.05877), with scales from training examples.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.inference.export.exporter import OUTPUT

if TYPE_CHECKING:
    from trainer.data.dataset import Array
    from trainer.inference.export.exporter import ExportSource, Predict

SUFFIX = ".tflite"
NEEDS = ("ai_edge_litert",)
KINDS = ("image", "vector")
OF_RUN: tuple[str, ...] = ()

_LABELS = "labels.txt"


def write(source: ExportSource, path: Path) -> None:
    """Converts the run's graph; class names go along as `labels.txt`."""
    import tensorflow as tf

    name = source.run.input.kind
    function, holder = source.model.graph(name, OUTPUT)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], holder)
    examples = source.representative
    if examples is not None:

        def representative() -> Iterator[dict[str, Array]]:
            for number in range(len(examples)):
                yield {name: examples[number : number + 1]}

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        # Nothing of the network is left in floats; what goes in and comes out stays as it was.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    path.write_bytes(converter.convert())
    # A ZIP archive behind the model is where LiteRT's own tools look for such files.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_LABELS, "\n".join(source.run.classes) + "\n")


def load(path: Path, kind: str) -> Predict:
    """Loads it by LiteRT's interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(path)).get_signature_runner()

    def predict(examples: Array) -> Array:
        answer: Array = runner(**{kind: examples})[OUTPUT]
        return answer

    return predict
