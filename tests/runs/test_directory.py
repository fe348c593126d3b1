"""Tests of run directories: complete when the manifest is written, never a mix of two runs."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from trainer import storage
from trainer.config import ResolvedConfig
from trainer.errors import RunExistsError, StorageError
from trainer.runs import filenames, manifest
from trainer.runs.directory import RunDirectory


@pytest.fixture(params=["local", "gs"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "run")
    return f"{request.getfixturevalue('bucket')}/run"


DATA = {"fingerprint": "f", "shape": [4], "dtype": "uint8", "classes": ["a"], "examples": {}}


def directory(out: str, **changes: Any) -> RunDirectory:
    settings = {"data": "mnist", "epochs": 2, "batch_size": 8, "learning_rate": 0.1, "out": out}
    return RunDirectory(ResolvedConfig(**{**settings, **changes}))


def finish(run: RunDirectory, *files: str) -> None:
    with run.locked(), run.commit(DATA, "CPU") as folder:
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
    described = json.loads(content.pop(filenames.MANIFEST) or b"")
    assert [entry["name"] for entry in described["files"]] == sorted(content)
    for entry in described["files"]:
        file = content[entry["name"]] or b""
        crc32c = base64.b64encode(google_crc32c.Checksum(file).digest()).decode()
        assert entry["size_bytes"] == len(file)
        assert (entry["sha256"], entry["crc32c"]) == (hashlib.sha256(file).hexdigest(), crc32c)
    assert described["format"] == 3
    assert described["data_fingerprint"] == "f"
    assert described["versions"]["tensorflow"].startswith("2.")


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
        run.commit(DATA, "CPU"),
    ):
        raise StorageError("disk full")
    assert storage.folder(out).names() == [filenames.CONFIG]


def test_paths_of_the_data_may_differ_and_its_content_may_not(out: str) -> None:
    finish(directory(out))
    for path in "./mnist", "gs://bucket/mnist", "/mnt/mnist":
        run = directory(out, data=path)
        assert run.is_finished()
        run.check_content(DATA, None)
        assert not run.same_paths()
    other = {**DATA, "fingerprint": "g", "classes": ["a", "b"]}
    message = "holds a finished run on other data: 1 classes, now 2, with b. Set another --out, or"
    with pytest.raises(RunExistsError, match=message):
        directory(out).check_content(other, None)
    with pytest.raises(RunExistsError, match="--weights: the file has another content"):
        directory(out).check_content(DATA, "123")


def finish_epochs(run: RunDirectory, epochs: int, fixed: str | None = None) -> None:
    """Finishes a run with a state of its last epoch and a file whose name has a time in it."""
    with run.locked(), run.commit(DATA, "CPU", epochs=epochs, fixed_epochs=fixed) as folder:
        for name in (filenames.METRICS, filenames.FINAL_CHECKPOINT, filenames.MODEL_KERAS):
            (folder / name).write_text(f"{name} of {epochs} epochs")
        (folder / "tensorboard").mkdir()
        (folder / "tensorboard" / f"events.{epochs}").touch()


def test_a_finished_run_can_be_trained_for_more_epochs(out: str) -> None:
    finish_epochs(directory(out), 2)
    before = {name: storage.folder(out).read(name) for name in storage.folder(out).names()}
    run = directory(out, epochs=3)
    assert not run.is_finished()
    assert run.continues()
    with run.locked(), run.final_checkpoint() as path:
        assert path is not None
        assert path.read_text() == "checkpoint.h5 of 2 epochs"
        folder = storage.folder(out)
        assert {n: folder.read(n) for n in folder.names() if n != ".lease"} == before
    finish_epochs(run, 3)
    assert run.is_finished()
    assert "tensorboard/events.2" not in storage.folder(out).names()
    assert manifest.verify(storage.folder(out), manifest.read(storage.folder(out))) == []


def test_fewer_epochs_than_done_and_a_schedule_over_all_epochs_are_refused(out: str) -> None:
    finish_epochs(directory(out), 2, "the optimizer of its recipe depends on the number of epochs")
    message = "--epochs was 2, now 3, and more epochs cannot continue it: the optimizer of its"
    with pytest.raises(RunExistsError, match=message):
        directory(out, epochs=3).is_finished()
    finish_epochs(directory(out, overwrite=True), 2)
    with pytest.raises(RunExistsError, match="was trained for 2 epochs, expected no fewer"):
        directory(out, epochs=1).is_finished()
    with pytest.raises(RunExistsError, match="holds a run with other settings: --epochs was 2"):
        directory(out, epochs=3, resume="never").is_finished()
    run = directory(out, epochs=1, overwrite=True)
    assert not run.is_finished()
    assert not run.continues()


def test_the_checkpoints_of_more_epochs_are_kept_until_they_are_done(
    out: str, tmp_path: Path
) -> None:
    finish_epochs(directory(out), 2)
    folder = storage.folder(out)
    for epochs, kept in ((2, False), (4, True)):
        (tmp_path / "latest").write_text(json.dumps({"checkpoints": ["a.h5"], "epochs": epochs}))
        folder.write("checkpoints/a.h5", tmp_path / "latest")
        folder.write("checkpoints/latest.json", tmp_path / "latest")
        directory(out).remove_checkpoints()
        assert (folder.read("checkpoints/latest.json") is not None) is kept


@pytest.mark.parametrize(
    "out", ["local", pytest.param("gs", marks=pytest.mark.long)], indirect=True
)
def test_a_kill_while_results_are_replaced_leaves_a_whole_run_or_an_unfinished_one(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old run, no manifest but the checkpoint, or the new run; never a mix of two."""
    old = {name: f"{name} of 2 epochs" for name in (filenames.METRICS, filenames.MODEL_KERAS)}
    new = {name: f"{name} of 4 epochs" for name in old}
    kind = type(storage.folder(out))
    states = []
    for number in range(100):
        finish_epochs(directory(out, overwrite=True, epochs=2), 2)
        run = directory(out, epochs=4)
        with monkeypatch.context() as patch, run.locked():
            save_checkpoint(out, tmp_path, 4)
            killed = count_down(patch, kind, number)
            with contextlib.suppress(Killed), run.commit(DATA, "CPU", epochs=4) as folder:
                for name, text in new.items():
                    (folder / name).write_text(text)
        folder = storage.folder(out)
        content = {name: (folder.read(name) or b"").decode() for name in old}
        if folder.generation(filenames.MANIFEST):
            described = manifest.read(folder)
            assert content == (old if described["epochs"] == 2 else new)
            assert manifest.verify(folder, described) == []
            states.append(described["epochs"])
        else:
            assert not directory(out, epochs=4).is_finished()
            assert folder.read("checkpoints/latest.json") is not None
            with directory(out, epochs=4).locked():
                assert folder.read("checkpoints/latest.json") is not None  # Resumes from it.
            states.append(0)
        if not killed():
            break
    assert states[0] == 2
    assert states[-1] == 4
    assert 0 in states
    assert sorted(states, key=[2, 0, 4].index) == states


class Killed(BaseException):
    """As SIGKILL: nothing of the program runs afterwards but `finally`."""


def save_checkpoint(out: str, tmp_path: Path, epochs: int) -> None:
    (tmp_path / "latest.json").write_text(json.dumps({"checkpoints": [], "epochs": epochs}))
    storage.folder(out).write("checkpoints/latest.json", tmp_path / "latest.json")


def count_down(patch: pytest.MonkeyPatch, kind: type, number: int) -> Callable[[], bool]:
    """Raises Killed in the place of all writes and removals after the first `number` ones."""
    remaining = itertools.count(number, -1)
    killed: list[bool] = []
    for name in ("write", "remove"):
        original = getattr(kind, name)

        def change(self: Any, file: str, *arguments: Any, call: Any = original, **more: Any) -> Any:
            if file != ".lease" and next(remaining) <= 0:
                killed.append(True)
                raise Killed
            return call(self, file, *arguments, **more)

        patch.setattr(kind, name, change)
    return lambda: bool(killed)
