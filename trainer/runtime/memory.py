"""Memory limits of the machine, the control group and the shell, checked before they are hit."""

from __future__ import annotations

import os
import resource

from trainer.errors import DataError, DeviceError, Location
from trainer.runtime import control_groups

# Memory of TensorFlow and Keras without data: resident bytes and address space in bytes (measured
# by lowering the limits of a cgroup and of `ulimit -v` until they fail, TensorFlow 2.21 for CPU).
_BASE_BYTES = 300_000_000
_BASE_ADDRESS_BYTES = 2_500_000_000
# Copies of the data while it is passed to TensorFlow: the array, the tensor, and the tensor on the
# device (an array of 0.5 GB takes 1.5 GB for a moment).
_COPIES = 3


def limit() -> int:
    """Returns the limit of resident bytes: of the machine or of its control group."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *control_groups.memory_limits()])


def check_data(size_bytes: int, description: str, location: Location | None = None) -> None:
    """Raises DataError if data takes more than half of the memory; training needs it twice.

    Args:
        size_bytes: size in memory, known before the data is read.
        description: the data, as the subject of the message.
        location: of the data.
    """
    max_bytes = limit() // 2
    if size_bytes > max_bytes:
        raise DataError(
            f"{description} takes {format_size(size_bytes)} in memory, expected at most "
            f"{format_size(max_bytes)}, half of the memory",
            location,
        )


def check_training(data_bytes: int) -> None:
    """Raises DeviceError if there is too little memory to train on data of this size.

    The kernel kills a process that exceeds its limit without a message.
    """
    min_bytes, limit_bytes = _BASE_BYTES + _COPIES * data_bytes, limit()
    if min_bytes > limit_bytes:
        raise DeviceError(
            f"the memory limit is {format_size(limit_bytes)}, expected at least "
            f"{format_size(min_bytes)}: {format_size(_BASE_BYTES)} for TensorFlow, and three times "
            "the data. Give the job more memory (docker run --memory, or the machine type), or "
            "convert images and vectors to shards with `trainer data convert`"
        )
    address_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
    min_bytes = _BASE_ADDRESS_BYTES + _COPIES * data_bytes
    if address_bytes != resource.RLIM_INFINITY and address_bytes < min_bytes:
        raise DeviceError(
            f"the limit of the address space (ulimit -v) is {format_size(address_bytes)}, expected "
            f"at least {format_size(min_bytes)}. Raise it with `ulimit -v`"
        )


def format_size(size: int) -> str:
    """Formats a number of bytes as 12 MB, 3.4 GB or 1,200.0 GB."""
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"
