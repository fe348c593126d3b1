"""Tests of what a run is resumed by: its content, not the spelling of its flags; and more epochs.

Jobs run in this process where nothing but their results is tested; a job stops itself by SIGTERM.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Job
from tests.kills import Runner, fingerprint
from trainer import storage
from trainer.runs import filenames, manifest

# Everything with a state: dropout, batch normalization, a moving average of the weights, callbacks
# with a state, random generators. If there is a file `stop`, the job stops after an epoch.
MODEL = """
import os, random, signal
import keras
import numpy as np
from trainer.models import Recipe

class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["drawn"] = random.random() + np.random.random()
        if os.path.exists("stop"):
            os.remove("stop")
            os.kill(os.getpid(), signal.SIGTERM)

def callbacks():
    return [
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=50, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(monitor="val_loss", patience=0, factor=0.7),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.97),
        Stop(),
    ]

def optimizer(rate, steps):
    return keras.optimizers.Adam(rate, use_ema=True, ema_momentum=0.9)

RECIPE = Recipe(optimizer=optimizer, learning_rate=0.01, batch_size=16, callbacks=callbacks)

def build(spec):
    layers = keras.layers
    return keras.Sequential([
        keras.Input(spec.shape, dtype=spec.dtype),
        layers.Rescaling(1 / 255),
        layers.Flatten(),
        layers.Dense(8, activation="relu"),
        layers.BatchNormalization(),
        layers.Dropout(0.3),
        layers.Dense(len(spec.classes), activation="softmax"),
    ])
