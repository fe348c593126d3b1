"""`trainer verify` finds every file that differs from the manifest of a finished run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from trainer import storage
from trainer.cli import main


def verify(run: object, capsys: pytest.CaptureFixture[str]) -> tuple[object, list[str], str]:
    """Returns the exit code, the lines on stdout, and stderr."""
    with pytest.raises(SystemExit) as exit_info:
        main.main(["verify", str(run)])
    out, err = capsys.readouterr()
    return exit_info.value.code, out.splitlines(), err


@pytest.fixture(params=["local", "gs"])
def run(request: pytest.FixtureRequest, tmp_path: Path, finished_run: Path) -> str:
    if request.param == "local":
        shutil.copytree(finished_run, tmp_path / "run")
        return str(tmp_path / "run")
    path = f"{request.getfixturevalue('bucket')}/run"
    files = (file for file in finished_run.rglob("*") if file.is_file())
    storage.write_all(
        storage.folder(path), {file.relative_to(finished_run).as_posix(): file for file in files}
    )
    return path


def test_a_complete_run_has_no_differences(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines, _ = verify(run, capsys)
    assert (code, lines) == (0, [f"{run}: complete, 12 files as in its manifest"])


def test_every_missing_changed_or_extra_file_is_named(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = storage.folder(run)
    folder.remove("model.h5")
    replacement = tmp_path / "replacement"
    content = bytearray(folder.read("model.keras") or b"")
    content[100] ^= 1
    replacement.write_bytes(content)
    folder.write("model.keras", replacement)
    replacement.write_bytes((folder.read("history.csv") or b"")[:-1])
    folder.write("history.csv", replacement)
    folder.write("saved_model/more", replacement)
    code, lines, err = verify(run, capsys)
    assert code == 3
    assert [line.split(": ")[:2] for line in lines] == [
        ["changed", "history.csv"],
        ["missing", "model.h5"],
        ["changed", "model.keras"],
        ["extra", "saved_model/more"],
    ]
    assert err == f"trainer verify: error: {run}: 4 differences from its manifest\n"


def test_a_folder_that_is_not_a_finished_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines, err = verify(tmp_path, capsys)
    assert (code, lines) == (2, [])
    assert "no manifest.json there, expected a finished run" in err


@pytest.mark.parametrize(
    "manifest", ["", "[]", "{", '{"files": 3}', '{"files": [{"name": 1}]}', "[" * 100_000, "\0"]
)
def test_a_damaged_manifest_is_one_line(
    manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    code, lines, err = verify(tmp_path, capsys)
    assert (code, lines, err.count("\n")) == (3, [], 1)
    assert "manifest.json: damaged" in err


def test_a_manifest_cannot_name_files_outside_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "secret").touch()
    entry = {"name": "../secret", "size_bytes": 0, "sha256": "0"}
    (run / "manifest.json").write_text(json.dumps({"format": 3, "files": [entry]}))
    assert verify(run, capsys)[1] == ["missing: ../secret"]
