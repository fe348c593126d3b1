"""Tests of the limits of control groups, with the files that the kernel shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trainer.runtime import control_groups


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")


@pytest.mark.parametrize(
    ("own", "files", "quotas"),
    [
        # Version 2, in a container: the own group is the root.
        ("0::/", {"cpu.max": "150000 100000"}, [1.5]),
        ("0::/", {"cpu.max": "max 100000"}, []),
        # Version 2, outside: the groups around the own one count, too.
        ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "50000 100000"}, [0.5, 2.0]),
        # Version 1, in a container and outside.
        (
            "4:cpu,cpuacct:/docker/1",
            {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"},
            [1.0],
        ),
        (
            "4:cpu,cpuacct:/a",
            {
                "cpu,cpuacct/a/cpu.cfs_quota_us": "300000",
                "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            [3.0],
        ),
        ("4:memory:/a", {}, []),
    ],
)
def test_quotas_of_processors_are_read(
    tmp_path: Path, own: str, files: dict[str, str], quotas: list[float]
) -> None:
    write(tmp_path, {"root/empty": "", "own": own})
    write(tmp_path / "root", files)
    assert control_groups.cpu_quotas(tmp_path / "root", tmp_path / "own") == quotas


@pytest.mark.parametrize(
    ("own", "files", "limits"),
    [
        ("0::/a", {"a/memory.max": "5000", "memory.max": "max"}, [5000]),
        ("0::/a/b", {"a/memory.max": "5000", "a/b/memory.max": "max"}, [5000]),
        ("9:memory:/x", {"memory/memory.limit_in_bytes": "7000"}, [7000]),
    ],
)
def test_limits_of_memory_are_read(
    tmp_path: Path, own: str, files: dict[str, str], limits: list[int]
) -> None:
    write(tmp_path, {"root/empty": "", "own": own})
    write(tmp_path / "root", files)
    assert control_groups.memory_limits(tmp_path / "root", tmp_path / "own") == limits


@pytest.mark.parametrize(("quotas", "expected"), [([0.2], 1), ([1.5, 1000.0], 2), ([], 64)])
def test_a_quota_is_rounded_up(
    monkeypatch: pytest.MonkeyPatch, quotas: list[float], expected: int
) -> None:
    monkeypatch.setattr(control_groups, "cpu_quotas", lambda: quotas)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert control_groups.cores() == expected
