"""SIGTERM: the end of a cloud machine, announced; exit code 143 says that the job is not done."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM


class PreemptionSignal:
    """Whether the end was asked for."""

    def __init__(self) -> None:
        """Starts without."""
        self.made = False


def exit_at_once() -> None:
    """Lets SIGTERM end the program; process 1 of a container would ignore it."""
    signal.signal(signal.SIGTERM, _exit)


@contextlib.contextmanager
def defer_sigterm() -> Iterator[PreemptionSignal]:
    """Makes SIGTERM a request only, which whoever is at work looks at between two steps."""
    request = PreemptionSignal()
    if threading.current_thread() is not threading.main_thread():
        yield request  # Signals are the main thread's.
        return

    def note(number: int, frame: FrameType | None) -> None:
        request.made = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
    if request.made:
        sys.exit(EXIT_CODE)  # It came after the last look.


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(EXIT_CODE)
