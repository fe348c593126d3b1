"""Tests of run directories: complete when the manifest is written, never a mix of two runs."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from trainer import storage
from trainer.config import ResolvedConfig
from trainer.errors import RunExistsError, StorageError
from trainer.runs import filenames
from trainer.runs.directory import RunDirectory


@pytest.fixture(params=["local", "gs"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "run")
    return f"{request.getfixturevalue('bucket')}/run"


def directory(out: str, **changes: Any) -> RunDirectory:
    settings = {"data": "mnist", "epochs": 2, "batch_size": 8, "learning_rate": 0.1, "out": out}
    return RunDirectory(ResolvedConfig(**{**settings, **changes}))


def finish(run: RunDirectory, *files: str) -> None:
    with run.locked(), run.commit({"fingerprint": "fingerprint"}, "CPU") as folder:
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)


def test_a_run_is_finished_when_its_manifest_is_written(out: str) -> None:
    run = directory(out)
    assert not run.is_finished()
    with run.locked():
        assert not run.is_finished()
    finish(run, filenames.METRICS, "saved_model/a")
    assert run.is_finished()


def test_the_manifest_lists_every_other_file(out: str) -> None:
    finish(directory(out), filenames.METRICS, "saved_model/a")
    folder = storage.folder(out)
    content = {name: folder.read(name) for name in folder.names()}
    manifest = json.loads(content.pop(filenames.MANIFEST) or b"")
    assert [entry["name"] for entry in manifest["files"]] == sorted(content)
    for entry in manifest["files"]:
        file = content[entry["name"]] or b""
        crc32c = base64.b64encode(google_crc32c.Checksum(file).digest()).decode()
        assert entry["size_bytes"] == len(file)
        assert (entry["sha256"], entry["crc32c"]) == (hashlib.sha256(file).hexdigest(), crc32c)
    assert manifest["format"] == 3
    assert manifest["data_fingerprint"] == "fingerprint"
    assert manifest["versions"]["tensorflow"].startswith("2.")


def test_a_run_with_other_settings_is_refused_with_the_differences(out: str) -> None:
    finish(directory(out))
    before = storage.folder(out).names()
    with pytest.raises(RunExistsError, match=r"--epochs was 2, now 3; --seed was 0, now 1"):
        directory(out, epochs=3, seed=1).is_finished()
    assert storage.folder(out).names() == before


def test_settings_that_do_not_affect_the_result_may_differ(out: str) -> None:
    finish(directory(out))
    assert directory(out, log="json").is_finished()


def test_overwrite_removes_only_the_files_of_the_old_run(out: str, tmp_path: Path) -> None:
    finish(directory(out), filenames.METRICS, "saved_model/old/file", "tensorboard/old")
    (tmp_path / "notes").touch()
    storage.folder(out).write("notes.txt", tmp_path / "notes")
    run = directory(out, epochs=3, overwrite=True)
    assert not run.is_finished()
    with run.locked():
        pass
    assert storage.folder(out).names() == [filenames.CONFIG, "notes.txt"]


def test_a_folder_without_a_run_is_never_changed(out: str, tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    storage.folder(out).write("notes.txt", tmp_path / "notes")
    for overwrite in (False, True):
        with pytest.raises(
            RunExistsError, match=r"do not belong to a run \(notes.txt, 1 in total\)"
        ):
            directory(out, overwrite=overwrite).is_finished()


def test_a_config_file_without_settings_is_named_in_the_error(out: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("[1]")
    storage.folder(out).write(filenames.CONFIG, tmp_path / "list")
    with pytest.raises(RunExistsError, match=r"config\.json: found no JSON object"):
        directory(out).is_finished()


def test_a_failed_commit_writes_no_manifest(out: str) -> None:
    run = directory(out)
    with (
        pytest.raises(StorageError),
        run.locked(),
        run.commit({"fingerprint": "fingerprint"}, "CPU"),
    ):
        raise StorageError("disk full")
    assert storage.folder(out).names() == [filenames.CONFIG]
