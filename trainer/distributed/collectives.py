"""What workers that train together tell each other, besides gradients.

All of it is a sum over the workers, which each has to call at the same place of the program. A host
that is gone is noticed by TensorFlow's heartbeats, in ten seconds, wherever the others wait.
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

_PART = 1 << 23  # Of 8 bytes each, in one sum.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class Workers:
    """The workers of a job; one that is alone agrees with itself at no cost."""

    def __init__(
        self, cluster: Cluster | None = None, strategy: tf.distribute.Strategy | None = None
    ) -> None:
        """Connects nothing: the strategy has done that.

        Args:
            cluster: the workers; None for one.
            strategy: over all of them.
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
        """How many there are."""
        return max(1, len(self._addresses))

    @property
    def is_chief(self) -> bool:
        """Whether this one decides, and writes."""
        return self._index == 0

    def broadcast(self, values: Iterable[float]) -> list[float]:
        """Returns the chief's values, on all workers."""
        mine = list(values)
        if self.count == 1:
            return mine
        numbers = np.array(mine, np.float64)
        return list(self._sum(numbers if self.is_chief else np.zeros_like(numbers)).tolist())

    def broadcast_flag(self, flag: bool) -> bool:
        """Returns the chief's flag, on all workers."""
        return bool(self.broadcast([flag])[0])

    def broadcast_bytes(self, content: bytes) -> bytes:
        """Returns the chief's bytes, on all workers."""
        if self.count == 1:
            return content
        size = int(self.broadcast([len(content)])[0])
        # As int64: there is a sum of those on each device, which keeps all bits beside zeros.
        words = np.zeros(-(-size // 8), np.int64)
        if self.is_chief:
            words.view(np.uint8)[:size] = np.frombuffer(content, np.uint8)
        parts = [self._sum(words[at : at + _PART]) for at in range(0, len(words), _PART)]
        return b"".join(part.tobytes() for part in parts)[:size]

    def any(self, flag: bool) -> bool:
        """Tells all workers whether one of them has the flag."""
        return flag if self.count == 1 else bool(self._sum(np.array([flag], np.float64))[0])

    def barrier(self) -> None:
        """Returns when all workers have come here."""
        self.any(False)

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turns what TensorFlow raises when a worker is gone into one line.

        Raises:
            WorkerLostError: in place of that.
        """
        try:
            yield
        except tf.errors.OpError as error:
            text = str(error)
            aborted = "Collective ops is aborted" in text or "NCCL" in text
            if self.count == 1 or not (aborted or isinstance(error, _LOST)):
                raise
            raise WorkerLostError(
                f"another worker of this job is gone{self._named(text)}"
            ) from None

    def _sum(self, values: Array) -> Array:
        with self.translate_errors():
            total: Array = self._add[values.dtype.type](values).numpy()
            return total

    def _named(self, text: str) -> str:
        """Returns which workers an error tells of, if it does."""
        tasks = re.findall(r"/job:worker/(?:replica:0/)?task:(\d+)", text)
        others = sorted({int(task) for task in tasks} - {self._index})
        named = ", ".join(f"{host} ({self._addresses[host]})" for host in others)
        return f": host {named}" if named else ""
