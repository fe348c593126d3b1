"""Tests of whole training jobs, from data to run directory, as processes."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.conftest import Job
from tests.fault_proxy import FaultProxy
from tests.kills import write_idx
from trainer import models, storage
from trainer.config import DataOptions
from trainer.data import loader
from trainer.models import MODELS
from trainer.runs import filenames

FILES = {
    filenames.CONFIG,
    filenames.HISTORY,
    filenames.MANIFEST,
    filenames.METRICS,
    filenames.MODEL_H5,
    filenames.FINAL_CHECKPOINT,
    filenames.MODEL_KERAS,
    filenames.PREDICTIONS,
    filenames.REPORT,
    "saved_model/saved_model.pb",
    "saved_model/variables/variables.data-00000-of-00001",
    "saved_model/variables/variables.index",
}


def test_a_diverging_loss_stops_the_run_and_names_the_last_checkpoint(
    job: Job, digits: Path
) -> None:
    arguments = ("--model=mlp", f"--data={digits}", "--learning-rate=1e38", "--out=run")
    result = job(*arguments, "--checkpoint-steps=1")
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert re.search(r"the loss became (nan|inf) in epoch 1, step \d+; expected a finite", last)
    assert re.search(r"The last good checkpoint: run/checkpoints/\w+\.h5$", last)


@pytest.mark.long
def test_rare_classes_and_leaked_examples_are_reported_and_class_weights_help(
    job: Job, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)

    def split(*counts: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat([0, 1], counts)
        return random.normal(labels[:, np.newaxis] * 0.7, 1.0, [len(labels), 8]), labels

    x, y = split(1000, 40)
    x_test, y_test = split(200, 200)
    x_test[:3] = x[:3]
    np.savez(tmp_path / "rare.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    recalls = []
    for kind in ("none", "balanced"):
        result = job("--model=mlp", "--data=rare.npz", f"--out={kind}", f"--class-weights={kind}")
        assert "rare.npz: 3 of 400 test examples are also in the training split" in (result.stderr)
        warning = "rare.npz: 1,000 training examples of class '0' and 40 of '1'; --class-weights"
        assert (warning in result.stderr) == (kind == "none")
        metrics = json.loads((tmp_path / kind / filenames.METRICS).read_text())
        assert metrics["leaked_from_training"] == {"test": 3}
        recalls.append(metrics["per_class"][1]["recall"])
    assert recalls[1] > recalls[0] + 0.1


@pytest.mark.process
def test_a_job_writes_a_complete_run_directory(job: Job, digits: Path, tmp_path: Path) -> None:
    result = job(
        "--model=mlp", "--data", digits, "--out=run", "--epochs=2", "--validation-split=0.2"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "run\n"
    run = tmp_path / "run"
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    events = {name for name in names if re.match(r"tensorboard/events\.out\.tfevents\.\d+\.", name)}
    assert len(events) == 1
    assert names - {"saved_model/assets"} - events == FILES

    metrics = json.loads((run / filenames.METRICS).read_text())
    assert set(metrics) == {
        "test", "accuracy_interval", "calibration", "per_class", "confusion", "seconds",
        "examples_per_second", "epochs", "parameters", "device", "seed", "model", "data", "input",
        "leaked_from_training", "source",
    }  # fmt: skip
    stages = {"import", "data", "build", "train", "evaluate", "write", "report"}
    assert set(metrics["seconds"]) == stages | {"total"}
    assert np.sum(metrics["confusion"]) == 300
    assert metrics["test"]["accuracy"] == np.trace(metrics["confusion"]) / 300
    assert metrics["test"]["accuracy"] > 0.7
    assert metrics["device"].startswith(("CPU", "GPU"))

    rows = list(csv.DictReader((run / filenames.HISTORY).read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert set(rows[0]) == {
        "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds",
        "examples_per_second",
    }  # fmt: skip
    settings = json.loads((run / filenames.CONFIG).read_text())
    assert (settings["batch_size"], settings["learning_rate"], settings["seed"]) == (128, 0.001, 0)

    lines = result.stderr.splitlines()
    assert lines[0].startswith(f"{digits}: IDX files of images and labels; train 801, validation ")
    assert lines[1].startswith(f"training mlp on {digits}, ")
    assert [line.split()[:2] for line in lines[2:4]] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert lines[4].startswith("test accuracy")
    assert len(lines) == 5

    model = keras.models.load_model(run / filenames.MODEL_KERAS)
    data = loader.load(DataOptions(data=str(digits), seed=0))
    probabilities = np.asarray(model(models.as_input(data.test.examples)))
    assert (probabilities.argmax(axis=1) == data.test.labels).mean() == metrics["test"]["accuracy"]


@pytest.mark.process
def test_a_job_reads_from_and_writes_to_a_bucket(job: Job, bucket: str, sentences: Path) -> None:
    for path in sentences.iterdir():
        storage.folder(f"{bucket}/data").write(path.name, path)
    arguments = ["--model=sentiment", f"--data={bucket}/data", f"--out={bucket}/runs/7"]
    result = job(*arguments, "--epochs=1", "--log=json")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    entries = [json.loads(line) for line in result.stdout.splitlines()]
    assert {entry["severity"] for entry in entries} == {"INFO"}
    assert entries[-1]["message"] == f"{bucket}/runs/7"

    run = storage.folder(f"{bucket}/runs/7")
    assert set(run.names()) >= FILES
    manifest = json.loads(run.read(filenames.MANIFEST) or b"")
    for entry in manifest["files"]:
        assert len(run.read(entry["name"]) or b"") == entry["size_bytes"]

    before = storage.folder(bucket).names()
    repeated = job(*arguments, "--epochs=1", "--log=json")
    assert repeated.returncode == 0
    assert "this run is finished already" in repeated.stdout
    other = job(*arguments, "--epochs=1", "--batch-size=50")
    assert other.returncode == 2
    assert "--batch-size was 100, now 50" in other.stderr
    assert storage.folder(bucket).names() == before


@pytest.mark.long
def test_a_backbone_is_fine_tuned_from_weights_in_a_bucket(
    job: Job, bucket: str, digits: Path, tmp_path: Path
) -> None:
    keras.utils.set_random_seed(0)
    network = keras.applications.MobileNetV3Small(
        include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg"
    )
    network.save_weights(tmp_path / "w.weights.h5")
    storage.folder(f"{bucket}/weights").write("w.weights.h5", tmp_path / "w.weights.h5")
    weights = f"--weights={bucket}/weights/w.weights.h5"
    backbone = ("--model=image", "--backbone=MobileNetV3Small", f"--data={digits}")
    frozen = job(*backbone, weights, "--epochs=2", "--frozen-epochs=2", "--out=frozen")
    assert frozen.returncode == 0, frozen.stderr
    whole = job(*backbone, weights, "--epochs=2", "--frozen-epochs=1", "--out=whole")
    assert whole.returncode == 0, whole.stderr
    for out, changed in (("frozen", False), ("whole", True)):
        trained = keras.models.load_model(tmp_path / out / filenames.MODEL_KERAS)
        pairs = zip(
            trained.get_layer(models.BACKBONE).get_weights(), network.get_weights(), strict=True
        )
        assert any((a != b).any() for a, b in pairs) == changed
    missing = job(*backbone, f"--weights={bucket}/weights/none.weights.h5", "--out=none")
    assert missing.returncode == 2
    assert missing.stderr.endswith(f"--weights {bucket}/weights/none.weights.h5: no such file\n")


def test_a_bucket_that_may_not_be_written_is_an_error_before_training(
    job: Job, bucket: str, proxy: FaultProxy, digits: Path
) -> None:
    proxy.add(match="POST", status=403, times=1000)
    result = job("--model=mlp", "--data", digits, f"--out={bucket}/run", "--epochs=1")
    assert result.returncode == 2
    assert "permission denied (403)" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_run_from_the_config_of_another_is_bit_identical(
    job: Job, shared_run: Callable[..., Path], digits: Path, tmp_path: Path
) -> None:
    flags = ("--model=mlp", f"--data={digits}", "--epochs=1", "--seed=3")
    runs = (shared_run("seed_3", *flags), tmp_path / "second")
    result = job("--config", runs[0] / "config.json", "--out=second")
    assert result.returncode == 0, result.stderr
    first, second = (json.loads((run / filenames.METRICS).read_text()) for run in runs)
    for timing in ("seconds", "examples_per_second"):
        first.pop(timing), second.pop(timing)
    assert first == second
    weights = [keras.models.load_model(run / filenames.MODEL_KERAS).get_weights() for run in runs]
    assert all((a == b).all() for a, b in zip(*weights, strict=True))


def test_overwrite_replaces_a_run(job: Job, digits: Path, tmp_path: Path) -> None:
    arguments = ["--model=mlp", "--data", digits, "--out=run"]
    assert job(*arguments, "--epochs=1").returncode == 0
    refused = job(*arguments, "--epochs=2", "--batch-size=64")
    assert refused.returncode == 2
    assert json.loads((tmp_path / "run" / filenames.METRICS).read_text())["epochs"] == 1
    assert job(*arguments, "--epochs=2", "--batch-size=64", "--overwrite").returncode == 0
    assert json.loads((tmp_path / "run" / filenames.METRICS).read_text())["epochs"] == 2


OWN_MODEL = """
import keras
from trainer.models import Recipe

