"""The Python interface: `trainer.train`, `trainer.load` and the `Run` that they return."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import pydoc
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import trainer
from tests.conftest import ROOT, Job
from trainer.cli import main
from trainer.config import Config, DataOptions, option_specs
from trainer.data import loader
from trainer.errors import (
    DamagedRunError,
    DataError,
    DeviceError,
    RunExistsError,
    StorageError,
    TrainerError,
    UsageError,
)

# What a program does that trains several times. Prints the hash of the weights of each run.
SEVERAL_RUNS = """
import hashlib, logging, os, signal, sys, threading
from pathlib import Path
import trainer

settings = dict(model="mlp", data=Path(sys.argv[1]), epochs=3)

def weights(out):
    print(out, hashlib.sha256(Path(out, "model.h5").read_bytes()).hexdigest())

trainer.train(**settings, out="first")
weights("first")

thread = threading.Thread(target=trainer.train, kwargs={**settings, "out": "in_a_thread"})
thread.start()
thread.join()
weights("in_a_thread")

class StopInTheSecondEpoch(logging.Filter):
    def filter(self, record):
        if record.getMessage().startswith("epoch 1/"):
            os.kill(os.getpid(), signal.SIGTERM)
        return True

stop = StopInTheSecondEpoch()
logging.getLogger("trainer").addFilter(stop)
before = signal.getsignal(signal.SIGTERM)
try:
    trainer.train(**settings, out="resumed")
except trainer.errors.StoppedError as error:
    print("stopped", error)
