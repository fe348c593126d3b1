"""A finished run's model can be asked, if it is the one of the manifest."""

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
def copied(tmp_path: Path, finished_run: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def test_it_answers_as_in_the_test_of_the_run(
    finished_run: Path, digits: Path, bucket: str
) -> None:
    files = {
        path.relative_to(finished_run).as_posix(): path
        for path in finished_run.rglob("*")
        if path.is_file()
    }
    storage.write_all(storage.folder(f"{bucket}/run"), files)
    found = read_run(f"{bucket}/run")
    test = loader.load(DataOptions(data=str(digits), seed=0)).test
    with load_model(found) as model:
        said = model.predict(test.examples).argmax(axis=1)
    assert found.classes == tuple("0123456789")
    assert np.mean(said == test.labels) == found.metrics["test"]["accuracy"]


def test_another_file_than_the_manifests_is_not_loaded(copied: Path) -> None:
    graph = copied / "saved_model/saved_model.pb"
    graph.write_bytes(graph.read_bytes() + b"\0")
    found = read_run(str(copied))
    with (
        pytest.raises(DamagedRunError, match=r"saved_model.pb: is not the file of the manifest"),
        load_model(found),
    ):
        pass
    (copied / "config.json").unlink()
    with pytest.raises(DamagedRunError, match=r"config.json: is missing"):
        read_run(str(copied))


def test_what_is_no_run_of_a_model_is_refused(copied: Path, tmp_path: Path) -> None:
    described = json.loads((copied / "manifest.json").read_text())
    with pytest.raises(StorageError, match="expected a finished run"):
        read_run(str(tmp_path / "none"))
    entries = described["files"]
    for entry in entries:
        if entry["name"] == "metrics.json":
            entry["name"] = "../run/metrics.json"
    (copied / "manifest.json").write_text(json.dumps(described))
    with pytest.raises(DamagedRunError, match="do not describe the model"):
        read_run(str(copied))


def test_its_data_is_read_again_without_the_cache_of_its_machine(
    finished_run: Path, digits: Path
) -> None:
    found = read_run(str(finished_run))
    elsewhere = dataclasses.replace(found, config={**found.config, "cache_dir": "/proc/none"})
    assert setup.reload(elsewhere).fingerprint == found.manifest["data_fingerprint"]
    gone = dataclasses.replace(found, config={**found.config, "data": "/nowhere"})
    with pytest.raises(StorageError, match="--data says where the data is now"):
        setup.reload(gone)
    again = setup.reload(gone, str(digits))
    assert again.fingerprint == found.manifest["data_fingerprint"]
