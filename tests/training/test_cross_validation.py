"""Tests of `--folds`, run as processes: each fold is an ordinary run, `folds.json` sums up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Job
from tests.kills import write_digits
from trainer import storage
from trainer.runs import filenames, manifest

ARGUMENTS = ("--model=mlp", "--epochs=1", "--folds=3")


@pytest.mark.process
@pytest.mark.long
def test_each_example_is_tested_once_by_a_model_not_trained_on_it(
    job: Job, digits: Path, tmp_path: Path
) -> None:
    # One fold in its own process, as when folds are distributed over machines.
    single = job(*ARGUMENTS, "--data", digits, "--fold=2", "--out=single")
    assert single.returncode == 0, single.stderr
    earlier = job(*ARGUMENTS, "--data", digits, "--fold=1", "--out=cv/fold-1")
    assert earlier.returncode == 0, earlier.stderr
    before = (tmp_path / "cv/fold-1" / filenames.MANIFEST).stat().st_mtime_ns

    result = job(*ARGUMENTS, "--data", digits, "--out=cv")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "cv\n"
    assert "3 folds: test accuracy " in result.stderr.splitlines()[-1]
    assert (tmp_path / "cv/fold-1" / filenames.MANIFEST).stat().st_mtime_ns == before
    for number in (1, 2, 3):
        folder = storage.folder(str(tmp_path / f"cv/fold-{number}"))
        assert manifest.verify(folder, manifest.read(folder)) == []
    in_sequence = (tmp_path / "cv/fold-2" / filenames.MODEL_H5).read_bytes()
    assert in_sequence == (tmp_path / "single" / filenames.MODEL_H5).read_bytes()

    summary = json.loads((tmp_path / "cv" / filenames.FOLDS).read_text())
    figures = [
        json.loads((tmp_path / f"cv/fold-{number}" / filenames.METRICS).read_text())
        for number in (1, 2, 3)
    ]
    assert np.sum(summary["confusion"]) == 1000  # Without the 300 of the test split.
    accuracies = [each["test"]["accuracy"] for each in figures]
    assert [fold["accuracy"] for fold in summary["folds"]] == accuracies
    assert summary["test"]["accuracy"]["mean"] == np.mean(accuracies)


def test_a_folder_with_other_files_is_refused(job: Job, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("all my work")
    result = job(*ARGUMENTS, "--data", digits, "--out=mine", "--overwrite")
    assert result.returncode == 2
    expected = "--out mine: holds files that do not belong to 3 folds (thesis.txt, 1 in total)"
    assert expected in result.stderr
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_finished_folds_of_other_data_are_refused_before_training(
    job: Job, digits: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(digits, data)
    result = job(*ARGUMENTS, "--data", data, "--fold=3", "--out=cv/fold-3")
    assert result.returncode == 0, result.stderr
    write_digits(data, examples=900)
    result = job(*ARGUMENTS, "--data", data, "--out=cv")
    assert result.returncode == 2
    assert "--out cv/fold-3: holds a finished run on other data: train had 667" in result.stderr
    assert [path.name for path in (tmp_path / "cv").iterdir()] == ["fold-3"]


def test_a_fold_beyond_the_number_of_folds_is_refused(job: Job, digits: Path) -> None:
    assert job(*ARGUMENTS, "--data", digits, "--fold=3", "--out=cv/fold-3").returncode == 0
    result = job("--model=mlp", "--folds=2", "--data", digits, "--out=cv", "--overwrite")
    assert result.returncode == 2
    assert "files that do not belong to 2 folds (fold-3/checkpoint.h5" in result.stderr


@pytest.mark.long
def test_overwrite_replaces_all_folds_once(job: Job, digits: Path, tmp_path: Path) -> None:
    """After a kill, the same command keeps the folds that it has replaced already."""

    def times() -> list[int]:
        return [
            (tmp_path / f"cv/fold-{number}" / filenames.MANIFEST).stat().st_mtime_ns
            for number in (1, 2, 3)
        ]

    arguments = (*ARGUMENTS, "--data", digits, "--out=cv/", "--overwrite")
    assert job(*arguments).returncode == 0
    first = times()
    assert job(*arguments).returncode == 0
    second = times()
    assert all(after > before for after, before in zip(second, first, strict=True))
    # The state after a kill in the third fold.
    (tmp_path / "cv" / filenames.FOLDS).unlink()
    (tmp_path / "cv/fold-3" / filenames.MANIFEST).unlink()
    assert job(*arguments).returncode == 0
    assert times()[:2] == second[:2]
    assert times()[2] > second[2]
