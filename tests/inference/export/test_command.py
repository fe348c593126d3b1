"""`trainer export` writes a file that matches the run, or none and a one-line error."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from tests.inference.export.conftest import Export
from tests.kills import ROOT
from trainer import storage
from trainer.inference.export import exporter, litert, onnx
from trainer.runs.finished_run import Predictor

CopyWithFile = Callable[[str, bytes], Path]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, an empty one."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


def test_the_default_file_name_is_that_of_the_run(
    finished_run: Path, folder: Path, export: Export
) -> None:
    name = finished_run.name
    assert export(finished_run, "--format", "keras")[1][-1] == f"{name}.keras"
    assert (folder / f"{name}.keras").read_bytes() == (finished_run / "model.keras").read_bytes()
    assert (
        export(finished_run, "--format=litert", "--quantize=int8")[1][-1] == f"{name}.int8.tflite"
    )


def test_an_existing_model_is_replaced_only_with_overwrite(
    finished_run: Path, folder: Path, export: Export
) -> None:
    for name, out in (("h5", "a.h5"), ("saved_model", "a")):
        arguments = (finished_run, "--format", name, "--out", out)
        assert export(*arguments)[0] == 0
        code, lines, err = export(*arguments)
        assert (code, lines) == (2, [])
        assert f"--out {out}: exists; replace it with --overwrite" in err
        assert export(*arguments, "--overwrite")[0] == 0
    (folder / "a/saved_model.pb").unlink()
    code, _, err = export(finished_run, "--format", "saved_model", "--out", "a", "--overwrite")
    assert code == 2
    assert "files that are not a SavedModel" in err


@pytest.mark.parametrize("name", ["onnx", "saved_model"])
def test_a_run_in_a_bucket_is_exported_to_a_bucket(
    name: str, finished_run: Path, bucket: str, folder: Path, export: Export
) -> None:
    sources = {
        path.relative_to(finished_run).as_posix(): path
        for path in finished_run.rglob("*")
        if path.is_file()
    }
    storage.write_all(storage.folder(f"{bucket}/run"), sources)
    out = f"{bucket}/models/7{exporter.find(name).SUFFIX}"
    inside = f"{bucket}/run/model{exporter.find(name).SUFFIX}"
    assert export(f"{bucket}/run/", "--format", name, "--out", inside)[0] == 2
    code, lines, _ = export(f"{bucket}/run/", "--format", name, "--out", out)
    assert (code, lines[-1]) == (0, out)
    names = storage.folder(f"{bucket}/models").names()
    if name == "onnx":
        assert names == ["7.onnx"]
    else:
        assert {each.removeprefix("7.saved_model/") for each in names} == {
            each.removeprefix("saved_model/") for each in sources if each.startswith("saved_model/")
        }
    assert list(folder.iterdir()) == []


def test_a_file_with_other_weights_is_not_written(
    finished_run: Path, folder: Path, copy_with_file: CopyWithFile, tmp_path: Path, export: Export
) -> None:
    model = keras.models.load_model(finished_run / "model.keras")
    model.layers[-1].kernel.assign(model.layers[-1].kernel * 1.01)
    model.save(tmp_path / "other.keras")
    run = copy_with_file("model.keras", (tmp_path / "other.keras").read_bytes())
    code, lines, err = export(run, "--format", "keras")
    assert (code, lines, err.count("\n")) == (1, [], 1)
    assert "on 300 examples, expected at most 0.0001; no file was written" in err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("arguments", [("onnx",), ("litert",), ("litert", "--quantize", "int8")])
def test_a_conversion_of_another_model_is_not_written(
    arguments: tuple[str, ...],
    finished_run: Path,
    folder: Path,
    tmp_path: Path,
    export: Export,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    untrained = keras.Sequential(
        [keras.Input((28, 28, 1), dtype="uint8"), layers.Rescaling(1 / 255), layers.Flatten()]
        + [layers.Dense(10, activation="softmax")]
    )
    untrained.export(tmp_path / "other", format="tf_saved_model", verbose=False)
    other = Predictor(tmp_path / "other")
    module: Any = {"onnx": onnx, "litert": litert}[arguments[0]]
    write = module.write
    monkeypatch.setattr(
        module,
        "write",
        lambda source, path: write(dataclasses.replace(source, model=other), path),
    )
    code, lines, err = export(finished_run, "--format", *arguments)
    assert (code, lines, err.count("\n")) == (1, [], 1)
    assert "no file was written" in err
    assert list(folder.iterdir()) == []


def test_code_in_an_h5_is_not_executed(
    folder: Path, copy_with_file: CopyWithFile, tmp_path: Path, export: Export
) -> None:
    marker = tmp_path / "ran"
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1), dtype="uint8"),
            layers.Lambda(lambda x: (open("../ran", "w").close(), x)[1]),
            layers.Flatten(),
        ]
    )
    assert marker.exists()
    marker.unlink()
    model.save(tmp_path / "code.h5")
    marker.unlink(missing_ok=True)
    run = copy_with_file("model.h5", (tmp_path / "code.h5").read_bytes())
    code, _, err = export(run, "--format", "h5")
    assert code == 2
    assert "Lambda" in err
    assert not marker.exists()
    assert list(folder.iterdir()) == []


def test_a_file_that_differs_from_the_manifest_is_not_exported(
    finished_run: Path, folder: Path, tmp_path: Path, export: Export
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    with h5py.File(run / "model.h5", "r+") as file:
        file.attrs["more"] = 1
    assert export(run, "--format", "keras")[0] == 0
    (folder / "run.keras").unlink()
    code, lines, err = export(run, "--format", "h5")
    assert (code, lines, err.count("\n")) == (3, [], 1)
    assert "model.h5: differs from the manifest" in err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing --format, one of: saved_model, onnx, litert, keras, h5."),
        (("--format", "tflite"), "--format: found 'tflite', expected one of: saved_model, onnx"),
        (("--format", "onnx", "--quantize", "int8"), "--quantize: found --format onnx, expected"),
        (("--format", "litert", "--quantize", "int4"), "--quantize: found 'int4', expected 'int8'"),
        (
            ("--format", "onnx", "--out", "RUN/a.onnx"),
            "found a path in the run directory, whose files",
        ),
        (("--format", "onnx", "--out", "models"), "expected the path of a file that ends in .onnx"),
        (
            ("--format", "onnx", "--out", "/dev/null/a.onnx"),
            "--out /dev/null: is a file, expected a",
        ),
        (("--format", "onnx", "--data", "movie_reviews"), "found a text, expected an image of"),
        (("--format", "onnx", "--data", "nowhere"), "nowhere: no such file or folder"),
        (("--fromat", "onnx"), "Unknown flag '--fromat'. Did you mean --format?"),
    ],
)
def test_a_usage_error_is_one_line(
    arguments: tuple[str, ...], message: str, finished_run: Path, folder: Path, export: Export
) -> None:
    words = [word.replace("RUN", str(finished_run)) for word in arguments]
    code, lines, err = export(finished_run, *words)
    assert (code, lines, err.count("\n")) == (2, [], 1)
    assert message in err
    assert list(folder.iterdir()) == []


def test_a_missing_package_is_named_with_the_command_to_install_it(
    finished_run: Path, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "PACKAGES", ("onnx", "no_such_package"))
    code, _, err = export(finished_run, "--format", "onnx")
    assert code == 2
    assert err == (
        "trainer export: error: --format onnx: needs no_such_package, which is not "
        "installed; run pip install '.[export]' in a checkout\n"
    )


def test_missing_or_other_data_is_reported(
    finished_run: Path, digits: Path, tmp_path: Path, copy_with_file: CopyWithFile, export: Export
) -> None:
    config = (finished_run / "config.json").read_text().replace(str(digits), "/gone")
    run = copy_with_file("config.json", config.encode())
    code, _, err = export(run, "--format", "keras")
    assert code == 2
    assert "/gone: no such file or folder; set --data to its current path" in err
    images = np.random.default_rng(0).integers(0, 256, (100, 28, 28), np.uint8)
    np.savez(tmp_path / "other.npz", x_train=images, y_train=np.arange(100) % 10)
    code, lines, _ = export(run, "--format", "keras", "--data", tmp_path / "other.npz")
    assert code == 0
    assert any("10 examples of" in line and "not the data of the run" in line for line in lines)


def test_an_operator_that_a_format_does_not_support_is_named(
    digits: Path, folder: Path, tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer import task

    (tmp_path / "exotic.py").write_text(
        """
