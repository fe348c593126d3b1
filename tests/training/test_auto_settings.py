"""What nobody gave is decided by the data, once, and written down."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from tests.conftest import Job
from tests.kills import Runner, fingerprint
from tests.workers import team
from trainer.runs import filenames

SMALL = ("--width=16", "--depth=2", "--epochs=8")


@pytest.fixture(scope="module")
def select(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of which the order of two words, with others between, decides the class."""
    dice = random.Random(0)
    lines = ["text,label"]
    for _ in range(1500):
        label = dice.choice(["first", "last"])
        pair = ("good", "but") if label == "first" else ("but", "good")
        between, *around = ([f"w{dice.randrange(20)}" for _ in range(count)] for count in (4, 2, 2))
        lines.append(" ".join([*around[0], pair[0], *between, pair[1], *around[1]]) + f",{label}")
    path = tmp_path_factory.mktemp("order") / "order.csv"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, where: Path) -> Runner:
    folder = tmp_path_factory.mktemp("selection")
    return Runner(folder, where, model="text", arguments=SMALL)


@pytest.fixture(scope="module")
def chosen(runner: Runner) -> Path:
    """A run whose network was left open; and, beside it, what it said."""
    runner.finish("auto_settings")
    (runner.folder / "said").write_text(runner.log.read_text())
    return runner.folder / "auto_settings"


def tried(said: str) -> list[str]:
    return [line.split(":")[0] for line in said.splitlines() if line.startswith("--architecture ")]


def test_the_better_network_by_validation_is_trained(chosen: Path) -> None:
    """n-grams do not see which of two words comes first if four are between them."""
    said = (chosen.parent / "said").read_text()
    assert tried(said) == ["--architecture ngram", "--architecture convolution"]
    config = json.loads((chosen / filenames.CONFIG).read_text())
    assert config["network"] == "convolution"
    assert config["auto_settings"] == [
        "network",
        "batch_size",
        "learning_rate",
        "vocabulary",
        "length",
    ]
    metrics = json.loads((chosen / filenames.METRICS).read_text())
    assert metrics["test"]["accuracy"] > 0.9
    assert "<dd>convolution, by the data</dd>" in (chosen / filenames.REPORT).read_text()


def test_a_finished_run_with_what_was_chosen_is_this_run(runner: Runner, chosen: Path) -> None:
    runner.finish("auto_settings")
    assert "finished already" in runner.log.read_text()
    process = runner.start("auto_settings", "--architecture=ngram")
    assert process.wait(60) == 2
    assert '--architecture was "convolution", now "ngram"' in runner.log.read_text()


@pytest.mark.long
def test_a_run_that_is_killed_goes_on_with_what_it_chose(runner: Runner, chosen: Path) -> None:
    pointer = runner.folder / "killed" / "checkpoints" / "latest.json"
    process = runner.start("killed", "--checkpoint-steps=1")
    while process.poll() is None and not pointer.exists():
        time.sleep(0.02)
    process.kill()
    process.wait()
    runner.finish("killed")
    said = runner.log.read_text()
    assert "going on from killed/checkpoints/" in said
    assert tried(said) == []
    killed = fingerprint(str(runner.folder / "killed"), runner.folder)
    assert killed == fingerprint(str(chosen), runner.folder)


@pytest.mark.long
def test_two_workers_choose_as_one_does(where: Path, chosen: Path, tmp_path: Path) -> None:
    with team(tmp_path, where) as workers:
        workers.finish("text", "--out=two", *SMALL)
        config = json.loads((workers.place(0) / "two" / filenames.CONFIG).read_text())
    assert config["network"] == "convolution"


def test_a_class_too_small_to_hold_one_out_is_told(job: Job, tmp_path: Path) -> None:
    lines = ["good,yes", "fine,yes", "great,yes", "bad,no", "awful,no"]
    (tmp_path / "few.csv").write_text("\n".join(["text,label", *lines]))
    done = job("--model=text", "--data=few.csv", "--out=run")
    assert done.returncode == 2
    assert done.stderr.endswith(
        "class 'no' has 1 example, too few to hold one out, to try --architecture ngram and "
        "convolution; give one\n"
    )
