"""The ONNX operators on texts give TensorFlow's results for any text."""

from __future__ import annotations

import random
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from keras import layers

from trainer.data.dataset import Array
from trainer.data.inputs import InputSignature
from trainer.inference.export import onnx
from trainer.inference.export.exporter import ExportSource
from trainer.models import as_input
from trainer.runs.finished_run import FinishedRun, Predictor, read_run

ALPHABET = "aAbBzZ09 \t\n\v\f\r.,!'\"\\[]-_~éÉßİſΣς\u00a0\u2003\u200b日本😀e\u0301"
TEXTS = [
    "", " ", "\t\v ", "a", "...", "unchanged", "Don't \"stop\"!", "a\tb\nc\vd\fe\rf", "É é e\u0301",
    "one two three four five six seven eight nine ten", "😀 😀😀", "x" * 3000, "a b " * 500,
]  # fmt: skip


def make_source(model: keras.Model, folder: Path) -> ExportSource:
    """Returns the export source of a model without a run."""
    model.export(folder / "saved_model", format="tf_saved_model", verbose=False)
    signature = InputSignature(kind="text", shape=(), dtype="string", low=0, high=0)
    run = FinishedRun(
        path=str(folder),
        manifest={},
        config={"model": "own"},
        metrics={},
        input=signature,
        classes=tuple(map(str, range(model.output_shape[1]))),
        source=None,
    )
    loaded = Predictor(folder / "saved_model")
    return ExportSource(run=run, files=folder, model=loaded, representative=None)


def model_of(*vectorizers: keras.layers.Layer) -> keras.Model:
    """Returns a model that concatenates the outputs of the layers."""
    text = keras.Input((), dtype="string")
    outputs = [layers.Rescaling(1.0)(layer(text)) for layer in vectorizers]
    return keras.Model(text, layers.Concatenate()(outputs) if len(outputs) > 1 else outputs[0])


@pytest.mark.long
def test_every_mode_of_text_vectorization(tmp_path: Path) -> None:
    rng = random.Random(0)
    lengths = (rng.randrange(60) for _ in range(60))
    texts = [*TEXTS, *("".join(rng.choices(ALPHABET, k=length)) for length in lengths)]
    examples: Array = np.array(texts, object)
    vectorizers = [
        layers.TextVectorization(**settings)
        for settings in (
            {"output_mode": "multi_hot"},
            {"output_mode": "count", "standardize": None},
            {"standardize": "lower", "split": "character", "output_sequence_length": 9},
            {"standardize": "strip_punctuation", "ngrams": (1, 3), "output_sequence_length": 30},
            {"split": "character", "ngrams": 4, "output_mode": "count", "max_tokens": 300},
            {"output_mode": "tf_idf", "ngrams": 2, "max_tokens": 200},
            {"output_sequence_length": 4},
        )
    ]
    for layer in vectorizers:
        layer.adapt(as_input(examples[::2]))
    source = make_source(model_of(*vectorizers), tmp_path)
    onnx.write(source, tmp_path / "model.onnx")
    predict = onnx.load(tmp_path / "model.onnx", "text")
    expected = source.model.predict(examples)
    np.testing.assert_allclose(predict(examples), expected, rtol=1e-6)
    for number in range(len(TEXTS)):  # One by one, so that nothing is padded.
        output = predict(examples[number : number + 1])
        np.testing.assert_allclose(output, expected[number : number + 1], rtol=1e-6)


def test_an_attribute_that_is_not_supported_is_named(tmp_path: Path) -> None:
    layer = layers.TextVectorization(standardize=lowercase_unicode, output_mode="multi_hot")
    layer.adapt(as_input(np.array(["a b", "b c"], object)))
    with pytest.raises(ValueError, match="encoding b'utf-8' of an operator on texts"):
        onnx.write(make_source(model_of(layer), tmp_path), tmp_path / "model.onnx")


@keras.saving.register_keras_serializable("tests")
def lowercase_unicode(texts: tf.Tensor) -> tf.Tensor:
    return tf.strings.lower(texts, encoding="utf-8")


def test_the_file_needs_no_runtime_but_onnxruntime(text_run: Path, tmp_path: Path) -> None:
    run = read_run(str(text_run))
    with run.files("saved_model/") as files:
        model = Predictor(files / "saved_model")
        onnx.write(
            ExportSource(run=run, files=files, model=model, representative=None),
            tmp_path / "m.onnx",
        )
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    assert session.get_inputs()[0].type == "tensor(string)"
    assert session.get_modelmeta().custom_metadata_map["classes"] == '["neg", "pos"]'
