"""Tests of malformed data: exit code 2, one line, bounded memory and time, no files left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.data.hostile import CASES
from tests.shared_folders import SharedFolders


@pytest.fixture(scope="module")
def results(shared: SharedFolders, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    def make(folder: Path) -> None:
        corpus = tmp_path_factory.mktemp("hostile")
        command = [sys.executable, "-m", "tests.data.hostile", str(corpus)]
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert process.returncode == 0, process.stderr[-2000:]
        folder.mkdir()
        (folder / "rows").write_text(process.stdout)

    text = (shared.get("hostile", make) / "rows").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    return {row.pop("name"): row for row in rows}


@pytest.mark.parametrize("name", CASES)
def test_malformed_data_is_refused_in_one_line_and_leaves_no_files(
    name: str, results: dict[str, Any]
) -> None:
    result = results[name]
    assert result["code"] == 2, result["output"]
    assert result["output"].startswith("python -m trainer.task: error: ")
    assert result["output"].count("\n") == 1
    assert result["leftovers"] == []
    assert result["seconds"] < 20


def test_malformed_data_is_refused_without_importing_tensorflow(results: dict[str, Any]) -> None:
    assert results["tensorflow imported"] == {"value": False}


def test_the_corpus_has_at_least_150_cases() -> None:
    assert len(CASES) >= 150