assert signal.getsignal(signal.SIGTERM) == before
logging.getLogger("trainer").removeFilter(stop)
trainer.train(**settings, out="resumed")
weights("resumed")
print("root handlers", logging.root.handlers, "level", logging.getLogger("trainer").level)
"""


def python(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs Python in a folder as a user would, on this checkout."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def run(finished_run: Path) -> trainer.Run:
    return trainer.load(finished_run)


@pytest.fixture(scope="module")
def test_images(digits: Path) -> np.ndarray:
    """The test images of `digits`, uint8 (300, 28, 28, 1)."""
    return np.asarray(loader.load(DataOptions(data=str(digits), seed=0)).test.examples)


@pytest.mark.long
@pytest.mark.process
def test_runs_in_one_process_have_the_weights_of_the_command_line(
    job: Job, tmp_path: Path, digits: Path
) -> None:
    """Also in a thread, and when SIGTERM stops a run that is then resumed."""
    (tmp_path / "several_runs.py").write_text(SEVERAL_RUNS)
    result = python(tmp_path, "several_runs.py", digits)
    assert result.returncode == 0, result.stderr
    lines = dict(line.split(" ", 1) for line in result.stdout.splitlines())
    assert lines["stopped"].startswith("stopped by SIGTERM")
    assert lines["root"] == "handlers [] level 0"

    command = job("--model=mlp", f"--data={digits}", "--epochs=3", "--out=command")
    assert command.returncode == 0
    weights = hashlib.sha256((tmp_path / "command/model.h5").read_bytes()).hexdigest()
    assert [lines[out] for out in ("first", "in_a_thread", "resumed")] == [weights] * 3

    # The log of each run appears once; nothing else does.
    log = [line.split("  ")[0] for line in result.stderr.splitlines()]
    assert log.count("epoch 3/3") == 3
    assert log.count("epoch 1/3") == 3
    assert not [line for line in log if line.startswith(("INFO", "WARNING"))]


def test_importing_the_package_imports_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "before = {*sys.modules}\n"
        "import trainer\n"
        "dir(trainer), trainer.errors.UsageError\n"
        "print(*{name.split('.')[0] for name in {*sys.modules} - before})"
    )
    result = python(tmp_path, "-c", program)
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    assert "trainer" in loaded
    assert not loaded & {"tensorflow", "keras", "numpy", "pydantic", "fire", "google", "rich"}
    assert len(loaded) < 40  # All else is of the standard library.


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'fit'"):
        trainer.fit  # noqa: B018
    assert {"train", "load", "Run", "Prediction", "errors"} <= set(dir(trainer))


@pytest.mark.long
def test_mypy_knows_the_settings_and_the_results(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import trainer\n"
        "run = trainer.train(model='mlp', data='mnist', epochs=3, device='cpu')\n"
        "reveal_type(run)\n"
        "reveal_type(trainer.load('runs/1').predict([])[0].confidence)\n"
        "reveal_type(trainer.train.run)\n"
        "trainer.train(modle='mlp')\n"
        "trainer.train(epochs='3')\n"
        "trainer.train(device='tpu')\n"
        "try:\n"
        "    trainer.train()\n"
        "except trainer.errors.UsageError as error:\n"
        "    print(error)\n"
    )
    result = python(tmp_path, "-m", "mypy", "--strict", "--cache-dir=cache", "program.py")
    errors = [line for line in result.stdout.splitlines() if line.startswith("program.py")]
    assert 'Revealed type is "trainer.api.Run"' in errors[0]
    assert 'Revealed type is "float"' in errors[1]
    assert "config: trainer.config.Config" in errors[2]
    assert 'keyword argument "modle"' in errors[3]
    assert '"epochs" has incompatible type "str"' in errors[4]
    assert '"device" has incompatible type' in errors[5]
    assert len(errors) == 6


def test_help_lists_every_setting_with_its_text() -> None:
    names = {option.name for option in option_specs(Config)}
    assert set(inspect.signature(trainer.train).parameters) == names
    text = inspect.getdoc(trainer.train) or ""
    assert text.startswith("Trains a model, writes its run directory")
    page = pydoc.plaintext.document(trainer.train)  # What `help(trainer.train)` prints.
    for option in option_specs(Config):
        line = f"    {option.name}: {option.help.split('{')[0].split('. ')[0]}"
        assert line in text
        assert line in page
    assert "{" not in text


def test_a_setting_without_a_name_is_refused() -> None:
    with pytest.raises(UsageError, match="found 'mlp' without a name, expected settings by name"):
        trainer.train("mlp")


def test_a_run_has_the_results_of_its_files(run: trainer.Run, finished_run: Path) -> None:
    assert run.path == str(finished_run)
    assert run.metrics == json.loads((finished_run / "metrics.json").read_text())
    assert run.config.model == "mlp"
    assert run.config.epochs == 3
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    assert 0 < run.history[0]["accuracy"] <= 1
    assert run.classes == tuple("0123456789")
    accuracy = f"{run.metrics['test']['accuracy']:.2%}"
    assert repr(run) == f"Run({run.path!r}: model mlp, test accuracy {accuracy} of 300 examples)"


def test_the_report_is_a_path_that_a_notebook_shows_as_a_page(
    run: trainer.Run, finished_run: Path
) -> None:
    assert run.report == str(finished_run / "report.html")
    page = run.report._repr_html_()
    assert page.startswith('<iframe srcdoc="&lt;!DOCTYPE html&gt;')
    assert page.count('"') == 6  # All those of the page are escaped.


def test_a_run_is_found_after_a_change_of_the_working_directory(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished_run.parent)
    run = trainer.load(finished_run.name)
    monkeypatch.chdir(tmp_path)
    assert len(run.history) == 3


def test_a_run_in_a_bucket_predicts_as_the_local_one(
    run: trainer.Run, finished_run: Path, bucket: str, test_images: np.ndarray, tmp_path: Path
) -> None:
    from trainer import storage

    files = {
        path.relative_to(finished_run).as_posix(): path
        for path in finished_run.rglob("*")
        if path.is_file()
    }
    storage.write_all(storage.folder(f"{bucket}/runs/1"), files)
    remote = trainer.load(f"{bucket}/runs/1/")
    assert remote.path == f"{bucket}/runs/1"
    assert remote.metrics == run.metrics
    assert remote.predict(test_images[:3]) == run.predict(test_images[:3])

    Image.fromarray(test_images[0, ..., 0]).save(tmp_path / "0.png")
    storage.folder(bucket).write("0.png", tmp_path / "0.png")
    assert remote.predict([f"{bucket}/0.png"]) == run.predict(test_images[:1])


def test_predictions_are_those_of_the_command(
    run: trainer.Run,
    test_images: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path, pixels in zip(paths, test_images, strict=False):
        Image.fromarray(pixels[..., 0]).save(path)
    with pytest.raises(SystemExit):
        main.main(["predict", run.path, *map(str, paths), "--probabilities", "--format=jsonl"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    predictions = run.predict(paths)
    assert [each.label for each in predictions] == [row["predicted"] for row in rows]
    for prediction, row in zip(predictions, rows, strict=True):
        assert prediction.confidence == max(prediction.probabilities.values())
        assert prediction.confidence == pytest.approx(row["probability"], rel=1e-6)
        assert prediction.probabilities == pytest.approx(row["probabilities"], rel=1e-6)


def test_an_image_can_be_an_array_a_list_or_a_path(
    run: trainer.Run, test_images: np.ndarray, tmp_path: Path
) -> None:
    image = test_images[7]
    Image.fromarray(image[..., 0]).save(tmp_path / "7.png")
    forms: list[Any] = [
        image,
        image[..., 0],
        image.astype(float),
        image.tolist(),
        tuple(map(tuple, image[..., 0])),
        tmp_path / "7.png",
        str(tmp_path / "7.png"),
        Image.fromarray(image[..., 0]),
    ]
    (expected,) = run.predict(test_images[7:8])
    predictions = run.predict(forms)
    assert len(predictions) == len(forms)
    for prediction in predictions:
        # The last bits depend on the size of the batch.
        assert prediction.probabilities == pytest.approx(expected.probabilities, rel=1e-5)
    assert run.predict(iter(forms)) == predictions
    assert run.predict([]) == []


def test_predictions_of_many_examples_keep_their_order(
    run: trainer.Run, test_images: np.ndarray
) -> None:
    labels = [each.label for each in run.predict(test_images)]
    assert labels == [run.predict([image])[0].label for image in test_images[:20]] + labels[20:]
    assert len(set(labels)) > 5


def test_texts_are_predicted(trained: Callable[[str], Path]) -> None:
    run = trainer.load(trained("sentiment_small"))
    texts = ["a wonderful, moving film", "a dull and stupid mess"]
    predictions = run.predict(texts)
    assert [each.label in run.classes for each in predictions] == [True, True]
    assert predictions == run.predict(np.array(texts)) == run.predict(tuple(texts))
    with pytest.raises(DataError, match="^example 1: found a number, expected a text$"):
        run.predict(["good", 3])
    with pytest.raises(DataError, match="^example 0: found list, expected a text$"):
        run.predict([["good"]])
    with pytest.raises(UsageError, match="^predict: found str, expected a list of examples"):
        run.predict("good")


def test_vectors_are_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(200) % 2
    examples = random.normal(labels[:, np.newaxis] * 4.0, 1.0, (200, 3)).astype(np.float32)
    arrays = {"x_train": examples, "y_train": labels, "x_test": examples, "y_test": labels}
    np.savez(tmp_path / "data.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    run = trainer.train(
        model="mlp", data=tmp_path / "data.npz", out=tmp_path / "run", epochs=np.int64(5)
    )
    predictions = run.predict(examples)
    assert np.mean([int(each.label) for each in predictions] == labels) > 0.9
    assert run.predict(examples.tolist()) == predictions
    assert run.predict([list(examples[0])])[0].label == predictions[0].label
    with pytest.raises(DataError, match=r"^example 1: found .* shape \(2,\), expected a list of 3"):
        run.predict([[1, 2, 3], [1, 2]])


@pytest.mark.parametrize(
    ("examples", "error", "message"),
    [
        ("digit.png", UsageError, "predict: found str, expected a list of examples"),
        (7, UsageError, "predict: found int, expected a list of examples"),
        (["none.png"], DataError, "example 0: none.png: no such file"),
        ([np.zeros((3, 3))], DataError, r"example 0: found float64 of shape \(3, 3\), expected an"),
        ([np.full((28, 28), 256)], DataError, "example 0: found 256, expected an image of 28x28x1"),
        ([[[1, 2], [3]]], DataError, "example 0: found lists of unequal lengths"),
        ([np.zeros((28, 28)), None], DataError, "example 1: found null, expected an image"),
        (np.zeros((28, 28)), DataError, r"example 0: found float64 of shape \(28,\), expected an"),
        (["."], DataError, "example 0: "),
    ],
)
def test_what_cannot_be_predicted_is_an_error_with_its_index(
    run: trainer.Run,
    examples: Any,
    error: type[TrainerError],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=f"^{message}"):
        run.predict(examples)


def test_several_examples_in_one_file_are_refused(
    run: trainer.Run, test_images: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "two.npy", test_images[:2])
    with pytest.raises(DataError, match=r"two\.npy: found several examples, expected one image"):
        run.predict([tmp_path / "two.npy"])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"modle": "mlp"}, UsageError, r"Unknown setting 'modle'\. Did you mean model\?"),
        ({"batch-size": 3}, UsageError, r"Unknown setting 'batch-size'\. Did you mean batch_size"),
        ({"xyz": 1}, UsageError, r"Unknown setting 'xyz'\. Expected one of: data, "),
        ({"epochs": 0}, UsageError, "--epochs: found 0, expected greater than 0"),
        ({"epochs": "many", "device": "tpu"}, UsageError, ".*--epochs: .*--device: |.*--device: "),
        ({"model": "nn"}, UsageError, "--model: unknown model 'nn'"),
        ({"data": "none"}, StorageError, "none: no such file"),
        ({"config": "none.json"}, StorageError, "none.json: no such file"),
        ({"dry_run": True}, UsageError, "dry_run: returns no run"),
        ({"folds": 3}, UsageError, "folds: requires fold, from 1"),
        ({"device": "gpu"}, DeviceError, "--device gpu: "),
    ],
)
def test_a_wrong_setting_is_an_error_before_training(
    settings: dict[str, Any],
    error: type[TrainerError],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(error, match=f"^{message}"):
        trainer.train(**settings)
    assert not any(tmp_path.iterdir())


def test_several_workers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = {"chief": ["a:1"], "worker": ["b:1"]}
    task = {"type": "chief", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    with pytest.raises(UsageError, match="^TF_CONFIG: found several workers, expected one"):
        trainer.train(model="mlp")


def test_another_run_is_not_replaced_and_the_same_one_is_returned_at_once(
    finished_run: Path, digits: Path
) -> None:
    before = (finished_run / "manifest.json").stat().st_mtime_ns
    with pytest.raises(RunExistsError, match="--epochs was 3, now 2, and it was trained for 3"):
        trainer.train(model="mlp", data=digits, epochs=2, out=finished_run)
    run = trainer.train(model="mlp", data=digits, epochs=3, out=finished_run)
    again = trainer.train(config=finished_run / "config.json", out=finished_run)
    assert run.path == again.path == str(finished_run)
    assert (finished_run / "manifest.json").stat().st_mtime_ns == before


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no manifest\.json there, expected a finished run"):
        trainer.load(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(DamagedRunError, match=r"manifest\.json"):
        trainer.load(tmp_path)
    with pytest.raises(UsageError, match="^load: found ''"):
        trainer.load("")


def test_a_second_training_at_the_same_time_is_refused(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, refused = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    class WaitForTheOther(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            started.set()
            refused.wait(60)
            return True

    def train() -> None:
        try:
            trainer.train(model="mlp", data=digits, epochs=1, out=tmp_path / "run")
        except BaseException as error:
            errors.append(error)

    wait = WaitForTheOther()
    logger = logging.getLogger("trainer")
    logger.addFilter(wait)
    thread = threading.Thread(target=train)
    try:
        thread.start()
        assert started.wait(60)
        with pytest.raises(UsageError, match="^train: another thread of this process is training"):
            trainer.train(model="mlp", data=digits)
    finally:
        refused.set()
        thread.join()
        logger.removeFilter(wait)
    assert not errors
    assert (tmp_path / "run/manifest.json").exists()


def _refuse(*arguments: Any) -> None:
    raise RuntimeError("Visible devices cannot be modified after being initialized")


def test_a_device_that_tensorflow_cannot_change_any_more_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import tensorflow as tf

    from trainer.distributed import devices

    with monkeypatch.context() as patch:
        patch.setattr(tf.config, "set_visible_devices", _refuse)
        with pytest.raises(DeviceError, match="^--device cpu: .* with GPUs.* in a new process"):
            devices.select("cpu")
    with monkeypatch.context() as patch:
        # A GPU that an earlier run with device="cpu" has hidden.
        patch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
        with pytest.raises(DeviceError, match="^--device gpu: .* without GPUs.* in a new process"):
            devices.select("gpu")
        assert devices.select("auto").description.startswith("CPU: ")
    with monkeypatch.context() as patch:
        patch.setattr(tf.config.threading, "set_inter_op_parallelism_threads", _refuse)
        patch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
        patch.delenv("TF_NUM_INTEROP_THREADS", raising=False)
        assert not devices.set_cpu_threads()
        assert devices.select("cpu").description.startswith("CPU: ")  # Only a warning.
