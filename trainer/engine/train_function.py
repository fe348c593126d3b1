"""The compiled steps: what runs on the device, many steps in a call, without the host.

TensorFlow keeps int32 on the host, where its shapes and counters are, beside a GPU too. So what is
counted and drawn from is int32 here, and what examples are made of is not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.config import TrainOptions
from trainer.data.dataset import Array, Dataset, Split
from trainer.data.shards.reader import Shards
from trainer.distributed.devices import Devices
from trainer.engine import fused_optimizers
from trainer.engine import precision as mixed
from trainer.engine.features import FeatureExtractor
from trainer.engine.fused_batch_norm import can_use_microbatches, training_pass
from trainer.engine.prefetch import Prefetcher
from trainer.models import Recipe
from trainer.models import augmentation as augmentations
from trainer.models.augmentation import Augmentation
from trainer.runtime.log import LOGGER

_CALL_BYTES = 64 << 20  # Of examples that are handed over in a call.
_PHILOX = 1  # In TensorFlow's tf.random.Algorithm.


@dataclass(frozen=True)
class TrainStepConfig:
    """Loss and augmentation of a training step.

    Attributes:
        label_smoothing: fraction of each target that is spread over all classes.
        augmentation: random change of training examples; None for none.
        class_weights: weight of an example's loss by its class, float32 (classes,); None for 1. As
            in `Model.fit`, the mean is over the examples, not over the weights.
    """

    label_smoothing: float = 0.0
    augmentation: Augmentation | None = None
    class_weights: Array | None = None

    def losses(self, labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
        """Returns the cross-entropy of each example, times its weight: float32 (B,)."""
        # Keras takes this from the logits behind the softmax, so that it is exact near 0.
        if self.label_smoothing:
            targets = tf.one_hot(labels, probabilities.shape[-1])
            losses = keras.losses.categorical_crossentropy(
                targets, probabilities, label_smoothing=self.label_smoothing
            )
        else:
            losses = keras.losses.sparse_categorical_crossentropy(labels, probabilities)
        losses = tf.cast(losses, tf.float32)
        if self.class_weights is None:
            return losses
        return losses * tf.gather(tf.constant(self.class_weights, tf.float32), labels)


def make_step_config(options: TrainOptions, recipe: Recipe, data: Dataset) -> TrainStepConfig:
    """Returns what the options, and where they say nothing the recipe, decide for a step."""
    return TrainStepConfig(
        label_smoothing=recipe.label_smoothing,
        augmentation=augmentations.select(options.augmentation, recipe, data.spec),
        class_weights=data.weights(options.class_weights),
    )


class TrainFunction:
    """Compiled steps, with what brings them their examples if those do not fit into memory.

    Attributes:
        microbatches: into how many parts a batch is cut, over all devices.
    """

    def __init__(
        self, run: Callable[..., tf.Tensor], prefetcher: Prefetcher | None, microbatches: int
    ) -> None:
        """Takes the function, and the prefetcher if it is to be given examples."""
        self._run, self._prefetcher, self.microbatches = run, prefetcher, microbatches

    def start(self, *, seed: int, epochs: int, epoch: int, position: int) -> None:
        """Begins with the examples of an epoch, from 0, behind a position in its order."""
        if self._prefetcher is not None:
            self._prefetcher.start(seed=seed, epochs=epochs, epoch=epoch, position=position)

    def max_steps(self, width: int) -> int | None:
        """Returns how many steps of so many examples a call may have; None for any number."""
        if self._prefetcher is None:
            return None
        return max(1, _CALL_BYTES // (width * self._prefetcher.example_bytes))

    def __call__(self, key: Array, counters: Array, indices: Array) -> tf.Tensor:
        """Trains on examples.

        Args:
            key: of random numbers, as `epoch_rng` gives it.
            counters: the same.
            indices: of examples, int64 (steps, batch), those that do not count as ~index.

        Returns:
            The sum of losses and the count of right answers of each step: float32 (steps, 2).
        """
        if self._prefetcher is None:
            return self._run(key, counters, indices)
        return self._run(key, counters, indices, self._prefetcher.next(indices))


def make_train_function(
    features: FeatureExtractor,
    train: Split,
    optimizer: keras.Optimizer,
    step_config: TrainStepConfig,
    devices: Devices,
) -> TrainFunction:
    """Puts the data on the devices, if it fits, and compiles the steps over it.

    Args:
        features: the model.
        train: what it is fitted to.
        optimizer: of the model; it is built here, unless it is.
        step_config: the loss, and what is done to examples.
        devices: where, and in which precision. XLA compiles what a step computes, if it is to and
            the network does not take texts; data that would take more than half of a device's
            memory stays on the host. Shards are read as they are needed, and handed over.
    """
    network, strategy, replicas = features.network, devices.strategy, devices.replicas
    microbatches = devices.microbatches if can_use_microbatches(network) else 1
    inputs = features.extract(train)
    xla = devices.xla and inputs.dtype != object
    if devices.xla and not xla:
        LOGGER.warning("XLA is off: the network takes texts, which XLA does not know")
    prefetcher = Prefetcher(inputs) if isinstance(inputs, Shards) else None
    with strategy.scope():
        examples = None
        if not isinstance(inputs, Shards):
            examples = _placed(inputs, devices.memory_bytes)
        labels = tf.Variable(train.labels, trainable=False, dtype=tf.int64)
        if not optimizer.built:
            optimizer.build(network.trainable_variables)
        train_step = _make_train_step(network, optimizer, step_config, devices)

    if xla:
        train_step = tf.function(train_step, jit_compile=True, autograph=False)
    step = _step(train_step, examples, labels, step_config.augmentation, replicas, microbatches)

    signature = [
        tf.TensorSpec([1], tf.uint64),
        tf.TensorSpec([None, 2], tf.uint64),
        tf.TensorSpec([None, None], tf.int64),
    ]
    if prefetcher is not None:
        signature.append(tf.TensorSpec([None, None, *inputs.shape[1:]], inputs.dtype))

    @tf.function(input_signature=signature, autograph=False)
    def run_steps(
        key: tf.Tensor, counters: tf.Tensor, indices: tf.Tensor, *given: tf.Tensor
    ) -> tf.Tensor:
        steps = tf.shape(indices)[0]

        def one(number: tf.Tensor, results: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            mine = (each[number] for each in given)
            result = strategy.run(step, args=(key, counters[number], indices[number], *mine))
            return number + 1, results.write(number, strategy.reduce("SUM", result, axis=None))

        empty = tf.TensorArray(tf.float32, steps, element_shape=(2,))
        _, results = tf.while_loop(
            lambda number, _: number < steps, one, (0, empty), parallel_iterations=1
        )
        return results.stack()

    return TrainFunction(run_steps, prefetcher, replicas * microbatches)


def _step(
    train_step: Callable[..., tf.Tensor],
    examples: Any,
    labels: tf.Variable,
    augmentation: Augmentation | None,
    replicas: int,
    microbatches: int,
) -> Callable[..., tf.Tensor]:
    """Returns what a step does on a device with the indices of a batch.

    It takes the key and the counter of random numbers, the indices of the whole batch, and its
    examples, unless those are in `examples`; and returns what `train_step` does for its microbatches.
    """

    def step(
        key: tf.Tensor, counter: tf.Tensor, indices: tf.Tensor, *given: tf.Tensor
    ) -> tf.Tensor:
        weights = tf.cast(indices >= 0, tf.float32)
        indices = tf.maximum(indices, tf.bitwise.invert(indices))
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        microbatch_size = tf.shape(indices)[0] // (replicas * microbatches)
        if augmentation is not None:
            # For the whole batch, so that it does not depend on how many replicas share it.
            uniform = tf.raw_ops.StatelessRandomUniformV2(
                shape=[tf.shape(indices)[0], augmentation.numbers],
                key=key,
                counter=counter,
                alg=_PHILOX,
            )

        def examples_of(mine: slice) -> tf.Tensor:
            chosen = indices[mine]
            # Else a GPU's kernel would fetch all that is on the host, in each step.
            on_host = isinstance(examples, tf.Tensor)
            with tf.device("CPU:0") if on_host else contextlib.nullcontext():
                x = given[0][mine] if given else tf.gather(examples, chosen)
            # Not by XLA, which has no such transforms.
            return x if augmentation is None else augmentation(x, uniform[mine])

        numbers = [replica * microbatches + number for number in range(microbatches)]
        mine = [
            slice(number * microbatch_size, (number + 1) * microbatch_size) for number in numbers
        ]
        return train_step(
            [examples_of(each) for each in mine],
            [tf.gather(labels, indices[each]) for each in mine],
            [weights[each] for each in mine],
            tf.reduce_sum(weights),
        )

    return step


def _make_train_step(
    network: keras.Model, optimizer: keras.Optimizer, step_config: TrainStepConfig, devices: Devices
) -> Callable[..., tf.Tensor]:
    """Returns what a step does on a device with the microbatches of examples that it is given.

    It takes the microbatches' inputs, labels and weights, and how many examples count over all devices;
    and returns the sum of losses and the count of right answers of its microbatches: float32 (2,).
    """
    update = fused_optimizers.make_update(optimizer, network.trainable_variables)
    forward = training_pass(network)

    def train_step(
        x: Sequence[tf.Tensor],
        y: Sequence[tf.Tensor],
        weights: Sequence[tf.Tensor],
        count: tf.Tensor,
    ) -> tf.Tensor:
        with tf.GradientTape() as tape:
            with mixed.autocast(network, devices.precision):
                outputs = forward(x)  # Of each microbatch_size, (microbatch_size, classes).
            loss_sums, rights = [], []
            for probabilities, labels, counted in zip(outputs, y, weights, strict=True):
                losses = step_config.losses(labels, probabilities)
                loss_sums.append(tf.reduce_sum(losses * counted))
                rights.append(tf.reduce_sum(_right(probabilities, labels) * counted))
            loss_sum = tf.add_n(loss_sums)
            loss = loss_sum / count
            if network.losses:  # Penalties are on the weights, the same on each replica.
                loss += sum(tf.cast(each, tf.float32) for each in network.losses) / devices.replicas
            loss = optimizer.scale_loss(loss)  # Gradients in float16 would round to 0.
        gradients = tape.gradient(loss, network.trainable_variables)
        update(gradients, network.trainable_variables)  # Summed over the replicas.
        return tf.stack([loss_sum, tf.add_n(rights)])

    return train_step


def epoch_rng(seed: int, epoch: int, steps: int) -> tuple[Array, Array]:
    """Returns what the random numbers of an epoch are drawn with, a pure function everywhere.

    Returns:
        Philox's key, uint64 (1,), of the epoch; and its counter, uint64 (steps, 2), of each step.
    """
    counters = np.zeros([steps, 2], np.uint64)
    counters[:, 1] = np.arange(steps)  # The upper half: the lower one counts within a step.
    return np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64), counters


def _right(probabilities: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns 1 for each right answer, else 0: float32 (B,)."""
    # The greatest logit is as good, and leaves the softmax itself with nothing to do.
    scores = probabilities.op.inputs[0] if probabilities.op.type == "Softmax" else probabilities
    return tf.cast(tf.equal(tf.argmax(scores, axis=-1), labels), tf.float32)


def _placed(inputs: Array, memory_bytes: int | None) -> Any:
    """Returns inputs as a variable on each device, or as a tensor on the host."""
    if inputs.dtype == object or (memory_bytes is not None and inputs.nbytes > memory_bytes // 2):
        with tf.device("CPU:0"):
            return tf.constant(inputs)
    return tf.Variable(inputs, trainable=False)
