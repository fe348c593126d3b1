"""Training on prefetched shards gives the results of training on data in memory."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.test_loop import fit, small_model
from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Array, Dataset, Split
from trainer.data.shards.reader import Shards
from trainer.engine.loop import batches
from trainer.engine.prefetch import Prefetcher
from trainer.errors import DataError


@pytest.fixture(scope="module")
def streamed(sharded_digits: Path) -> Dataset:
    return loader.load(DataOptions(data=str(sharded_digits), seed=0, validation_split=0.2))


class Ordered(Split):
    """A split in memory with the order of a split of shards."""

    shards: Split

    def order(self, seed: int, epoch: int) -> Array:
        return self.shards.order(seed, epoch)


def in_memory(split: Split) -> Ordered:
    ordered = Ordered(np.stack(list(split.examples)), split.labels)
    object.__setattr__(ordered, "shards", split)
    return ordered


@pytest.mark.parametrize("settings", [{}, {"batch_size": 1000}, {"epochs": 3, "batch_size": 7}])
def test_the_result_is_bit_identical_to_that_of_data_in_memory(
    streamed: Dataset, settings: dict[str, Any]
) -> None:
    ours, theirs = small_model(), small_model()
    history = fit(ours, streamed, validation=streamed.validation, **settings)
    loaded = Dataset(streamed.spec, in_memory(streamed.train), None, streamed.test, "", {})
    expected = fit(theirs, loaded, validation=streamed.validation, **settings)
    for row, other in zip(history, expected, strict=True):
        for figure in ("loss", "accuracy", "val_loss", "val_accuracy"):
            assert row[figure] == other[figure]
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize(("epoch", "step"), [(0, 0), (0, 1), (1, 5), (1, 8), (2, 3)])
def test_prefetching_starts_at_any_position(
    streamed: Dataset, epoch: int, step: int, replicas: int
) -> None:
    """Each step has the examples of its indices, also if it is filled up for several replicas."""
    train = streamed.train
    assert isinstance(train.examples, Shards)
    assert len(list(train.examples.shuffle_blocks(5, 0))) > 3
    everything = np.stack(list(train.examples))
    prefetcher = Prefetcher(train.examples)
    prefetcher.start(seed=5, epochs=3, epoch=epoch, position=step * 100)
    for number in range(epoch, 3):
        indices = batches(train.order(5, number), 100, replicas)
        for rows in (indices[step : step + 1], indices[step + 1 : step + 4], indices[step + 4 :]):
            if len(rows):
                expected = everything[np.maximum(rows, ~rows)]
                np.testing.assert_array_equal(prefetcher.next(rows), expected)
        step = 0


def test_giving_up_a_prefetcher_does_not_wait_for_its_reads(
    streamed: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector ends it, in threads that must not wait."""
    train = streamed.train
    assert isinstance(train.examples, Shards)
    read, reads, ended = Shards.read, itertools.count(), threading.Event()

    def only_first_ends(*arguments: Any) -> Array:
        if next(reads) > 0:
            ended.wait(60)
        return read(*arguments)

    monkeypatch.setattr(Shards, "read", only_first_ends)
    prefetcher = Prefetcher(train.examples)
    prefetcher.start(seed=5, epochs=3, epoch=0, position=0)
    prefetcher.next(batches(train.order(5, 0), 10, 1)[:1])
    started = time.monotonic()
    del prefetcher
    gc.collect()
    assert time.monotonic() - started < 30
    ended.set()


def test_a_damaged_file_stops_the_training_and_is_named(
    streamed: Dataset, sharded_digits: Path, tmp_path: Path
) -> None:
    for file in sharded_digits.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = loader.load(DataOptions(data=str(tmp_path), seed=0))
    (tmp_path / "train-00007.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"train-00007.npy: damaged: its CRC32C is not"):
        fit(small_model(), data)
