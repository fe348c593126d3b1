"""An .onnx file for onnxruntime, and whatever else reads ONNX.

Converted by tf2onnx. What it cannot convert, texts cut into words and characters, is made of ONNX's
own operators in `text_operators.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import __version__, storage
from trainer.exporting import OUTPUT
from trainer.results import names

if TYPE_CHECKING:
    from trainer.datasets.dataset import Array
    from trainer.exporting import Predict, Source
    from trainer.trained import Trained

SUFFIX = ".onnx"
NEEDS = ("onnx", "onnxruntime", "tf2onnx")
KINDS = ("image", "vector", "text")
OF_RUN: tuple[str, ...] = ()

_OPSET = 18  # The latest that tf2onnx knows.


def write(source: Source, path: Path) -> None:
    """Converts the run's graph; class names go along in the file's metadata."""
    from onnx import checker

    from trainer.exporting import text_operators

    name = source.trained.input.kind
    model = _converted(source, name)
    if name == "text":
        model = text_operators.replaced(model)
    _remove_unused(model)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    model.graph.name = str(source.trained.config["model"])
    model.producer_name, model.producer_version = "trainer", __version__
    for key, text in _metadata(source.trained).items():
        model.metadata_props.add(key=key, value=text)
    checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def load(path: Path, kind: str) -> Predict:
    """Loads it by onnxruntime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def predict(examples: Array) -> Array:
        answer: Array = session.run([OUTPUT], {kind: examples})[0]
        return answer

    return predict


def _converted(source: Source, name: str) -> Any:
    import tensorflow as tf
    from tf2onnx import optimizer, tf_loader, tfonnx

    from trainer.exporting import text_operators

    function, holder = source.model.graph(name, OUTPUT)
    # Not tf2onnx's `from_function`, which loses vocabularies and takes captured values for inputs.
    taken, given = f"{name}:0", function.outputs[0].name
    graph, tables = tf_loader.from_trackable(holder, function, [taken], [given], False)
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(graph, name="")
        converted = tfonnx.process_tf_graph(
            imported,
            opset=_OPSET,
            input_names=[taken],
            output_names=[given],
            tensors_to_rename={taken: name, given: OUTPUT},
            initialized_tables=tables,
            custom_op_handlers=text_operators.handlers() if name == "text" else None,
            extra_opset=[text_operators.opset()] if name == "text" else None,
        )
    return optimizer.optimize_graph(converted).make_model("")


def _metadata(run: Trained) -> dict[str, str]:
    manifest = storage.folder(run.run).read(names.MANIFEST) or b""
    return {
        "classes": json.dumps(run.classes),
        "run": run.run,
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
    }


def _remove_unused(model: Any) -> None:
    """Removes constants that nothing takes, of which onnxruntime warns each time it loads them."""
    used = set(_inputs(model.graph))
    kept = [constant for constant in model.graph.initializer if constant.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _inputs(graph: Any) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _inputs(attribute.g)
