"""An exported model, in the format's own runtime, has the outputs of the run's own graph."""

from __future__ import annotations

import json
import re
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tests.inference.export.conftest import Export
from tests.kills import ROOT
from trainer import models
from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Array
from trainer.inference.export import exporter
from trainer.runs.finished_run import load_model, read_run


def predict_saved_model(path: Path, examples: Array) -> Any:
    loaded = tf.saved_model.load(path)
    return loaded.serve(models.as_input(examples))[models.OUTPUT]


def predict_keras(path: Path, examples: Array) -> Any:
    return keras.models.load_model(path)(models.as_input(examples))


def predict_onnx(path: Path, examples: Array) -> Any:
    session = onnxruntime.InferenceSession(path)
    (model_input,) = session.get_inputs()
    return session.run(["probabilities"], {model_input.name: examples})[0]


def predict_litert(path: Path, examples: Array) -> Any:
    return Interpreter(str(path)).get_signature_runner()(image=examples)["probabilities"]


RUNTIMES: dict[str, Callable[[Path, Array], Any]] = {
    "saved_model": predict_saved_model,
    "onnx": predict_onnx,
    "litert": predict_litert,
    "keras": predict_keras,
    "h5": predict_keras,
}


def documented_code(name: str) -> str:
    """Returns the code of the documentation that loads a format."""
    text = (ROOT / "docs/exporting.md").read_text()
    section = text.partition(f"\n### {name}\n")[2]
    block = re.search(r"(^    .*\n|^\n(?=    ))+", section, re.MULTILINE)
    assert block is not None
    return textwrap.dedent(block[0])


@pytest.mark.parametrize("name", exporter.FORMATS)
def test_an_image_model_has_the_same_outputs(
    name: str,
    finished_run: Path,
    digits: Path,
    tmp_path: Path,
    export: Export,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / f"deep/demo{exporter.find(name).SUFFIX}"
    code, lines, err = export(finished_run, "--format", name, "--out", out)
    assert (code, err) == (0, "")
    assert lines[-1] == str(out)
    assert any("on 300 examples of the run's test split" in line for line in lines)
    test = loader.load(DataOptions(data=str(digits), seed=0)).test
    with load_model(read_run(str(finished_run))) as model:
        expected = model.predict(test.examples)
    for count in (1, 300):
        outputs = RUNTIMES[name](out, test.examples[:count])
        np.testing.assert_allclose(outputs, expected[:count], atol=1e-5)
    monkeypatch.chdir(out.parent)
    names: dict[str, Any] = {"images": test.examples}
    exec(documented_code(name), names)
    np.testing.assert_allclose(names["probabilities"], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["saved_model", "onnx", "keras", "h5"])
def test_a_text_model_has_the_same_outputs(
    name: str, text_run: Path, tmp_path: Path, export: Export
) -> None:
    out = tmp_path / f"model{exporter.find(name).SUFFIX}"
    code, lines, err = export(text_run, "--format", name, "--out", out)
    assert (code, err) == (0, "")
    texts = np.array(["a film to be seen, and seen again!", "", "DON'T."], object)
    with load_model(read_run(str(text_run))) as model:
        expected = model.predict(texts)
    np.testing.assert_allclose(RUNTIMES[name](out, texts), expected, atol=1e-5)


def test_a_format_without_texts_names_those_with_them(text_run: Path, export: Export) -> None:
    code, lines, err = export(text_run, "--format", "litert")
    assert (code, lines, err.count("\n")) == (2, [], 1)
    assert "found a model with text input" in err
    assert "expected one of: saved_model, onnx, keras, h5" in err


def test_a_vector_model_is_exported(tmp_path: Path, export: Export) -> None:
    from trainer import task

    examples = np.random.default_rng(0).normal(size=(400, 12)).astype(np.float32)
    labels = (examples[:, 0] > 0).astype(np.int32)
    np.savez(tmp_path / "data.npz", x_train=examples, y_train=labels)
    run = tmp_path / "run"
    with pytest.raises(SystemExit):
        task.main(["--model=mlp", "--epochs=1", f"--data={tmp_path}/data.npz", f"--out={run}"])
    for name in ("onnx", "litert"):
        out = tmp_path / f"model{exporter.find(name).SUFFIX}"
        assert export(run, "--format", name, "--out", out)[0] == 0
    assert onnxruntime.InferenceSession(tmp_path / "model.onnx").get_inputs()[0].name == "vector"
    assert (
        "vector"
        in Interpreter(str(tmp_path / "model.tflite")).get_signature_runner().get_input_details()
    )


def test_class_names_are_in_the_file(finished_run: Path, tmp_path: Path, export: Export) -> None:
    for name in ("onnx", "litert"):
        out = tmp_path / f"model{exporter.find(name).SUFFIX}"
        assert export(finished_run, "--format", name, "--out", out)[0] == 0
    metadata = {each.key: each.value for each in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert json.loads(metadata["classes"]) == list("0123456789")
    with zipfile.ZipFile(tmp_path / "model.tflite") as archive:
        assert archive.read("labels.txt").decode().split() == list("0123456789")


def test_8_bits_are_a_quarter_of_the_size_and_their_accuracy_is_printed(
    finished_run: Path, digits: Path, tmp_path: Path, export: Export
) -> None:
    whole, small = tmp_path / "whole.tflite", tmp_path / "small.tflite"
    assert export(finished_run, "--format", "litert", "--out", whole)[0] == 0
    code, lines, err = export(
        finished_run, "--format", "litert", "--quantize", "int8", "--out", small
    )
    assert (code, err, lines[-1]) == (0, "", str(small))
    assert small.stat().st_size < 0.3 * whole.stat().st_size
    test = loader.load(DataOptions(data=str(digits), seed=0)).test
    expected = np.mean(predict_litert(small, test.examples).argmax(axis=1) == test.labels)
    (accuracy,) = (line for line in lines if line.startswith("accuracy"))
    assert f"{expected:.2%}, run's model" in accuracy
    weights = [each["dtype"] for each in Interpreter(str(small)).get_tensor_details()]
    assert np.int8 in weights


@pytest.mark.long
@pytest.mark.parametrize("model", models.MODELS)
def test_every_model_exports_to_every_format_that_supports_its_input(
    model: str, trained: Callable[[str], Path], tmp_path: Path, export: Export
) -> None:
    run = trained(model)
    texts = models.find(model).recipe.data == "movie_reviews"
    for name in exporter.FORMATS:
        out = tmp_path / f"model{exporter.find(name).SUFFIX}"
        expected = 2 if name == "litert" and texts else 0
        assert export(run, "--format", name, "--out", out)[0] == expected, name
