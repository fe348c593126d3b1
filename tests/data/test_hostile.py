"""Malformed data: exit code 2, one line, bounded memory and time, nothing written."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.data.hostile import CASES


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("hostile")
    command = [sys.executable, "-m", "tests.data.hostile", str(place)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {row.pop("name"): row for row in rows}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_line_and_nothing_is_left(name: str, results: dict[str, Any]) -> None:
    result = results[name]
    assert result["code"] == 2, result["said"]
    assert result["said"].startswith("python -m trainer.task: error: ")
    assert result["said"].count("\n") == 1
    assert result["left"] == []
    assert result["seconds"] < 20


def test_nothing_heavy_was_needed_to_refuse_them(results: dict[str, Any]) -> None:
    assert results["heavy imports"] == {"found": False}


def test_there_are_many() -> None:
    assert len(CASES) >= 150
