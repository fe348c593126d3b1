"""`--dry-run`: all that a run does but to train to the end, and nothing left behind."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import Job
from tests.fault_proxy import FaultProxy
from trainer import storage


def test_it_tells_what_a_run_will_take_and_leaves_nothing(
    job: Job, digits: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    arguments = ("--model=cnn_fast", f"--data={digits}", "--out=run", "--validation-split=0.2")
    done = job(*arguments, "--epochs=3", "--dry-run", "--price-per-hour=0.7")
    assert (done.returncode, done.stdout) == (0, "")
    told = dict(line.split(": ", 1) for line in done.stderr.splitlines()[1:-1])
    assert told["data"] == "801 train, 199 validation, 300 test; images 28x28x1, 10 classes"
    assert told["writable"] == "run, run/checkpoints"
    assert re.fullmatch(r"\d+ MB, written in \d+\.\d s", told["checkpoint"])
    assert re.fullmatch(r"[\d.]+ [MG]B of [\d.]+ GB at most so far", told["memory"])
    assert re.fullmatch(r"first step \d+\.\d s, then [\d,]+ examples/s", told["speed"])
    assert re.fullmatch(
        r"about [\d.]+ s: [\d.]+ s to start and to write, [\d.]+ s an epoch, 3 epochs", told["time"]
    )
    assert re.fullmatch(r"about 0\.00\d+ at 0\.7 an hour", told["price"])
    assert done.stderr.endswith("all checks passed; nothing was left behind\n")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bucket_is_probed_and_left_empty(job: Job, bucket: str, digits: Path) -> None:
    places = (f"--out={bucket}/run", f"--checkpoint-dir={bucket}/checkpoints")
    done = job("--model=mlp", f"--data={digits}", *places, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"writable: {bucket}/run, {bucket}/checkpoints" in done.stderr
    assert storage.folder(bucket).names() == []


def test_checkpoints_that_could_not_be_written_are_told(
    job: Job, bucket: str, proxy: FaultProxy, digits: Path
) -> None:
    proxy.add(match="POST.*checkpoints", status=403, times=1000)
    places = (f"--out={bucket}/run", f"--checkpoint-dir={bucket}/checkpoints")
    done = job("--model=mlp", f"--data={digits}", *places, "--dry-run")
    assert done.returncode == 2
    assert "checkpoints/.probe-" in done.stderr
    assert "permission denied (403)" in done.stderr


def test_folds_are_counted(job: Job, digits: Path, tmp_path: Path) -> None:
    done = job("--model=mlp", f"--data={digits}", "--out=cv", "--folds=4", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^time: about 4 times [\d.]+ s: ", done.stderr, re.MULTILINE)
    assert "data: 750 train, 250 test" in done.stderr
    assert not (tmp_path / "cv").exists()


def test_a_loss_that_is_no_number_is_found_at_once(job: Job, digits: Path) -> None:
    done = job("--model=mlp", f"--data={digits}", "--learning-rate=1e38", "--dry-run")
    assert done.returncode == 2
    assert re.search(r"the loss became (nan|inf) in epoch 1", done.stderr)
