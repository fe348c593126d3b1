"""Examples of coming steps, brought into memory ahead of them."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator

import numpy as np

from trainer import storage
from trainer.data.dataset import Array
from trainer.data.shards.reader import Shards


class Prefetcher:
    """Reads windows in the background, each while the one before is in use, over all epochs."""

    def __init__(self, shards: Shards) -> None:
        """Reads nothing yet."""
        self._shards = shards
        self._windows: Iterator[Array] = iter(())
        self._current = np.empty((0, *shards.example), shards.dtype)

    @property
    def example_bytes(self) -> int:
        """Of one example."""
        return self._shards.example_bytes

    def start(self, *, seed: int, epochs: int, epoch: int, position: int) -> None:
        """Begins to read.

        Args:
            seed: of the order of examples.
            epochs: how many there are.
            epoch: the one to begin with, from 0.
            position: how many of its examples are not wanted any more.
        """
        self._current = self._current[:0]
        self._windows = self._read(_rows(self._shards, seed, range(epoch, epochs), position))

    def next(self, indices: Array) -> Array:
        """Returns the examples of the next steps: (steps, width, ...).

        Args:
            indices: as `loop.batches` gives them, int64 (steps, width), of the steps that come
                after those taken last.
        """
        counts = (indices >= 0).sum(axis=1)
        examples = self._next(int(counts.sum()))
        steps, width = indices.shape
        if len(examples) < steps * width:  # A step that is filled up repeats its own.
            first = np.cumsum(counts) - counts
            within = np.arange(width) % counts[:, np.newaxis]
            examples = examples[(first[:, np.newaxis] + within).ravel()]
        return examples.reshape(steps, width, *self._shards.example)

    def _next(self, count: int) -> Array:
        parts = [self._current[:count]]
        self._current = self._current[count:]
        while (missing := count - sum(map(len, parts))) > 0:
            window = next(self._windows)
            parts.append(window[:missing])
            self._current = window[missing:]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _read(self, windows: Iterator[Array]) -> Iterator[Array]:
        with (
            concurrent.futures.ThreadPoolExecutor(1) as ahead,
            concurrent.futures.ThreadPoolExecutor(storage.THREADS) as pool,
        ):
            coming = None
            for rows in windows:
                ready, coming = coming, ahead.submit(self._shards.read, rows, pool)
                if ready is not None:
                    yield ready.result()
            if coming is not None:
                yield coming.result()


def _rows(shards: Shards, seed: int, epochs: range, position: int) -> Iterator[Array]:
    """Gives the rows of each window behind a position in the first epoch."""
    for epoch in epochs:
        for rows in shards.windows(seed, epoch):
            left = rows[min(position, len(rows)) :]
            position -= len(rows) - len(left)
            if len(left):
                yield left
