"""Requests that arrive at the same time share a batch, and nothing else."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from trainer.inference.serve.batching import DynamicBatcher, QueueFullError


class Model:
    """Doubles its examples once released; records its batch sizes; fails at 13."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.sizes: list[int] = []

    def __call__(self, inputs: Any) -> Any:
        self.released.wait(10)
        self.sizes.append(len(inputs))
        if 13 in inputs:
            raise ValueError("unlucky")
        return 2.0 * inputs


def examples(*values: int) -> Any:
    """Returns one example per value, (N, 1)."""
    return np.array(values)[:, np.newaxis]


def make_batcher(model: Model, *, max_batch: int = 4, max_queue_size: int = 20) -> DynamicBatcher:
    return DynamicBatcher(model, max_batch=max_batch, max_queue_size=max_queue_size)


def test_requests_during_a_batch_form_the_next_batch() -> None:
    async def submit_all(model: Model) -> list[Any]:
        async with (batcher := make_batcher(model)).running():
            first = batcher.submit(examples(1))
            await asyncio.sleep(0.05)  # The model is computing it now.
            others = [batcher.submit(examples(value)) for value in range(2, 8)]
            model.released.set()
            return await asyncio.gather(first, *others)

    model = Model()
    outputs = asyncio.run(submit_all(model))
    assert [output.tolist() for output in outputs] == [[[2.0 * value]] for value in range(1, 8)]
    assert model.sizes == [1, 4, 2]


def test_a_single_request_does_not_wait_for_others() -> None:
    async def submit_all(model: Model) -> None:
        async with (batcher := make_batcher(model)).running():
            for value in range(3):
                await asyncio.wait_for(batcher.submit(examples(value)), 1)

    model = Model()
    model.released.set()
    asyncio.run(submit_all(model))
    assert model.sizes == [1, 1, 1]


def test_a_cancelled_request_is_not_computed() -> None:
    async def submit_all(model: Model) -> None:
        async with (batcher := make_batcher(model)).running():
            first, second, third = (batcher.submit(examples(value)) for value in range(3))
            second.cancel()
            model.released.set()
            await asyncio.gather(first, third)
            assert batcher.queue_size == 0

    model = Model()
    asyncio.run(submit_all(model))
    assert sum(model.sizes) == 2


def test_a_request_that_fails_does_not_fail_the_others() -> None:
    async def submit_all(model: Model) -> list[Any]:
        async with (batcher := make_batcher(model)).running():
            futures = [batcher.submit(examples(*values)) for values in ((1, 2), (13,), (3,))]
            model.released.set()
            outputs = await asyncio.gather(*futures, return_exceptions=True)
            assert batcher.alive
            return outputs

    good, bad, other = asyncio.run(submit_all(Model()))
    assert good.tolist() == [[2], [4]]
    assert isinstance(bad, ValueError)
    assert other.tolist() == [[6]]


def test_a_request_larger_than_a_batch_is_computed_in_several() -> None:
    async def submit_all(model: Model) -> Any:
        async with (batcher := make_batcher(model)).running():
            return await batcher.submit(examples(*range(9)))

    model = Model()
    model.released.set()
    assert asyncio.run(submit_all(model)).tolist() == [[2 * value] for value in range(9)]
    assert model.sizes == [4, 4, 1]


def test_a_request_beyond_the_queue_size_is_refused() -> None:
    async def submit_all(model: Model) -> None:
        async with (batcher := make_batcher(model, max_queue_size=3)).running():
            first = batcher.submit(examples(0))
            await asyncio.sleep(0.05)
            second = batcher.submit(examples(1, 2))
            with pytest.raises(QueueFullError, match="2 examples in the queue"):
                batcher.submit(examples(3, 4))
            model.released.set()
            await asyncio.gather(first, second, batcher.submit(examples(3)))

    asyncio.run(submit_all(Model()))
