"""Collective operations between workers, besides the sum of gradients.

Each is a sum over the workers, so that all workers must call it at the same point of the program.
While they wait, TensorFlow's heartbeats detect a lost worker within ten seconds.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf

from trainer.data.dataset import Array
from trainer.distributed.cluster import Cluster
from trainer.errors import WorkerLostError

_MAX_VALUES = 1 << 23  # Values of 8 bytes in one sum.
_LOST_WORKER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class Workers:
    """The workers of a job. With one worker, operations return their argument at no cost."""

    def __init__(
        self, cluster: Cluster | None = None, strategy: tf.distribute.Strategy | None = None
    ) -> None:
        """Opens no connection; the strategy has opened them.

        Args:
            cluster: the workers; None for one worker.
            strategy: over all workers.
        """
        self._addresses, self._index = (cluster.addresses, cluster.index) if cluster else ((), 0)

        def add(values: tf.Tensor) -> tf.Tensor:
            return (strategy or tf.distribute.get_strategy()).reduce("SUM", values, axis=None)

        self._add = {
            dtype: tf.function(
                add,
                input_signature=[tf.TensorSpec([None], dtype)],
                autograph=False,
            )
            for dtype in (np.float64, np.int64)
        }

    @property
    def count(self) -> int:
        """Number of workers."""
        return max(1, len(self._addresses))

    @property
    def is_chief(self) -> bool:
        """Whether this worker decides, and writes results."""
        return self._index == 0

    def broadcast(self, values: Iterable[float]) -> list[float]:
        """Returns the chief's values, on all workers."""
        own = list(values)
        if self.count == 1:
            return own
        array = np.array(own, np.float64)
        return list(self._sum(array if self.is_chief else np.zeros_like(array)).tolist())

    def broadcast_flag(self, flag: bool) -> bool:
        """Returns the chief's flag, on all workers."""
        return bool(self.broadcast([flag])[0])

    def broadcast_bytes(self, content: bytes) -> bytes:
        """Returns the chief's bytes, on all workers."""
        if self.count == 1:
            return content
        size = int(self.broadcast([len(content)])[0])
        # As int64: every device can sum it, and adding zeros keeps all bits.
        words = np.zeros(-(-size // 8), np.int64)
        if self.is_chief:
            words.view(np.uint8)[:size] = np.frombuffer(content, np.uint8)
        blocks = [
            self._sum(words[start : start + _MAX_VALUES])
            for start in range(0, len(words), _MAX_VALUES)
        ]
        return b"".join(block.tobytes() for block in blocks)[:size]

    def any(self, flag: bool) -> bool:
        """Returns, on all workers, whether the flag is true on any of them."""
        return flag if self.count == 1 else bool(self._sum(np.array([flag], np.float64))[0])

    def barrier(self) -> None:
        """Returns when all workers have called it."""
        self.any(False)

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Translates TensorFlow's errors for a lost worker into one line.

        Raises:
            WorkerLostError: another worker was lost.
        """
        try:
            yield
        except tf.errors.OpError as error:
            text = str(error)
            aborted = "Collective ops is aborted" in text or "NCCL" in text
            if self.count == 1 or not (aborted or isinstance(error, _LOST_WORKER_ERRORS)):
                raise
            raise WorkerLostError(
                f"lost another worker of this job{self._lost_workers(text)}; start all workers "
                "again to resume"
            ) from None

    def _sum(self, values: Array) -> Array:
        with self.translate_errors():
            total: Array = self._add[values.dtype.type](values).numpy()
            return total

    def _lost_workers(self, text: str) -> str:
        """Returns the workers that an error message names; "" if it names none."""
        tasks = re.findall(r"/job:worker/(?:replica:0/)?task:(\d+)", text)
        others = sorted({int(task) for task in tasks} - {self._index})
        names = ", ".join(f"{index} ({self._addresses[index]})" for index in others)
        return f": worker {names}" if names else ""
