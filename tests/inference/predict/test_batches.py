"""Examples are batched, and read in a thread while the model computes."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

import numpy as np
import pytest

from trainer.errors import TransientStorageError
from trainer.inference.predict.batches import batches, prefetch
from trainer.inference.predict.items import PAUSE, Item


def text_items(*texts: str) -> list[Item | None]:
    return [Item(text, np.array(text, object)) for text in texts]


def test_a_batch_is_full_unless_it_is_the_last_or_before_a_pause() -> None:
    pause: list[Item | None] = [PAUSE]
    bad: list[Item | None] = [Item("bad", None, "is none")]
    items = pause + text_items(*"abc") + bad + text_items(*"de") + pause + pause + text_items("f")
    names = ["".join(item.name for item in batch) for batch in batches(iter(items), 4)]
    assert names == ["abcbad", "de", "f"]


def test_a_batch_of_long_texts_is_small() -> None:
    items = text_items(*(["x" * 400_000] * 7))
    assert [len(batch) for batch in batches(iter(items), 100)] == [3, 3, 1]


def test_a_few_elements_are_prefetched_and_no_more() -> None:
    produced = []

    def numbers() -> Generator[int]:
        for number in range(100):
            produced.append(number)
            yield number

    prefetched = prefetch(numbers())
    assert next(prefetched) == 0
    deadline = time.monotonic() + 5
    while len(produced) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert 5 <= len(produced) <= 7
    assert list(prefetched) == list(range(1, 100))


def test_an_error_is_raised_after_the_elements_before_it() -> None:
    def failing() -> Generator[int]:
        yield 1
        raise TransientStorageError("away")

    prefetched = prefetch(failing())
    assert next(prefetched) == 1
    with pytest.raises(TransientStorageError, match="away"):
        next(prefetched)


def test_closing_does_not_wait_for_input() -> None:
    waiting, released = threading.Event(), threading.Event()

    def blocked() -> Generator[int]:
        yield 1
        waiting.set()
        released.wait()

    prefetched = prefetch(blocked())
    assert next(prefetched) == 1
    assert waiting.wait(5)
    prefetched.close()
    released.set()
