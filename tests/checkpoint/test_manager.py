"""Tests of which checkpoint a run resumes from."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from trainer.checkpoint.manager import CheckpointManager
from trainer.runs import lease


@pytest.mark.parametrize("names", [(), ("1-5.h5",)])
def test_checkpoints_that_no_pointer_names_are_not_passed_over_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: tuple[str, ...]
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"incomplete")
    with lease.acquire(str(tmp_path)) as run_lease, caplog.at_level(logging.INFO):
        manager = CheckpointManager(
            str(tmp_path), run_lease, every_s=30, every_steps=None, epochs=1
        )
        assert manager.latest() is None
    messages = [
        f"{tmp_path}: found {name} without latest.json, which names the last complete checkpoint; "
        "starting from the beginning"
        for name in names
    ]
    assert caplog.messages == messages
