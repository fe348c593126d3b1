"""Runs to export, and the command as a function."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.cli import main

Export = Callable[..., tuple[object, list[str], str]]


@pytest.fixture(scope="session")
def text_run(trained: Callable[[str], Path]) -> Path:
    """The run directory of a model on `sentences`, read-only."""
    return trained("sentiment")


@pytest.fixture
def export(capsys: pytest.CaptureFixture[str]) -> Export:
    """Returns a function that runs the command: arguments to exit code, stdout lines and stderr."""

    def run(*arguments: object) -> tuple[object, list[str], str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main.main(["export", *map(str, arguments)])
        out, err = capsys.readouterr()
        return exit_info.value.code, out.splitlines(), err

    return run


@pytest.fixture
def copy_with_file(tmp_path: Path, finished_run: Path) -> Callable[[str, bytes], Path]:
    """Returns a function that copies the run with another file, and a manifest that matches it."""

    def copy(name: str, content: bytes) -> Path:
        run = Path(shutil.copytree(finished_run, tmp_path / "changed", dirs_exist_ok=True))
        (run / name).write_bytes(content)
        manifest = json.loads((run / "manifest.json").read_text())
        for entry in manifest["files"]:
            if entry["name"] == name:
                entry["sha256"] = hashlib.sha256(content).hexdigest()
        (run / "manifest.json").write_text(json.dumps(manifest))
        return run

    return copy
