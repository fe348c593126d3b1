"""Limits of this process's control groups, version 1 or 2: memory and processors."""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

_ROOT = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def cores() -> int:
    """Returns the number of cores that this process may use, at least 1.

    The minimum of its affinity and of the quotas of its control groups, which are rounded up: 1.5
    cores keep two threads busy three quarters of the time.
    """
    quotas = (max(1, math.ceil(quota)) for quota in cpu_quotas())
    return min([len(os.sched_getaffinity(0)), *quotas])


def cpu_quotas(root: Path = _ROOT, groups: Path = _OWN_GROUPS) -> list[float]:
    """Returns the quotas of this process's control groups, in cores."""
    quotas = []
    for version, folder in _folders("cpu", root, groups):
        if version == 2:
            quota, _, period = _read(folder / "cpu.max").partition(" ")
        else:
            quota = _read(folder / "cpu.cfs_quota_us")
            period = _read(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):  # Not "max", nor -1.
            quotas.append(int(quota) / int(period))
    return quotas


def memory_limits(root: Path = _ROOT, groups: Path = _OWN_GROUPS) -> list[int]:
    """Returns the limits of this process's control groups, in bytes."""
    names = {1: "memory.limit_in_bytes", 2: "memory.max"}
    values = (
        _read(folder / names[version]) for version, folder in _folders("memory", root, groups)
    )
    return [int(value) for value in values if value.isdecimal()]  # Not "max".


def _folders(controller: str, root: Path, groups: Path) -> list[tuple[int, Path]]:
    """Returns the version and the folder of each visible group that limits this process.

    A group is limited by the groups around it, too. Inside a container its own group is the root of
    the mounted hierarchy; outside, /proc/self/cgroup holds the path.
    """
    mounts = [(2, root), (1, root / controller)]
    paths = {2: PurePosixPath(), 1: PurePosixPath()}
    for line in _read(groups).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            paths[2] = PurePosixPath(path.lstrip("/"))
        elif controller in controllers.split(","):
            paths[1] = PurePosixPath(path.lstrip("/"))
            if controllers != controller:  # Mounted as /sys/fs/cgroup/cpu,cpuacct, for example.
                mounts.append((1, root / controllers))
    return [
        (version, mount / group)
        for version, mount in mounts
        for group in (paths[version], *paths[version].parents)
    ]


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
