"""Tests of auto settings: resolved from the data once and saved in config.json."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Job
from tests.data.formats.test_images import encoded
from tests.kills import Runner, fingerprint
from tests.shared_folders import SharedFolders
from tests.workers import team
from trainer import api
from trainer.config import Config, LocatedConfig, complete
from trainer.runs import filenames
from trainer.training.auto_settings import with_saved_data_settings

SMALL = ("--width=16", "--depth=2", "--epochs=8")


@pytest.fixture(scope="module")
def texts(shared: SharedFolders) -> Path:
    """Texts whose class is the order of two words, with four words between them."""
    dice = random.Random(0)
    lines = ["text,label"]
    for _ in range(1500):
        label = dice.choice(["first", "last"])
        pair = ("good", "but") if label == "first" else ("but", "good")
        between, *around = ([f"w{dice.randrange(20)}" for _ in range(count)] for count in (4, 2, 2))
        lines.append(" ".join([*around[0], pair[0], *between, pair[1], *around[1]]) + f",{label}")

    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "order.csv").write_text("\n".join(lines))

    return shared.get("order", make) / "order.csv"


@pytest.fixture
def runner(tmp_path: Path, texts: Path) -> Runner:
    return Runner(tmp_path, texts, model="text", arguments=SMALL)


@pytest.fixture(scope="module")
def auto_run(shared: SharedFolders, texts: Path) -> Path:
    """A run without --architecture, read-only; its log is the file `log` beside it."""

    def make(folder: Path) -> None:
        folder.mkdir()
        Runner(folder, texts, model="text", arguments=SMALL).finish("auto_settings")

    return shared.get("selection", make) / "auto_settings"


def candidates(log: str) -> list[str]:
    """Returns the architectures that were compared, by their log lines."""
    return [line.split(":")[0] for line in log.splitlines() if line.startswith("--architecture ")]


@pytest.mark.long
def test_the_architecture_with_the_better_validation_accuracy_is_trained(auto_run: Path) -> None:
    """n-grams do not capture the order of two words with four words between them."""
    log = (auto_run.parent / "log").read_text()
    assert candidates(log) == ["--architecture ngram", "--architecture convolution"]
    config = json.loads((auto_run / filenames.CONFIG).read_text())
    assert config["architecture"] == "convolution"
    assert config["auto_settings"] == [
        "architecture", "batch_size", "learning_rate", "max_tokens", "sequence_length"
    ]  # fmt: skip
    assert "auto settings: --architecture convolution, --batch-size " in log
    metrics = json.loads((auto_run / filenames.METRICS).read_text())
    assert metrics["test"]["accuracy"] > 0.9
    assert "<dd>convolution (auto)</dd>" in (auto_run / filenames.REPORT).read_text()


@pytest.mark.long
def test_the_same_command_finds_the_finished_run(runner: Runner, auto_run: Path) -> None:
    runner.finish(str(auto_run))
    assert "finished already" in runner.log.read_text()
    process = runner.start(str(auto_run), "--architecture=ngram")
    assert process.wait(60) == 2
    assert '--architecture was "convolution", now "ngram"' in runner.log.read_text()


@pytest.mark.long
def test_a_resumed_run_keeps_its_auto_settings(runner: Runner, auto_run: Path) -> None:
    pointer = runner.folder / "killed" / "checkpoints" / "latest.json"
    process = runner.start("killed", "--checkpoint-steps=1")
    while process.poll() is None and not pointer.exists():
        time.sleep(0.02)
    process.kill()
    process.wait()
    runner.finish("killed")
    log = runner.log.read_text()
    assert "resuming from killed/checkpoints/" in log
    assert candidates(log) == []
    killed = fingerprint(str(runner.folder / "killed"), runner.folder)
    assert killed == fingerprint(str(auto_run), runner.folder)


@pytest.mark.long
def test_two_workers_select_the_same_architecture_as_one(texts: Path, tmp_path: Path) -> None:
    with team(tmp_path, texts) as workers:
        workers.finish("text", "--out=two", *SMALL)
        config = json.loads((workers.worker_folder(0) / "two" / filenames.CONFIG).read_text())
    assert config["architecture"] == "convolution"


def test_a_class_too_small_for_a_validation_split_is_an_error(job: Job, tmp_path: Path) -> None:
    lines = ["good,yes", "fine,yes", "great,yes", "bad,no", "awful,no"]
    (tmp_path / "few.csv").write_text("\n".join(["text,label", *lines]))
    result = job("--model=text", "--data=few.csv", "--out=run")
    assert result.returncode == 2
    assert result.stderr.endswith(
        "class 'no' has 1 example, too few to hold one out, to compare --architecture ngram and "
        "convolution; set --architecture\n"
    )


def test_a_candidate_that_cannot_be_built_is_left_out(job: Job, tmp_path: Path) -> None:
    """No word occurs twice, which only the n-grams of characters can do with."""
    names = ["ivanov", "petrov", "rossi", "ricci", "sidorov", "bianchi", "popov", "conti"]
    rows = [f"{name[:-1]}{letter}{name[-1]},{'ru' if name.endswith('v') else 'it'}\n"
            for name in names for letter in "abcdefgh"]  # fmt: skip
    (tmp_path / "names").mkdir()
    (tmp_path / "names/names.csv").write_text("text,label\n" + "".join(rows))
    (tmp_path / "names/README.md").write_text("what they are")
    result = job("--model=text", "--data=names", "--epochs=1")
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith(
        "names: CSV with texts in column 'text', labels in 'label'; train 58, test 6; 2 classes: "
        "it, ru\nnames: left out README.md (notes)\n"
    )
    assert "--architecture convolution is left out: --model: no word occurs 2" in result.stderr
    assert (next((tmp_path / "runs").iterdir()) / "report.html").exists()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of several sizes in two classes, of which one image has a single colour."""
    dice = np.random.default_rng(0)
    for number in range(40):
        height, width = dice.integers(40, 90, 2)
        pixels = dice.integers(0, 100, (height, width)) + 100 * (number % 2)
        folder = tmp_path / "photos" / ("dark", "light")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = pixels * 0 if number == 4 else pixels
        (folder / f"{number}.png").write_bytes(encoded(pixels.astype(np.uint8)))
    return tmp_path / "photos"


