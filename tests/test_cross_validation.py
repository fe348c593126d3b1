"""`--folds` as processes of their own: ordinary runs, and what they give together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.conftest import Job
from trainer import storage
from trainer.results import manifest, names

ARGUMENTS = ("--model=mlp", "--epochs=1", "--folds=3")


def test_each_example_is_tested_once_by_a_model_that_never_saw_it(
    job: Job, digits: Path, tmp_path: Path
) -> None:
    # One fold in a process of its own, as a cluster would share them out.
    alone = job(*ARGUMENTS, "--data", digits, "--fold=2", "--out=alone")
    assert alone.returncode == 0, alone.stderr
    earlier = job(*ARGUMENTS, "--data", digits, "--fold=1", "--out=cv/fold-1")
    assert earlier.returncode == 0, earlier.stderr
    before = (tmp_path / "cv/fold-1" / names.MANIFEST).stat().st_mtime_ns

    done = job(*ARGUMENTS, "--data", digits, "--out=cv")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cv\n"
    assert "3 folds: test accuracy " in done.stderr.splitlines()[-1]
    assert (tmp_path / "cv/fold-1" / names.MANIFEST).stat().st_mtime_ns == before
    for number in (1, 2, 3):
        folder = storage.folder(str(tmp_path / f"cv/fold-{number}"))
        assert manifest.verify(folder, manifest.read(folder)) == []
    in_one = (tmp_path / "cv/fold-2" / names.MODEL_H5).read_bytes()
    assert in_one == (tmp_path / "alone" / names.MODEL_H5).read_bytes()

    summary = json.loads((tmp_path / "cv" / names.FOLDS).read_text())
    figures = [
        json.loads((tmp_path / f"cv/fold-{number}" / names.METRICS).read_text())
        for number in (1, 2, 3)
    ]
    assert np.sum(summary["confusion"]) == 1000  # The 300 of the test part are left out.
    accuracies = [each["test"]["accuracy"] for each in figures]
    assert [fold["accuracy"] for fold in summary["folds"]] == accuracies
    assert summary["test"]["accuracy"]["mean"] == np.mean(accuracies)


def test_what_is_in_the_way_is_refused(job: Job, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("all my work")
    done = job(*ARGUMENTS, "--data", digits, "--out=mine", "--overwrite")
    assert done.returncode == 2
    assert "--out mine: holds files that are no folds (thesis.txt, 1 in all)" in done.stderr
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_overwriting_leaves_no_fold_of_before(job: Job, digits: Path, tmp_path: Path) -> None:
    for folds in (3, 2):
        done = job(
            "--model=mlp", "--epochs=1", f"--folds={folds}", "--data", digits, "--out=cv",
            "--overwrite",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "cv").iterdir()} == {"fold-1", "fold-2", names.FOLDS}
