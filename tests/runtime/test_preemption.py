"""SIGTERM is deferred to the end of a block, in the main thread."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from trainer.runtime import preemption


@pytest.fixture
def received() -> Iterator[list[int]]:
    """The signals that the program's own handler of SIGTERM received."""
    numbers: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


def test_a_signal_that_stopped_nothing_reaches_the_previous_handler_at_the_end(
    received: list[int],
) -> None:
    with preemption.defer_sigterm() as preempted:
        assert not preempted.received
        signal.raise_signal(signal.SIGTERM)
        assert preempted.received
        assert not received
    assert received == [signal.SIGTERM]


def test_an_exception_within_the_block_is_raised_and_the_handler_is_restored(
    received: list[int],
) -> None:
    with pytest.raises(KeyError), preemption.defer_sigterm():
        signal.raise_signal(signal.SIGTERM)
        raise KeyError
    assert not received
    signal.raise_signal(signal.SIGTERM)
    assert received == [signal.SIGTERM]


def test_another_thread_leaves_the_handlers_alone(received: list[int]) -> None:
    handlers = []

    def work() -> None:
        with preemption.defer_sigterm():
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [before]