RECIPE = Recipe(
    data="movie_reviews",
    epochs=9,
    callbacks=lambda: [keras.callbacks.EarlyStopping(monitor="val_loss", min_delta=100.0)],
)

def build(spec):
    return keras.Sequential([
        keras.Input(spec.shape, dtype=spec.dtype),
        keras.layers.Flatten(),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(len(spec.classes), activation="softmax"),
    ])
"""


def test_a_model_can_be_defined_in_one_file(job: Job, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    arguments = ["--model=mine:build", "--data", digits, "--out=run"]
    refused = job(*arguments)
    assert refused.returncode == 2
    assert "EarlyStopping monitors val_loss; give --validation-split 0.1" in refused.stderr
    assert not (tmp_path / "run").exists()
    result = job(*arguments, "--validation-split=0.1")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run" / filenames.METRICS).read_text())["epochs"] == 2


SUBCLASS = """
import keras

class Model(keras.Model):
    def __init__(self, classes):
        super().__init__()
        self.dense = keras.layers.Dense(classes, activation="softmax")

    def call(self, images):
        return self.dense(keras.ops.cast(keras.ops.reshape(images, (-1, 784)), "float32"))

def build(spec):
    return Model(len(spec.classes))
"""


def test_a_model_that_cannot_be_saved_is_refused_before_training(
    job: Job, digits: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(SUBCLASS)
    result = job("--model=mine:build", "--data", digits, "--out=run")
    assert result.returncode == 2
    assert "--model mine:build: cannot be saved, expected a Sequential or" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("python -m trainer.task: error: ")
    assert not (tmp_path / "run").exists()


def test_weights_that_overflow_in_the_last_step_are_an_error(
    job: Job, digits: Path, tmp_path: Path
) -> None:
    result = job(
        "--model=mlp", "--data", digits, "--learning-rate=1e39", "--epochs=1",
        "--batch-size=1000", "--out=run",
    )  # fmt: skip
    assert result.returncode == 2
    assert "the model returns NaN for class probabilities" in result.stderr
    assert not (tmp_path / "run" / filenames.MANIFEST).exists()


def test_a_shipped_data_set_and_the_default_run_directory(job: Job, tmp_path: Path) -> None:
    result = job("--model=sentiment_small", "--epochs=1")
    assert result.returncode == 0, result.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert result.stdout == f"runs/{run.name}\n"
    assert run.name.startswith("sentiment_small-20")


def test_damaged_data_writes_nothing(job: Job, digits: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(digits, tmp_path / "data"))
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.zeros(7))
    result = job("--data=data", "--out=run")
    assert result.returncode == 2
    assert "data/train-labels-idx1-ubyte.gz: 7 labels, but" in result.stderr
    assert not (tmp_path / "run").exists()


# Minimum test accuracy, in per cent, of the built-in models with default settings.
TARGETS = {
    "mlp": 98.2, "cnn_fast": 99.3, "sentiment": 76.5, "sentiment_small": 66.0, "ngram": 80.0
}  # fmt: skip


@pytest.mark.process
@pytest.mark.long
@pytest.mark.parametrize("model", TARGETS)
def test_accuracy(job: Job, tmp_path: Path, model: str) -> None:
    result = job("--model", model, "--out=run")
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "run" / filenames.METRICS).read_text())
    assert 100 * metrics["test"]["accuracy"] >= TARGETS[model]


# Slow ones. tests/models trains all models on easy data, tests/inference/export exports all runs.
LONG = ("cnn", "cnn_accurate", "image", "ngram", "text")


@pytest.mark.parametrize(
    "model", [pytest.param(m, marks=pytest.mark.long if m in LONG else ()) for m in MODELS]
)
def test_a_job_with_each_model_writes_a_report_and_lowers_the_loss(
    trained: Callable[[str], Path], model: str
) -> None:
    run = trained(model)
    assert (run / filenames.REPORT).exists()
    history = (run / filenames.HISTORY).read_text().splitlines()
    losses = [float(row["loss"]) for row in csv.DictReader(history)]
    assert losses[-1] < 0.97 * losses[0]  # 0.95 for sentiment_small, below 0.8 for most others.
