"""Splits a model into a fixed front, computed once per example, and the network to train."""

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
from trainer.runtime.keras_internals import last_output

_MAX_BATCH_EXAMPLES = 1000
_SMALL_BATCH_VALUES = 1 << 22  # Numbers in a batch of small examples.
# Batches computed at once: one core per batch is faster than two cores for one batch.
_PARALLEL_BATCHES = 2


class FeatureExtractor:
    """The fixed front of a model and the network behind it; both share the model's variables.

    Attributes:
        network: from features to probabilities; the model itself if it has no fixed front.
    """

    def __init__(self, model: keras.Model, fixed: str = PREPROCESS) -> None:
        """Splits a model behind its layer named `fixed`, if it has one."""
        if fixed in [layer.name for layer in model.layers]:
            features = last_output(model.get_layer(fixed))
            self._preprocess = tf.function(keras.Model(model.inputs, features))
            self.network: keras.Model = keras.Model(features, model.outputs[0])
        else:
            self._preprocess = None
            self.network = model
        self._predict = tf.function(
            functools.partial(self.network, training=False), reduce_retracing=True
        )

    def extract(self, split: Split) -> Array | Shards:
        """Returns the features of all examples of a split, (N, ...); without a front, the examples.

        Features that are whole numbers from 0 to 255 are returned as uint8.

        Raises:
            DataError: sequences, padded to the length of the longest, do not fit into memory.
        """
        if self._preprocess is None:
            return split.examples
        batches = [
            _compact(self._preprocess(as_input(batch)).numpy())
            for block in _blocks(split.examples)
            for batch in _batches(block)
        ]
        if len({batch.shape[1:] for batch in batches}) > 1:
            batches = _pad(batches)
        return np.concatenate(batches)

    def predict(self, inputs: Array | Shards, batch_size: int) -> Array:
        """Returns the class probabilities of features: float32 (N, classes).

        Args:
            inputs: features as `extract` returns them, (N, ...).
            batch_size: number of examples that fit into memory at once; batches of small examples
                are larger.

        Raises:
            DivergedError: a probability is NaN or infinite.
        """
        with concurrent.futures.ThreadPoolExecutor(_PARALLEL_BATCHES) as threads:
            outputs = [
                output
                for block in _blocks(inputs)
                for output in threads.map(self._predict_batch, _batches(block, batch_size))
            ]
        probabilities = np.concatenate(outputs).astype(np.float32)
        if not np.isfinite(probabilities).all():
            raise DivergedError(
                "the model returns NaN for class probabilities, expected numbers. Try a lower "
                "--learning-rate"
            )
        return probabilities

    def _predict_batch(self, batch: Array) -> Array:
        return np.asarray(self._predict(as_input(batch)))


def _blocks(inputs: Array | Shards) -> Iterator[Array]:
    return inputs.blocks() if isinstance(inputs, Shards) else iter([inputs])


def _batches(inputs: Array, min_size: int = 1) -> Iterator[Array]:
    """Yields batches of inputs: of `min_size`, or more if they are small, up to the maximum."""
    # Texts of which no word is known have features of no values.
    values = max(1, np.size(inputs[0]))
    size = min(_MAX_BATCH_EXAMPLES, max(min_size, _SMALL_BATCH_VALUES // values))
    for start in range(0, len(inputs), size):
        yield inputs[start : start + size]


def _compact(values: Any) -> Array:
    """Returns values as uint8 if that loses nothing, as for counts; otherwise unchanged."""
    small = values.astype(np.uint8)
    return small if (small == values).all() else np.asarray(values)


def _pad(batches: list[Array]) -> list[Array]:
    """Pads sequences (B, length) of all batches with zeros, as Keras pads, to the longest."""
    longest = max(batch.shape[1] for batch in batches)
    size = sum(map(len, batches)) * longest * max(batch.itemsize for batch in batches)
    memory.check_data(size, f"--model: sequences of up to {longest} tokens")
    return [np.pad(batch, [(0, 0), (0, longest - batch.shape[1])]) for batch in batches]
