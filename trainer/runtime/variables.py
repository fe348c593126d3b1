"""Environment variables with numbers of seconds, which tune waiting times of this program."""

from __future__ import annotations

import math
import os
import re

from trainer.errors import UsageError

RETRY = "TRAINER_RETRY_SECONDS"  # How long a failed request is retried.
LEASE = "TRAINER_LEASE_SECONDS"  # Time without a renewal after which a lease expires.
# How long workers wait for each other at the start.
WORKERS_TIMEOUT = "TRAINER_WORKERS_TIMEOUT_SECONDS"
POLL = "TRAINER_POLL_SECONDS"  # Interval of requests for the state of a submitted job.

_DEFAULTS = {RETRY: 120.0, LEASE: 30.0, WORKERS_TIMEOUT: 1800.0, POLL: 10.0}


def seconds(name: str) -> float:
    """Returns the value of one of the variables above, or its default if it is unset or empty.

    Raises:
        UsageError: the value is not a positive number.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return _DEFAULTS[name]
    # Python would read "1_0" and "nan", too.
    value = float(text) if re.fullmatch(r"(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text) else 0.0
    if not (0 < value < math.inf):
        raise UsageError(f"{name}: found {text!r}, expected a number of seconds above 0, like 30")
    return value


def check() -> None:
    """Raises UsageError if any of the variables above is not a positive number."""
    for name in _DEFAULTS:
        seconds(name)
