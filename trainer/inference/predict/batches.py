"""Groups items into batches, and prefetches them in a thread while the model computes."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

from trainer.inference.predict.items import PAUSE, Item, Items

_QUEUE_SIZE = 4
_POLL_S = 0.1  # Interval at which the thread checks whether it was stopped.
# Per batch of texts: what a model computes from them takes many times as much memory.
_MAX_CHARACTERS = 1_000_000

_T = TypeVar("_T")


def batches(items: Items, size: int) -> Generator[list[Item]]:
    """Yields items in batches of at most `size`, smaller before a pause and for long texts."""
    batch: list[Item] = []
    characters = 0
    for item in items:
        if item is not PAUSE:
            batch.append(item)
            if item.example is not None and item.example.dtype == object:
                characters += len(item.example[()])
        if batch and (item is PAUSE or len(batch) == size or characters > _MAX_CHARACTERS):
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def prefetch(source: Generator[_T]) -> Iterator[_T]:
    """Yields the elements of a generator, which runs a few elements ahead in a thread.

    Closing the iterator does not wait for the thread, which may be blocked on input.
    """
    ready: queue.Queue[_T | BaseException] = queue.Queue(_QUEUE_SIZE)
    stopped = threading.Event()

    def put(element: _T | BaseException) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(element, timeout=_POLL_S)
                return

    def work() -> None:
        try:
            with contextlib.closing(source):
                for element in source:
                    put(element)
                    if stopped.is_set():
                        return
            put(StopIteration())
        except BaseException as error:
            put(error)

    threading.Thread(target=work, name="prefetch", daemon=True).start()
    try:
        while True:
            element = ready.get()
            if isinstance(element, StopIteration):
                return
            if isinstance(element, BaseException):
                raise element
            yield element
    finally:
        stopped.set()
