"""Tests of `--dry-run`: all stages of a run, a second of training, and no files left behind."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import Job
from tests.fault_proxy import FaultProxy
from trainer import storage


def test_a_dry_run_estimates_the_run_and_leaves_no_files(
    job: Job, digits: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    arguments = ("--model=cnn_fast", f"--data={digits}", "--out=run", "--validation-split=0.2")
    result = job(*arguments, "--epochs=3", "--dry-run", "--price-per-hour=0.7")
    assert (result.returncode, result.stdout) == (0, "")
    report = dict(line.split(": ", 1) for line in result.stderr.splitlines() if ": " in line)
    assert report["data"] == "801 train, 199 validation, 300 test; images 28x28x1, 10 classes"
    assert report["writable"] == "run, run/checkpoints"
    assert re.fullmatch(r"\d+ MB, written in \d+\.\d s", report["checkpoint"])
    assert re.fullmatch(r"peak [\d.]+ [MG]B of [\d.]+ GB", report["memory"])
    assert re.fullmatch(r"first step \d+\.\d s, then [\d,]+ examples/s", report["speed"])
    assert re.fullmatch(
        r"about [\d.]+ s: [\d.]+ s to start and to write, [\d.]+ s per epoch, 3 epochs",
        report["time"],
    )
    assert re.fullmatch(r"about 0\.00\d+ at 0\.7 per hour", report["price"])
    assert result.stderr.endswith("all checks passed; no files were left behind\n")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bucket_is_checked_and_left_empty(job: Job, bucket: str, digits: Path) -> None:
    places = (f"--out={bucket}/run", f"--checkpoint-dir={bucket}/checkpoints")
    result = job("--model=mlp", f"--data={digits}", *places, "--dry-run")
    assert result.returncode == 0, result.stderr
    assert f"writable: {bucket}/run, {bucket}/checkpoints" in result.stderr
    assert storage.folder(bucket).names() == []


def test_a_checkpoint_folder_that_cannot_be_written_is_an_error(
    job: Job, bucket: str, proxy: FaultProxy, digits: Path
) -> None:
    proxy.add(match="POST.*checkpoints", status=403, times=1000)
    places = (f"--out={bucket}/run", f"--checkpoint-dir={bucket}/checkpoints")
    result = job("--model=mlp", f"--data={digits}", *places, "--dry-run")
    assert result.returncode == 2
    assert "checkpoints/.probe-" in result.stderr
    assert "permission denied (403)" in result.stderr


def test_the_estimate_covers_all_folds(job: Job, digits: Path, tmp_path: Path) -> None:
    result = job("--model=mlp", f"--data={digits}", "--out=cv", "--folds=4", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert re.search(r"^time: about 4 times [\d.]+ s: ", result.stderr, re.MULTILINE)
    assert "data: 750 train, 250 test" in result.stderr
    assert not (tmp_path / "cv").exists()


def test_a_diverging_loss_is_detected(job: Job, digits: Path) -> None:
    result = job("--model=mlp", f"--data={digits}", "--learning-rate=1e38", "--dry-run")
    assert result.returncode == 2
    assert re.search(r"the loss became (nan|inf) in epoch 1", result.stderr)
