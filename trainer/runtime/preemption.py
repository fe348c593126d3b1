"""Handles SIGTERM, which announces that a machine stops; exit code 143: the job is unfinished."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM


class PreemptionSignal:
    """Records whether SIGTERM was received."""

    def __init__(self) -> None:
        """Starts as not received."""
        self.received = False


def exit_on_sigterm() -> None:
    """Makes SIGTERM exit with code 143; by default, process 1 of a container ignores it."""
    signal.signal(signal.SIGTERM, _exit)


@contextlib.contextmanager
def defer_sigterm() -> Iterator[PreemptionSignal]:
    """Yields a signal that records SIGTERM, to be checked between training steps.

    If SIGTERM is received but the block ends without a stop, the previous handler runs at the end.
    In other threads than the main thread, SIGTERM is not deferred.
    """
    preemption = PreemptionSignal()
    if threading.current_thread() is not threading.main_thread():
        yield preemption  # Only the main thread can handle signals.
        return

    def record(number: int, frame: FrameType | None) -> None:
        preemption.received = True

    previous_handler = signal.signal(signal.SIGTERM, record)
    try:
        yield preemption
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
    if preemption.received:
        signal.raise_signal(signal.SIGTERM)  # Received after the last check.


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(EXIT_CODE)
