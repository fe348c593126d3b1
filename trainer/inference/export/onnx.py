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
from trainer.inference.export.exporter import OUTPUT
from trainer.runs import filenames

if TYPE_CHECKING:
    from trainer.data.dataset import Array
    from trainer.inference.export.exporter import ExportSource, Predict
    from trainer.runs.finished_run import FinishedRun

SUFFIX = ".onnx"
NEEDS = ("onnx", "onnxruntime", "tf2onnx")
KINDS = ("image", "vector", "text")
OF_RUN: tuple[str, ...] = ()

_OPSET = 18  # The latest that tf2onnx knows.


def write(source: ExportSource, path: Path) -> None:
    """Converts the run's graph; class names go along in the file's metadata."""
    from onnx import checker

    from trainer.inference.export import text_operators

    name = source.run.input.kind
    model = _converted(source, name)
    if name == "text":
        model = text_operators.replaced(model)
    _remove_unused(model)
    _set_shapes(model, source.run)
    model.graph.name = str(source.run.config["model"])
    model.producer_name, model.producer_version = "trainer", __version__
    for key, text in _metadata(source.run).items():
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


def _converted(source: ExportSource, name: str) -> Any:
    import tensorflow as tf
    from tf2onnx import optimizer, tf_loader, tfonnx

    from trainer.inference.export import text_operators as texts

    is_text = name == "text"
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
            custom_op_handlers={"Erfc": (_erfc, []), **(texts.handlers() if is_text else {})},
            extra_opset=[texts.opset()] if is_text else [],
        )
    return optimizer.optimize_graph(converted).make_model("")


def _erfc(graph: Any, node: Any, name: str, arguments: Any) -> None:
    """Makes 1 - erf(x) of erfc(x), which is in GELU and not in ONNX."""
    import numpy as np

    dtype, shape = graph.get_dtype(node.output[0]), graph.get_shape(node.output[0])
    one = graph.make_const(f"{name}__one", np.array(1, np.float32))
    erf = graph.make_node("Erf", node.input, shapes=[shape], dtypes=[dtype])
    graph.remove_node(node.name)
    taken = [one.output[0], erf.output[0]]
    graph.make_node("Sub", taken, name=name, outputs=node.output, shapes=[shape], dtypes=[dtype])


def _metadata(run: FinishedRun) -> dict[str, str]:
    manifest = storage.folder(run.run).read(filenames.MANIFEST) or b""
    return {
        "classes": json.dumps(run.classes),
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
    }


def _set_shapes(model: Any, run: FinishedRun) -> None:
    """Says what the model takes and gives, which tf2onnx cannot always tell."""
    for value, sizes in (
        (model.graph.input[0], run.input.shape),
        (model.graph.output[0], (len(run.classes),)),
    ):
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        shape.dim.add(dim_param="batch")
        for size in sizes:
            shape.dim.add(dim_value=size)


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
