"""Format onnx: an .onnx file for onnxruntime and other ONNX runtimes, converted with tf2onnx.

tf2onnx cannot convert operators on texts; `text_operators.py` replaces them with ONNX's own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import __version__, storage
from trainer.models import OUTPUT
from trainer.runs import filenames

if TYPE_CHECKING:
    from trainer.data.dataset import Array
    from trainer.inference.export.exporter import ExportSource, Predict
    from trainer.runs.finished_run import FinishedRun

SUFFIX = ".onnx"
PACKAGES = ("onnx", "onnxruntime", "tf2onnx")
INPUT_KINDS = ("image", "vector", "text")
RUN_FILES: tuple[str, ...] = ()

_OPSET = 18  # The latest opset that tf2onnx supports.


def write(source: ExportSource, path: Path) -> None:
    """Converts the run's graph, and adds the class names to the file's metadata."""
    from onnx import checker

    from trainer.inference.export import text_operators

    name = source.run.input.kind
    model = _convert(source, name)
    if name == "text":
        model = text_operators.replace_operators(model)
    _remove_unused(model)
    _set_shapes(model, source.run)
    model.graph.name = str(source.run.config["model"])
    model.producer_name, model.producer_version = "trainer", __version__
    for key, text in _metadata(source.run).items():
        model.metadata_props.add(key=key, value=text)
    checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def load(path: Path, kind: str) -> Predict:
    """Loads the file with onnxruntime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def predict(examples: Array) -> Array:
        probabilities: Array = session.run([OUTPUT], {kind: examples})[0]
        return probabilities

    return predict


def _convert(source: ExportSource, name: str) -> Any:
    import tensorflow as tf
    from tf2onnx import optimizer, tf_loader, tfonnx

    from trainer.inference.export import text_operators as texts

    is_text = name == "text"
    function, holder = source.model.graph(name, OUTPUT)
    # tf2onnx's `from_function` would lose vocabularies, and make captured values inputs.
    input_name, output_name = f"{name}:0", function.outputs[0].name
    graph, tables = tf_loader.from_trackable(holder, function, [input_name], [output_name], False)
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(graph, name="")
        converted = tfonnx.process_tf_graph(
            imported,
            opset=_OPSET,
            input_names=[input_name],
            output_names=[output_name],
            tensors_to_rename={input_name: name, output_name: OUTPUT},
            initialized_tables=tables,
            custom_op_handlers={
                "Erfc": (_convert_erfc, []),
                **(texts.handlers() if is_text else {}),
            },
            extra_opset=[texts.opset()] if is_text else [],
        )
    return optimizer.optimize_graph(converted).make_model("")


def _convert_erfc(graph: Any, node: Any, name: str, arguments: Any) -> None:
    """Replaces erfc(x), which GELU uses and ONNX lacks, with 1 - erf(x)."""
    import numpy as np

    dtype, shape = graph.get_dtype(node.output[0]), graph.get_shape(node.output[0])
    one = graph.make_const(f"{name}__one", np.array(1, np.float32))
    erf = graph.make_node("Erf", node.input, shapes=[shape], dtypes=[dtype])
    graph.remove_node(node.name)
    inputs = [one.output[0], erf.output[0]]
    graph.make_node("Sub", inputs, name=name, outputs=node.output, shapes=[shape], dtypes=[dtype])


def _metadata(run: FinishedRun) -> dict[str, str]:
    manifest = storage.folder(run.path).read(filenames.MANIFEST) or b""
    return {
        "classes": json.dumps(run.classes),
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
    }


def _set_shapes(model: Any, run: FinishedRun) -> None:
    """Sets the shapes of input and output, which tf2onnx cannot always infer."""
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
    """Removes unused constants, about which onnxruntime warns each time it loads the file."""
    used = set(_input_names(model.graph))
    constants = [constant for constant in model.graph.initializer if constant.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants)


def _input_names(graph: Any) -> Iterator[str]:
    """Yields the names of the inputs of all nodes, those of subgraphs included."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _input_names(attribute.g)
