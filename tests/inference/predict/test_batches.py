"""Examples go to the model together, and are read while it is at work."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

import numpy as np
import pytest

from trainer.errors import TransientStorageError
from trainer.inference.predict.batches import batches, prefetch
from trainer.inference.predict.reader import PAUSE, Item


def items(*texts: str) -> list[Item | None]:
    return [Item(text, np.array(text, object)) for text in texts]


def test_a_batch_is_full_or_the_last_or_before_a_pause() -> None:
    pause: list[Item | None] = [PAUSE]
    bad: list[Item | None] = [Item("bad", None, "is none")]
    given = pause + items(*"abc") + bad + items(*"de") + pause + pause + items("f")
    found = ["".join(item.name for item in batch) for batch in batches(iter(given), 4)]
    assert found == ["abcbad", "de", "f"]


def test_a_batch_of_long_texts_is_small() -> None:
    given = items(*(["x" * 400_000] * 7))
    assert [len(batch) for batch in batches(iter(given), 100)] == [3, 3, 1]


def test_it_is_read_while_the_model_is_at_work_and_not_much_further() -> None:
    read = []

    def numbers() -> Generator[int]:
        for number in range(100):
            read.append(number)
            yield number

    given = prefetch(numbers())
    assert next(given) == 0
    deadline = time.monotonic() + 5
    while len(read) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert 5 <= len(read) <= 7
    assert list(given) == list(range(1, 100))


def test_an_error_comes_after_what_was_read_before() -> None:
    def one() -> Generator[int]:
        yield 1
        raise TransientStorageError("away")

    given = prefetch(one())
    assert next(given) == 1
    with pytest.raises(TransientStorageError, match="away"):
        next(given)


def test_who_wants_no_more_does_not_wait_for_input() -> None:
    asked, come = threading.Event(), threading.Event()

    def waiting() -> Generator[int]:
        yield 1
        asked.set()
        come.wait()

    given = prefetch(waiting())
    assert next(given) == 1
    assert asked.wait(5)
    given.close()
    come.set()
