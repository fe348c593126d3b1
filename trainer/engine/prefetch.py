"""Reads the examples of later steps from shards in the background."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator

import numpy as np

from trainer import storage
from trainer.data.dataset import Array
from trainer.data.shards.reader import Shards


class Prefetcher:
    """Reads one shuffle block while the one before it is in use, across epochs."""

    def __init__(self, shards: Shards) -> None:
        """Reads nothing yet."""
        self._shards = shards
        self._blocks: Iterator[Array] = iter(())
        self._current = np.empty((0, *shards.example), shards.dtype)

    @property
    def example_bytes(self) -> int:
        """Size of one example in bytes."""
        return self._shards.example_bytes

    def start(self, *, seed: int, epochs: int, epoch: int, position: int) -> None:
        """Starts to read.

        Args:
            seed: of the order of examples.
            epochs: number of epochs of the run.
            epoch: first epoch to read, from 0.
            position: number of examples of that epoch to skip.
        """
        self._current = self._current[:0]
        self._blocks = self._read(_rows(self._shards, seed, range(epoch, epochs), position))

    def next(self, indices: Array) -> Array:
        """Returns the examples of the next steps: (steps, width, ...).

        Args:
            indices: of the steps after those of the previous call, int64 (steps, width), as
                `loop.batches` returns them.
        """
        counts = (indices >= 0).sum(axis=1)
        examples = self._next(int(counts.sum()))
        steps, width = indices.shape
        if len(examples) < steps * width:  # A step is filled up with its own examples.
            first = np.cumsum(counts) - counts
            offsets = np.arange(width) % counts[:, np.newaxis]
            examples = examples[(first[:, np.newaxis] + offsets).ravel()]
        return examples.reshape(steps, width, *self._shards.example)

    def _next(self, count: int) -> Array:
        pieces = [self._current[:count]]
        self._current = self._current[count:]
        while (missing := count - sum(map(len, pieces))) > 0:
            block = next(self._blocks)
            pieces.append(block[:missing])
            self._current = block[missing:]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _read(self, rows_of_blocks: Iterator[Array]) -> Iterator[Array]:
        background = concurrent.futures.ThreadPoolExecutor(1)
        pool = concurrent.futures.ThreadPoolExecutor(storage.THREADS)
        try:
            pending = None
            for rows in rows_of_blocks:
                ready, pending = pending, background.submit(self._shards.read, rows, pool)
                if ready is not None:
                    yield ready.result()
            if pending is not None:
                yield pending.result()
        finally:
            # Without waiting: see `storage.concurrent_map`.
            background.shutdown(wait=False, cancel_futures=True)
            pool.shutdown(wait=False, cancel_futures=True)


def _rows(shards: Shards, seed: int, epochs: range, position: int) -> Iterator[Array]:
    """Yields the rows of each shuffle block, from a position in the first epoch on."""
    for epoch in epochs:
        for rows in shards.shuffle_blocks(seed, epoch):
            remaining = rows[min(position, len(rows)) :]
            position -= len(rows) - len(remaining)
            if len(remaining):
                yield remaining