import keras
from keras import layers, ops

@keras.saving.register_keras_serializable("exotic")
class Inverse(layers.Layer):
    def call(self, image):
        return ops.linalg.inv(ops.reshape(image, (-1, 28, 28)) + 30 * ops.eye(28))

def build(spec):
    return keras.Sequential([
        keras.Input(spec.shape, dtype=spec.dtype), layers.Rescaling(1 / 255), Inverse(),
        layers.Flatten(), layers.Dense(10, activation="softmax"),
    ])
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    with pytest.raises(SystemExit) as exit_info:
        task.main(["--model=exotic:build", "--epochs=1", f"--data={digits}", f"--out={run}"])
    assert exit_info.value.code == 0
    for name, operator in (("onnx", "MatrixInverse"), ("litert", "tf.MatrixInverse")):
        code, lines, err = export(run, "--format", name)
        assert (code, lines, err.count("\n")) == (2, [], 1)
        assert "this format does not support the model" in err
        assert operator in err
    assert list(folder.iterdir()) == []
    assert export(run, "--format", "h5")[0] == 0


def start_export(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", "export", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": os.getcwd()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_output_of_converters_is_suppressed(finished_run: Path, folder: Path) -> None:
    job = start_export(finished_run, "--format", "litert", "--quantize", "int8")
    out, err = job.communicate(timeout=120)
    assert (job.returncode, err) == (0, "")
    titles = ["format", "size", "compared", "difference", "accuracy", "same class"]
    assert [line[:10].rstrip() for line in out.splitlines()[:-1]] == titles
    assert [path.name for path in folder.iterdir()] == [f"{finished_run.name}.int8.tflite"]


def test_sigterm_leaves_no_files(finished_run: Path, folder: Path) -> None:
    with start_export(finished_run, "--format", "onnx") as job:
        while not list(
            folder.glob("trainer-*/saved_model")
        ):  # Created before TensorFlow is imported.
            assert job.poll() is None
            time.sleep(0.02)
        job.send_signal(signal.SIGTERM)
    assert job.returncode == 143
    assert list(folder.iterdir()) == []