"""


def write_data(path: Path, seed: int = 0) -> Path:
    """Writes 120 training and 40 test images of 6 x 6 pixels in 4 classes, as .npz."""
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 256, (160, 6, 6)).astype(np.uint8)
    y = np.arange(160) % 4
    x[np.arange(160), y] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x_train=x[:120], y_train=y[:120], x_test=x[120:], y_test=y[120:])
    return path


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    write_data(tmp_path / "d/tiny.npz")
    (tmp_path / "mine.py").write_text(MODEL)
    return ["--model=mine:build", "--data=d/tiny.npz", "--validation-split=0.2", "--seed=3"]


def change_model(folder: Path, old: str, new: str) -> None:
    assert old in MODEL
    (folder / "mine.py").write_text(MODEL.replace(old, new))


def stopped(job: Job, flags: list[str], folder: Path, out: str, epochs: int = 3) -> None:
    """Starts a run and stops it after the first epoch."""
    (folder / "stop").touch()
    assert job(*flags, f"--epochs={epochs}", f"--out={out}").returncode == 143


def results(folder: Path, out: str) -> dict[str, Any]:
    found = fingerprint(out if storage.is_remote(out) else str(folder / out), folder)
    found["metrics"].pop("data")  # The path, which may differ.
    return found


def refused(result: subprocess.CompletedProcess[str], *texts: str) -> None:
    assert result.returncode == 2, result.stderr
    message = result.stderr.strip().splitlines()[-1]
    for text in texts:
        assert text in message


@pytest.mark.parametrize("between", ["finished", pytest.param("stopped", marks=pytest.mark.long)])
def test_two_epochs_and_two_more_are_bit_identical_to_four(
    job: Job, flags: list[str], tmp_path: Path, between: str
) -> None:
    assert job(*flags, "--epochs=4", "--out=whole").returncode == 0
    if between == "stopped":
        stopped(job, flags, tmp_path, "more", epochs=2)
    else:
        assert job(*flags, "--epochs=2", "--out=more").returncode == 0
    continued = job(*flags, "--epochs=4", "--out=more")
    assert continued.returncode == 0, continued.stderr
    assert "resuming from " in continued.stderr
    assert results(tmp_path, "more") == results(tmp_path, "whole")
    settings = json.loads((tmp_path / "more" / filenames.CONFIG).read_text())
    assert settings["epochs"] == 4
    folder = storage.folder(str(tmp_path / "more"))
    assert manifest.verify(folder, manifest.read(folder)) == []
    assert not (tmp_path / "more" / filenames.CHECKPOINTS).exists()
    refused(job(*flags, "--epochs=3", "--out=more"), "was trained for 4 epochs")


@pytest.mark.long
def test_more_epochs_that_are_stopped_leave_the_finished_run_valid(
    job: Job, flags: list[str], tmp_path: Path
) -> None:
    assert job(*flags, "--epochs=4", "--out=whole").returncode == 0
    assert job(*flags, "--epochs=2", "--out=more").returncode == 0
    before = results(tmp_path, "more")
    stopped(job, flags, tmp_path, "more", epochs=4)
    folder = storage.folder(str(tmp_path / "more"))
    assert results(tmp_path, "more") == before
    assert manifest.verify(folder, manifest.read(folder)) == []
    # The finished run of two epochs is still there, and its checkpoints are not removed.
    again = job(*flags, "--epochs=2", "--out=more")
    assert (again.returncode, "finished already" in again.stderr) == (0, True)
    resumed = job(*flags, "--epochs=4", "--out=more")
    assert "resuming from more/checkpoints/" in resumed.stderr
    assert results(tmp_path, "more") == results(tmp_path, "whole")


@pytest.mark.long
def test_a_run_on_a_bucket_is_trained_for_more_epochs(
    job: Job, flags: list[str], tmp_path: Path, bucket: str
) -> None:
    assert job(*flags, "--epochs=2", f"--out={bucket}/more").returncode == 0
    assert job(*flags, "--epochs=3", f"--out={bucket}/more").returncode == 0
    assert job(*flags, "--epochs=3", "--out=whole").returncode == 0
    assert results(tmp_path, f"{bucket}/more") == results(tmp_path, "whole")
    names = storage.folder(f"{bucket}/more").names()
    assert [name for name in names if name.startswith((".", filenames.CHECKPOINTS))] == []


def test_more_epochs_are_refused_if_the_schedule_is_over_all_steps(
    job: Job, flags: list[str], tmp_path: Path
) -> None:
    decay = "keras.optimizers.schedules.CosineDecay(rate, steps)"
    change_model(tmp_path, "Adam(rate, use", f"Adam({decay}, use")
    (tmp_path / "mine.py").write_text(
        (tmp_path / "mine.py").read_text().replace("keras.callbacks.ReduceLR", "#").replace(
            "keras.callbacks.LearningRateS", "#"
        )
    )  # fmt: skip
    assert job(*flags, "--epochs=2", "--out=done").returncode == 0
    assert not (tmp_path / "done" / filenames.FINAL_CHECKPOINT).exists()
    refused(
        job(*flags, "--epochs=4", "--out=done"),
        "--epochs was 2, now 4, and more epochs cannot continue it",
        "the optimizer of its recipe depends on the number of epochs (learning_rate decay_steps)",
        "Set another --out, or --overwrite to train from the beginning",
    )
    stopped(job, flags, tmp_path, "begun")
    refused(
        job(*flags, "--epochs=4", "--out=begun"),
        "--epochs was 3, now 4, and the optimizer of this recipe depends on the number of epochs: "
        "optimizer: learning_rate decay_steps was 18, now 24",
    )


def test_more_epochs_are_refused_if_a_callback_reads_their_number(
    job: Job, flags: list[str], tmp_path: Path
) -> None:
    change_model(tmp_path, "random.random() +", "epoch / self.params['epochs'] +")
    stopped(job, flags, tmp_path, "begun")
    refused(
        job(*flags, "--epochs=4", "--out=begun"), "a callback of this recipe reads the number of"
    )
    assert job(*flags, "--epochs=3", "--out=begun").returncode == 0
    refused(job(*flags, "--epochs=4", "--out=begun"), "a callback of its recipe reads the number")


@pytest.mark.long
def test_fewer_epochs_than_done_are_refused(job: Job, flags: list[str], tmp_path: Path) -> None:
    assert job(*flags, "--epochs=2", "--out=run").returncode == 0
    stopped(job, flags, tmp_path, "run", epochs=5)
    stopped(job, flags, tmp_path, "run", epochs=5)
    refused(
        job(*flags, "--epochs=3", "--out=run"),
        "--epochs is 3, and the run was trained for 4 epochs already",
    )
    assert job(*flags, "--epochs=4", "--out=run").returncode == 0


def test_the_same_data_at_another_path_resumes_and_other_data_does_not(
    job: Job, flags: list[str], tmp_path: Path
) -> None:
    assert job(*flags, "--epochs=3", "--out=whole").returncode == 0
    stopped(job, flags, tmp_path, "run")
    shutil.move(tmp_path / "d", tmp_path / "moved")
    write_data(tmp_path / "d/tiny.npz", seed=1)
    other = job(*flags, "--epochs=3", "--out=run")
    refused(other, "the data is other data: the numbers of examples and the classes are the same")
    refused(other, "--resume never --overwrite to start from the beginning")
    result = job(*flags, "--data=./moved/tiny.npz", "--epochs=3", "--out=run")
    assert "resuming from run/checkpoints/" in result.stderr
    assert results(tmp_path, "run") == results(tmp_path, "whole")


def test_a_finished_run_is_compared_by_the_content_of_its_data(
    job: Job, flags: list[str], tmp_path: Path, bucket: str
) -> None:
    assert job(*flags, "--epochs=1", "--out=run").returncode == 0
    storage.folder(bucket).write("x.npz", tmp_path / "d/tiny.npz")
    for path in "./d/tiny.npz", f"{tmp_path}/d/tiny.npz", "d", f"{bucket}/x.npz":
        result = job(*flags, f"--data={path}", "--epochs=1", "--out=run")
        assert (result.returncode, "finished already" in result.stderr) == (0, True), result.stderr
    (tmp_path / "d/tiny.npz").unlink()
    result = job(*flags, "--epochs=1", "--out=run")  # No longer there, and not needed.
    assert (result.returncode, "finished already" in result.stderr) == (0, True)
    write_data(tmp_path / "d/tiny.npz", seed=1)
    refused(job(*flags, "--epochs=1", "--out=run"), "holds a finished run on other data: the num")


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("Adam(rate, use_ema=True, ema_momentum=0.9)", "SGD(rate)", "optimizer was Adam, now SGD"),
        *(
            pytest.param(*change, marks=pytest.mark.long)
            for change in [
                ("relu", "tanh", "layer 3 dense: activation was relu, now tanh"),
                ("Dropout(0.3)", "Dropout(0.4)", "layer 5 dropout: rate was 0.3, now 0.4"),
                ("layers.Flatten(),", "layers.Flatten(), layers.ReLU(),", "layer 3 relu was added"),
                ("rate * 0.97", "rate * 0.9", "learningratescheduler: schedule: its code differs"),
                ("factor=0.7", "factor=0.5", "2 reducelronplateau: factor was 0.7, now 0.5"),
                ("batch_size", "label_smoothing=0.1, batch_size", "loss: label_smoothing was 0.0"),
            ]
        ),
    ],
)
def test_a_run_whose_model_has_other_code_does_not_resume(
    job: Job, flags: list[str], tmp_path: Path, old: str, new: str, text: str
) -> None:
    stopped(job, flags, tmp_path, "run")
    change_model(tmp_path, old, new)
    result = job(*flags, "--epochs=3", "--out=run")
    refused(result, "it is of another run: ", text, "--resume never --overwrite")
    if old == "relu":
        started = job(*flags, "--epochs=1", "--out=run", "--resume=never", "--overwrite")
        assert started.returncode == 0, started.stderr


@pytest.mark.long
def test_a_changed_comment_and_a_time_in_a_callback_do_not_keep_a_run_from_resuming(
    job: Job, flags: list[str], tmp_path: Path
) -> None:
    created = (
        "class Stop(keras.callbacks.Callback):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.created = __import__('time').perf_counter()\n"
    )
    change_model(tmp_path, "class Stop(keras.callbacks.Callback):\n", created)
    stopped(job, flags, tmp_path, "run")
    source = (tmp_path / "mine.py").read_text()
    (tmp_path / "mine.py").write_text("# A comment.\n\n" + source)
    result = job(*flags, "--epochs=3", "--out=run")
    assert result.returncode == 0, result.stderr
    assert "resuming from run/checkpoints/" in result.stderr


@pytest.mark.long
def test_a_run_that_ended_early_does_not_change_by_more_epochs(
    job: Job, flags: list[str], tmp_path: Path
) -> None:
    change_model(tmp_path, "patience=50", "patience=0, min_delta=9.0")
    assert job(*flags, "--epochs=3", "--out=run").returncode == 0
    before = results(tmp_path, "run")
    result = job(*flags, "--epochs=9", "--out=run")
    assert result.returncode == 0, result.stderr
    assert "a callback ended the training after epoch" in result.stderr
    assert results(tmp_path, "run") == before
    assert job(*flags, "--epochs=4", "--out=run").returncode == 0
    assert results(tmp_path, "run") == before


@pytest.fixture
def runner(tmp_path: Path, flags: list[str]) -> Iterator[Runner]:
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed/mine.py").write_text(MODEL)
    yield Runner(
        tmp_path / "killed",
        tmp_path / "d/tiny.npz",
        model="mine:build",
        arguments=("--validation-split=0.2", "--seed=3", "--checkpoint-steps=7"),
    )


@pytest.mark.long
@pytest.mark.parametrize("place", ["local", "gs"])
def test_more_epochs_killed_at_any_time_are_bit_identical(
    runner: Runner, request: pytest.FixtureRequest, place: str
) -> None:
    out = "more" if place == "local" else f"{request.getfixturevalue('bucket')}/more"
    runner.finish("whole", "--epochs=60")
    runner.finish(out, "--epochs=2")
    instants = random.Random(place)
    process = runner.start(out, "--epochs=60")
    for _ in range(6):
        runner.wait_for_log(process, "resuming from ")
        try:
            process.wait(instants.uniform(0, 2))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        described = storage.folder(out if place == "gs" else str(runner.folder / out))
        if described.generation(filenames.MANIFEST):
            assert manifest.verify(described, manifest.read(described)) == []
        process = runner.start(out, "--epochs=60")
    assert process.wait(120) == 0, runner.log.read_text()
    found = fingerprint(out if place == "gs" else str(runner.folder / out), runner.folder)
    assert found == fingerprint(str(runner.folder / "whole"), runner.folder)