def test_the_chosen_image_size_is_a_setting_of_the_run(
    job: Job, photos: Path, tmp_path: Path
) -> None:
    arguments = ("--model=mlp", f"--data={photos}", "--epochs=1", "--out=run")
    process = job(*arguments)
    assert process.returncode == 0, process.stderr
    assert "pixels, resized to 32x32; train 36, test 4; 2 classes: dark, light" in process.stderr
    assert "auto settings: --image-size 32" in process.stderr
    assert "36 training images have a single colour" in process.stderr
    run = json.loads((tmp_path / "run" / filenames.CONFIG).read_text())
    assert (run["image_size"], run["auto_settings"]) == (32, ["image_size"])
    assert "finished already" in job(*arguments).stderr
    again = job(*arguments, "--image-size=40")
    assert again.returncode == 2
    assert "--image-size was 32, now 40" in again.stderr
    # Images to predict are resized to the same size.
    small = tmp_path / "small.png"
    small.write_bytes(encoded(np.full((7, 9), 180, np.uint8)))
    model = api.load(str(tmp_path / "run"))
    assert len(model.predict([str(small)])) == 1


def test_a_resumed_run_keeps_the_chosen_image_size() -> None:
    config = complete(LocatedConfig, Config(), data="mnist", out="a")
    assert with_saved_data_settings(config, {"image_size": 96, "width": 3}).image_size == 96
    given = complete(LocatedConfig, Config(image_size=40), data="mnist", out="a")
    assert with_saved_data_settings(given, {"image_size": 96}).image_size == 40
