"""Tests of loading finished runs, whose files must match the manifest."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from trainer import storage
from trainer.config import DataOptions
from trainer.data import loader
from trainer.errors import DamagedRunError, StorageError
from trainer.runs.finished_run import load_model, read_run
from trainer.training import setup


@pytest.fixture
def run_copy(tmp_path: Path, finished_run: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def test_the_loaded_model_reproduces_the_test_accuracy(
    finished_run: Path, digits: Path, bucket: str
) -> None:
    files = {
        path.relative_to(finished_run).as_posix(): path
        for path in finished_run.rglob("*")
        if path.is_file()
    }
    storage.write_all(storage.folder(f"{bucket}/run"), files)
    run = read_run(f"{bucket}/run")
    test = loader.load(DataOptions(data=str(digits), seed=0)).test
    with load_model(run) as model:
        predicted = model.predict(test.examples).argmax(axis=1)
    assert run.classes == tuple("0123456789")
    assert np.mean(predicted == test.labels) == run.metrics["test"]["accuracy"]


def test_a_file_that_differs_from_the_manifest_is_not_loaded(run_copy: Path) -> None:
    graph = run_copy / "saved_model/saved_model.pb"
    graph.write_bytes(graph.read_bytes() + b"\0")
    run = read_run(str(run_copy))
    with (
        pytest.raises(DamagedRunError, match=r"saved_model.pb: differs from the manifest"),
        load_model(run),
    ):
        pass
    (run_copy / "config.json").unlink()
    with pytest.raises(DamagedRunError, match=r"config.json: is missing"):
        read_run(str(run_copy))


def test_a_run_of_another_format_is_refused(run_copy: Path) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    del manifest["format"]  # As in runs of earlier versions.
    (run_copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedRunError, match=r"manifest.json: found format 1, expected 3") as info:
        read_run(str(run_copy))
    assert info.value.exit_code == 3
    assert "\n" not in str(info.value)


def test_a_folder_without_a_usable_run_is_refused(run_copy: Path, tmp_path: Path) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    with pytest.raises(StorageError, match="expected a finished run"):
        read_run(str(tmp_path / "none"))
    for entry in manifest["files"]:
        if entry["name"] == "metrics.json":
            entry["name"] = "../run/metrics.json"
    (run_copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedRunError, match="do not describe the model"):
        read_run(str(run_copy))


def test_the_data_of_a_run_is_read_again_without_its_cache_folder(
    finished_run: Path, digits: Path
) -> None:
    run = read_run(str(finished_run))
    no_cache = dataclasses.replace(run, config={**run.config, "cache_dir": "/proc/none"})
    assert setup.reload(no_cache).fingerprint == run.manifest["data_fingerprint"]
    moved = dataclasses.replace(run, config={**run.config, "data": "/nowhere"})
    with pytest.raises(StorageError, match="set --data to its current path"):
        setup.reload(moved)
    data = setup.reload(moved, str(digits))
    assert data.fingerprint == run.manifest["data_fingerprint"]
