"""Those who ask at the same time share a batch, and nothing else."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from trainer.inference.serve.batching import BusyError, DynamicBatcher


class Model:
    """Doubles its examples, when it is let; counts its batches; fails at 13."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.sizes: list[int] = []

    def __call__(self, examples: Any) -> Any:
        self.let.wait(10)
        self.sizes.append(len(examples))
        if 13 in examples:
            raise ValueError("unlucky")
        return 2.0 * examples


def ones(*values: int) -> Any:
    return np.array(values)[:, np.newaxis]


def running_batcher(
    model: Model, *, max_batch: int = 4, max_queue_size: int = 20
) -> DynamicBatcher:
    return DynamicBatcher(model, max_batch=max_batch, max_queue_size=max_queue_size)


def test_who_comes_while_a_batch_is_computed_is_in_the_next_one() -> None:
    async def asked(model: Model) -> list[Any]:
        async with (batcher := running_batcher(model)).running():
            first = batcher.submit(ones(1))
            await asyncio.sleep(0.05)  # The model has it now.
            others = [batcher.submit(ones(value)) for value in range(2, 8)]
            model.let.set()
            return await asyncio.gather(first, *others)

    model = Model()
    answers = asyncio.run(asked(model))
    assert [answer.tolist() for answer in answers] == [[[2.0 * value]] for value in range(1, 8)]
    assert model.sizes == [1, 4, 2]


def test_who_is_alone_does_not_wait_for_others() -> None:
    async def asked(model: Model) -> None:
        async with (batcher := running_batcher(model)).running():
            for value in range(3):
                await asyncio.wait_for(batcher.submit(ones(value)), 1)

    model = Model()
    model.let.set()
    asyncio.run(asked(model))
    assert model.sizes == [1, 1, 1]


def test_what_nobody_wants_any_more_is_not_computed() -> None:
    async def asked(model: Model) -> None:
        async with (batcher := running_batcher(model)).running():
            first, second, third = (batcher.submit(ones(value)) for value in range(3))
            second.cancel()
            model.let.set()
            await asyncio.gather(first, third)
            assert batcher.waiting == 0

    model = Model()
    asyncio.run(asked(model))
    assert sum(model.sizes) == 2


def test_what_the_model_fails_at_costs_the_others_nothing() -> None:
    async def asked(model: Model) -> list[Any]:
        async with (batcher := running_batcher(model)).running():
            parts = [batcher.submit(ones(*values)) for values in ((1, 2), (13,), (3,))]
            model.let.set()
            answers = await asyncio.gather(*parts, return_exceptions=True)
            assert batcher.alive
            return answers

    good, bad, other = asyncio.run(asked(Model()))
    assert good.tolist() == [[2], [4]]
    assert isinstance(bad, ValueError)
    assert other.tolist() == [[6]]


def test_a_question_larger_than_a_batch_is_computed_in_several() -> None:
    async def asked(model: Model) -> Any:
        async with (batcher := running_batcher(model)).running():
            return await batcher.submit(ones(*range(9)))

    model = Model()
    model.let.set()
    assert asyncio.run(asked(model)).tolist() == [[2 * value] for value in range(9)]
    assert model.sizes == [4, 4, 1]


def test_no_more_wait_than_may() -> None:
    async def asked(model: Model) -> None:
        async with (batcher := running_batcher(model, max_queue_size=3)).running():
            first = batcher.submit(ones(0))
            await asyncio.sleep(0.05)
            second = batcher.submit(ones(1, 2))
            with pytest.raises(BusyError, match="2 examples wait"):
                batcher.submit(ones(3, 4))
            model.let.set()
            await asyncio.gather(first, second, batcher.submit(ones(3)))

    asyncio.run(asked(Model()))
