"""Tests of the metrics file of a tuning trial, which Vertex AI reads."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.conftest import Job
from trainer.errors import StorageError
from trainer.writers import tuning


def rows(count: int) -> list[dict[str, float]]:
    return [{"epoch": n, "loss": 1.0, "val_loss": 1 / n, "val_accuracy": 0.5} for n in
            range(1, count + 1)]  # fmt: skip


def test_there_is_no_report_outside_of_a_trial() -> None:
    assert tuning.report({}) is None


def test_each_line_is_one_metric_with_strings_as_values(tmp_path: Path) -> None:
    file = tmp_path / "new" / "metrics"
    report = tuning.report({"CLOUD_ML_TRIAL_ID": "3", "CLOUD_ML_HP_METRIC_FILE": str(file)})
    assert report is not None
    report(rows(2))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [type(line.pop("timestamp")) for line in lines] == [float] * 4
    assert lines[0] == {
        "checkpoint_path": "", "global_step": "1", "trial": "3", "val_loss": "1.0",
    }  # fmt: skip
    assert lines[3] == {
        "checkpoint_path": "", "global_step": "2", "trial": "3", "val_accuracy": "0.5",
    }  # fmt: skip
    report(rows(80))  # The file is rewritten and never exceeds the lines that the service reads.
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 100
    assert lines[-1]["global_step"] == "80"


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    if os.getuid() == 0:
        path = Path("/proc/nowhere/metrics")  # Not writable by root either.
    else:
        path = tmp_path / "metrics"
        tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="trial 7 .*which only root.*--target root"):
        tuning.report({"CLOUD_ML_TRIAL_ID": "7", "CLOUD_ML_HP_METRIC_FILE": str(path)})


def test_a_trial_reports_its_validation_metrics(job: Job, digits: Path, tmp_path: Path) -> None:
    trial = {"CLOUD_ML_TRIAL_ID": "1", "CLOUD_ML_HP_METRIC_FILE": str(tmp_path / "metrics")}
    # The service passes parameters by their names in the study, with underscores.
    arguments = ("--model=mlp", f"--data={digits}", "--epochs=2", "--learning_rate=0.002")
    refused = job(*arguments, "--out=refused", **trial)
    assert refused.returncode == 2
    assert "--validation-split: a tuning trial needs validation data" in refused.stderr
    result = job(*arguments, "--out=run", "--validation-split=0.2", "--batch_size=64.0", **trial)
    assert result.returncode == 0, result.stderr
    history = (tmp_path / "run" / "history.csv").read_text().splitlines()
    column = history[0].split(",").index("val_accuracy")
    lines = [json.loads(line) for line in (tmp_path / "metrics").read_text().splitlines()]
    reported = [line["val_accuracy"] for line in lines if "val_accuracy" in line]
    assert reported == [row.split(",")[column] for row in history[1:]]
