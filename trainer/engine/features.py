"""A model in two parts: what is fixed, run once over the data, and the network to train."""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.data.dataset import Array, Split
from trainer.data.shards.reader import Shards
from trainer.errors import DivergedError
from trainer.models import PREPROCESS, as_input
from trainer.runtime import memory

_BATCH = 1000
_VALUES = 1 << 22  # Of a batch of small examples.
_AT_ONCE = 2  # Batches: a core each is more than two cores for one, as in training.


class FeatureExtractor:
    """The two parts of a model, which share its variables.

    Attributes:
        network: from features, or from raw examples if nothing is fixed, to probabilities.
    """

    def __init__(self, model: keras.Model, fixed: str = PREPROCESS) -> None:
        """Splits a model behind its layer named `fixed`, if it has one."""
        names = [layer.name for layer in model.layers]
        if fixed in names:
            # Its `output` would be an inner one if the layer is a model itself.
            middle = model.get_layer(fixed)._inbound_nodes[-1].output_tensors[0]
            self._preprocess = tf.function(keras.Model(model.inputs, middle))
            self.network: keras.Model = keras.Model(middle, model.outputs[0])
        else:
            self._preprocess = None
            self.network = model
        self._predict = tf.function(
            functools.partial(self.network, training=False), reduce_retracing=True
        )

    def extract(self, split: Split) -> Array | Shards:
        """Returns what the network takes for each example of a split, computed once."""
        if self._preprocess is None:
            return split.examples
        batches = [
            _compact(self._preprocess(as_input(batch)).numpy())
            for block in _blocks(split.examples)
            for batch in _batches(block)
        ]
        if len({batch.shape[1:] for batch in batches}) > 1:
            batches = _padded(batches)
        return np.concatenate(batches)

    def predict(self, inputs: Array | Shards, batch_size: int) -> Array:
        """Returns class probabilities for what `of` gave: float32 (N, classes).

        Args:
            inputs: of the network, (N, ...).
            batch_size: examples that fit into memory at once; of small ones more are taken.

        Raises:
            DivergedError: they are no numbers.
        """
        with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as threads:
            outputs = [
                output
                for block in _blocks(inputs)
                for output in threads.map(self._answers, _batches(block, batch_size))
            ]
        probabilities = np.concatenate(outputs).astype(np.float32)
        if not np.isfinite(probabilities).all():
            raise DivergedError(
                "the model gives NaN for class probabilities, expected numbers. Try a lower "
                "--learning-rate"
            )
        return probabilities

    def _answers(self, batch: Array) -> Array:
        return np.asarray(self._predict(as_input(batch)))


def _blocks(inputs: Array | Shards) -> Iterator[Array]:
    return inputs.blocks() if isinstance(inputs, Shards) else iter([inputs])


def _batches(inputs: Array, least: int = 1) -> Iterator[Array]:
    """Gives examples, as many at a time as can be computed at once."""
    size = min(_BATCH, max(least, _VALUES // np.size(inputs[0])))
    for at in range(0, len(inputs), size):
        yield inputs[at : at + size]


def _compact(values: Any) -> Array:
    """Keeps counts as uint8, a quarter of float32, when that loses nothing."""
    small = values.astype(np.uint8)
    return small if (small == values).all() else np.asarray(values)


def _padded(batches: list[Array]) -> list[Array]:
    """Brings sequences (B, longest of the batch) to one length, with zeros as Keras pads."""
    longest = max(batch.shape[1] for batch in batches)
    size = sum(map(len, batches)) * longest * max(batch.itemsize for batch in batches)
    memory.check_data(size, f"--model: sequences of up to {longest} tokens")
    return [np.pad(batch, [(0, 0), (0, longest - batch.shape[1])]) for batch in batches]
