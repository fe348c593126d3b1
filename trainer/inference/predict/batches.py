"""Batches of what is read, made ahead in a thread of their own while the model is at work."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

from trainer.inference.predict.reader import PAUSE, Item, Items

_DEPTH = 4
_LOOK_S = 0.1  # How often the thread looks whether it is still wanted.
# Of a batch of texts: what a model makes of them is many times as large.
_MAX_CHARACTERS = 1_000_000

_Made = TypeVar("_Made")


def batches(items: Items, size: int) -> Generator[list[Item]]:
    """Gives items together, at most `size`, fewer before a pause and of long texts."""
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


def prefetch(made: Generator[_Made]) -> Iterator[_Made]:
    """Gives what a generator makes, which runs in a thread, a few steps ahead.

    It is not waited for when nobody wants more of it: it may be waiting for input.
    """
    made_ahead: queue.Queue[_Made | BaseException] = queue.Queue(_DEPTH)
    stopped = threading.Event()

    def put(one: _Made | BaseException) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                made_ahead.put(one, timeout=_LOOK_S)
                return

    def work() -> None:
        try:
            with contextlib.closing(made):
                for one in made:
                    put(one)
                    if stopped.is_set():
                        return
            put(StopIteration())
        except BaseException as error:
            put(error)

    threading.Thread(target=work, name="reading", daemon=True).start()
    try:
        while True:
            one = made_ahead.get()
            if isinstance(one, StopIteration):
                return
            if isinstance(one, BaseException):
                raise one
            yield one
    finally:
        stopped.set()
