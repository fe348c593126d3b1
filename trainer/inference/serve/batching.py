"""Examples that are asked at the same time go through the model together.

A model computes 16 examples in little more time than one. So while one batch is computed, whoever
comes waits in a queue, and all of them are the next batch. Nobody waits for others to come: when
the model is free, a single example is a batch.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from trainer.data.dataset import Array

Predict = Callable[["Array"], "Array"]


class BusyError(Exception):
    """More is asked than the model keeps up with; it may be asked again in a moment."""


@dataclass(frozen=True, eq=False)
class _Request:
    examples: Array
    answer: asyncio.Future[Array]


class DynamicBatcher:
    """Asks a model in batches, from within one event loop."""

    def __init__(self, predict: Predict, *, max_batch: int, max_queue_size: int) -> None:
        """Makes it; `running` has to be entered before anything is asked.

        Args:
            predict: from examples (N, ...) to class probabilities (N, classes); it is called in a
                thread of its own, by one batch after the other.
            max_batch: how many examples the model is given at once.
            max_queue_size: examples that may wait for the model.
        """
        self._predict = predict
        self._max_batch = max_batch
        self._max_queue_size = max_queue_size
        self._queue: collections.deque[_Request] = collections.deque()
        self._asked = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "model")
        self.waiting = 0

    @property
    def alive(self) -> bool:
        """Whether what is asked will be answered."""
        return self._worker is not None and not self._worker.done()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answers what is asked within the block."""
        self._worker = asyncio.create_task(self._work())
        try:
            yield
        finally:
            self._worker.cancel()
            self._thread.shutdown(wait=False)

    def submit(self, examples: Array) -> asyncio.Future[Array]:
        """Returns what will be the class probabilities, float32 (N, classes).

        Who does not want them any more cancels the future: they are not computed then, unless they
        are already being computed.

        Args:
            examples: (N, ...), at least one.

        Raises:
            BusyError: too many wait.
        """
        if self.waiting and self.waiting + len(examples) > self._max_queue_size:
            raise BusyError(f"{self.waiting} examples wait for the model")
        question = _Request(examples, asyncio.get_running_loop().create_future())
        self._queue.append(question)
        self.waiting += len(examples)
        self._asked.set()
        return question.answer

    async def _work(self) -> None:
        while True:
            await self._asked.wait()
            batch = self._next_batch()
            if batch:
                await self._answer(batch)

    def _next_batch(self) -> list[_Request]:
        """Takes questions off the queue that fit into a batch; at least one, if somebody waits."""
        batch: list[_Request] = []
        size = 0
        while self._queue:
            question = self._queue[0]
            count = len(question.examples)
            if batch and size + count > self._max_batch:
                break
            self._queue.popleft()
            self.waiting -= count
            if not question.answer.done():  # Else who asked it has gone, or its time is cancelled.
                batch.append(question)
                size += count
        if not self._queue:
            self._asked.clear()
        return batch

    async def _answer(self, batch: Sequence[_Request]) -> None:
        loop = asyncio.get_running_loop()
        parts = [question.examples for question in batch]
        try:
            answers = await loop.run_in_executor(self._thread, self._computed, parts)
        except Exception as error:
            if len(batch) > 1:
                # Whatever it is that the model fails at, it must not cost the others.
                for question in batch:
                    await self._answer([question])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        for question, answer in zip(batch, answers, strict=True):
            if not question.answer.done():
                question.answer.set_result(answer)

    def _computed(self, parts: Sequence[Array]) -> list[Array]:
        """Returns the answers to each part; a part alone may be larger than a batch."""
        examples = parts[0] if len(parts) == 1 else np.concatenate(parts)
        batches = range(0, len(examples), self._max_batch)
        answers = [self._predict(examples[at : at + self._max_batch]) for at in batches]
        whole = answers[0] if len(answers) == 1 else np.concatenate(answers)
        return np.split(whole, np.cumsum([len(part) for part in parts])[:-1])
