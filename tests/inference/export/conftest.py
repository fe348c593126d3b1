"""Runs to export."""

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
    """Runs the command; returns its exit code, the lines on stdout, and stderr."""

    def run(*arguments: object) -> tuple[object, list[str], str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.main(["export", *map(str, arguments)])
        out, err = capsys.readouterr()
        return ended.value.code, out.splitlines(), err

    return run


@pytest.fixture
def changed(tmp_path: Path, finished_run: Path) -> Callable[[str, bytes], Path]:
    """Returns a copy of the run in which a file is another one, and the manifest says so."""

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
