"""How much memory the run may use: of the machine, of its container, of its shell."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from trainer.errors import DataError, DeviceError, Location

# What TensorFlow and Keras take before there is any data: resident, and as addresses (measured by
# lowering the limits of a cgroup and of `ulimit -v` until they fail, TensorFlow 2.21 for CPU).
_BASE_BYTES = 300_000_000
_BASE_ADDRESSES = 2_500_000_000
# How often data is in memory when it is handed to TensorFlow: as it was read, as a tensor, and as
# the tensor's copy on its device (0.5 GB as an array take 1.5 GB for a moment).
_COPIES = 3


def limit() -> int:
    """Returns how many bytes may be resident: the machine's memory, or its control group's."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_control_group_limits()])


def check_data(needed: int, what: str, place: Location | None = None) -> None:
    """Raises DataError if data would take more than half of the memory, which training doubles.

    Args:
        needed: bytes, known before they are read.
        what: takes them, for the message.
        place: where that lies.
    """
    most = limit() // 2
    if needed > most:
        raise DataError(
            f"{what} takes {format_size(needed)} in memory, expected at most {format_size(most)}, half "
            "of what there is",
            place,
        )


def check_training(data_bytes: int) -> None:
    """Raises DeviceError if there is too little memory to train on data of this size.

    A process that is over its limit is killed without a word, so it is told before.
    """
    needed, most = _BASE_BYTES + _COPIES * data_bytes, limit()
    if needed > most:
        raise DeviceError(
            f"the memory limit is {format_size(most)}, expected at least {format_size(needed)}: "
            f"{format_size(_BASE_BYTES)} for TensorFlow, and the data three times. Give the job more "
            "memory (docker run --memory, or the machine type), or let `trainer data convert` make "
            "shards of images and vectors"
        )
    addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
    if addresses != resource.RLIM_INFINITY and addresses < _BASE_ADDRESSES + _COPIES * data_bytes:
        raise DeviceError(
            f"the limit of addresses (ulimit -v) is {format_size(addresses)}, expected at least "
            f"{format_size(_BASE_ADDRESSES + _COPIES * data_bytes)}"
        )


def format_size(size: int) -> str:
    """Returns bytes as 12 MB, 3.4 GB or 1,200.0 GB."""
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"


def _control_group_limits(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Returns the limits of this process's control groups, version 1 or 2, as far as they are seen.

    A container sees its own group as the root; outside of one the path is in /proc/self/cgroup.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    places = [root / "memory.max", root / "memory" / "memory.limit_in_bytes"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            places.append(root / path.lstrip("/") / "memory.max")
        elif controllers == "memory":
            places.append(root / "memory" / path.lstrip("/") / "memory.limit_in_bytes")
    limits = []
    for place in places:
        try:
            limits.append(int(place.read_text()))
        except (OSError, ValueError):  # Not there, or "max".
            continue
    return limits
