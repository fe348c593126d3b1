"""Dynamic batching: requests that arrive at the same time go through the model together.

A model computes 16 examples in little more time than one. While it computes a batch, requests
queue up, and the queue becomes the next batch. Nothing waits for a batch to fill: if the model is
idle, a single example is a batch.
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

Predict = Callable[["Array"], "Array"]  # From examples (N, ...) to probabilities (N, classes).


class QueueFullError(Exception):
    """Requests arrive faster than the model computes them; the client may retry soon."""


@dataclass(frozen=True, eq=False)
class _Request:
    examples: Array
    result: asyncio.Future[Array]


class DynamicBatcher:
    """Runs a model on batches of requests from one event loop."""

    def __init__(self, predict: Predict, *, max_batch: int, max_queue_size: int) -> None:
        """Creates the batcher; enter `running` before the first `submit`.

        Args:
            predict: from examples (N, ...) to class probabilities, float32 (N, classes). Called in
                a thread of its own, for one batch at a time.
            max_batch: maximum examples per call of `predict`.
            max_queue_size: maximum examples in the queue.
        """
        self._predict = predict
        self._max_batch = max_batch
        self._max_queue_size = max_queue_size
        self._queue: collections.deque[_Request] = collections.deque()
        self._not_empty = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "model")
        self.queue_size = 0

    @property
    def alive(self) -> bool:
        """Whether the task that serves the queue is running."""
        return self._worker is not None and not self._worker.done()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serves the queue within the block."""
        self._worker = asyncio.create_task(self._work())
        try:
            yield
        finally:
            self._worker.cancel()
            self._thread.shutdown(wait=False)

    def submit(self, examples: Array) -> asyncio.Future[Array]:
        """Queues examples; returns the future of their class probabilities, float32 (N, classes).

        A cancelled future is not computed, unless its batch has started.

        Args:
            examples: (N, ...), at least one.

        Raises:
            QueueFullError: the queue has no room for them.
        """
        if self.queue_size and self.queue_size + len(examples) > self._max_queue_size:
            raise QueueFullError(f"{self.queue_size} examples in the queue")
        request = _Request(examples, asyncio.get_running_loop().create_future())
        self._queue.append(request)
        self.queue_size += len(examples)
        self._not_empty.set()
        return request.result

    async def _work(self) -> None:
        while True:
            await self._not_empty.wait()
            batch = self._next_batch()
            if batch:
                await self._compute(batch)

    def _next_batch(self) -> list[_Request]:
        """Takes requests off the queue that fit into a batch, and the first whatever its size."""
        batch: list[_Request] = []
        size = 0
        while self._queue:
            request = self._queue[0]
            count = len(request.examples)
            if batch and size + count > self._max_batch:
                break
            self._queue.popleft()
            self.queue_size -= count
            if not request.result.done():  # Done here means cancelled: client gone, or timed out.
                batch.append(request)
                size += count
        if not self._queue:
            self._not_empty.clear()
        return batch

    async def _compute(self, batch: Sequence[_Request]) -> None:
        loop = asyncio.get_running_loop()
        inputs = [request.examples for request in batch]
        try:
            outputs = await loop.run_in_executor(self._thread, self._run_model, inputs)
        except Exception as error:
            if len(batch) > 1:
                # One request made the model fail; the others must not fail with it.
                for request in batch:
                    await self._compute([request])
            elif not batch[0].result.done():
                batch[0].result.set_exception(error)
            return
        for request, output in zip(batch, outputs, strict=True):
            if not request.result.done():
                request.result.set_result(output)

    def _run_model(self, inputs: Sequence[Array]) -> list[Array]:
        """Returns the outputs for each input; a single input may be larger than a batch."""
        examples = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
        starts = range(0, len(examples), self._max_batch)
        chunks = [self._predict(examples[start : start + self._max_batch]) for start in starts]
        outputs = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
        return np.split(outputs, np.cumsum([len(each) for each in inputs])[:-1])
