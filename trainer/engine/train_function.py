"""Compiles the training steps: many steps run on the device in one execution.

TensorFlow keeps int32 tensors in the host's memory, with shapes and counters, even next to a GPU.
So counters are int32 here, and examples, labels and indices are not.
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
from trainer.engine.features import FeatureExtractor
from trainer.engine.fused_batch_norm import can_use_microbatches, training_pass
from trainer.engine.fused_optimizers import make_update
from trainer.engine.precision import autocast
from trainer.engine.prefetch import Prefetcher
from trainer.models import Recipe, augmentation
from trainer.models.augmentation import Augmentation
from trainer.runtime.log import LOGGER

_MAX_PREFETCHED_BYTES = 64 << 20  # Size of the examples of one execution.
_PHILOX = 1  # Value of tf.random.Algorithm.PHILOX.


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
        """Returns the cross-entropy of each example times its weight: float32 (B,)."""
        # Keras computes both from the logits before the softmax, which is exact near 0.
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
    """Returns the step config by the options; the recipe supplies what they leave open."""
    return TrainStepConfig(
        label_smoothing=recipe.label_smoothing,
        augmentation=augmentation.select(options.augmentation, recipe, data.spec),
        class_weights=data.class_weights(options.class_weights),
    )


class TrainFunction:
    """Compiled training steps, and the prefetcher if the examples do not fit into memory.

    Attributes:
        microbatches: number of microbatches per batch, over all devices.
    """

    def __init__(
        self, run: Callable[..., tf.Tensor], prefetcher: Prefetcher | None, microbatches: int
    ) -> None:
        """Takes the compiled function; with a prefetcher, its last argument is the examples."""
        self._run, self._prefetcher, self.microbatches = run, prefetcher, microbatches

    def start(self, *, seed: int, epochs: int, epoch: int, position: int) -> None:
        """Starts to prefetch. Arguments are as of `Prefetcher.start`."""
        if self._prefetcher is not None:
            self._prefetcher.start(seed=seed, epochs=epochs, epoch=epoch, position=position)

    def max_steps(self, width: int) -> int | None:
        """Returns the maximum number of steps per execution; None for any number.

        Args:
            width: examples per step.
        """
        if self._prefetcher is None:
            return None
        return max(1, _MAX_PREFETCHED_BYTES // (width * self._prefetcher.example_bytes))

    def __call__(self, key: Array, counters: Array, indices: Array) -> tf.Tensor:
        """Runs training steps.

        Args:
            key: of the random generator, uint64 (1,), as `epoch_rng` returns it.
            counters: of the random generator, uint64 (steps, 2).
            indices: of examples, int64 (steps, width), as `loop.batches` returns them.

        Returns:
            The sum of losses and the number of correct predictions of each step: float32
            (steps, 2).
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
    """Copies the data to the devices, if it fits, and compiles the steps over it.

    Data larger than half of a device's memory stays in the host's memory. Shards are prefetched.

    Args:
        features: the model.
        train: training split.
        optimizer: of the model; it is built here if it is not yet.
        step_config: loss and augmentation.
        devices: devices and precision. With XLA, the network and its update are compiled by XLA,
            unless the network takes texts.
    """
    network, strategy, replicas = features.network, devices.strategy, devices.replicas
    microbatches = devices.microbatches if can_use_microbatches(network) else 1
    inputs = features.extract(train)
    xla = devices.xla and inputs.dtype != object
    if devices.xla and not xla:
        LOGGER.warning("XLA is off: the network takes texts, which XLA does not support")
    prefetcher = Prefetcher(inputs) if isinstance(inputs, Shards) else None
    with strategy.scope():
        examples = None
        if not isinstance(inputs, Shards):
            examples = _place(inputs, devices.memory_bytes)
        labels = tf.Variable(train.labels, trainable=False, dtype=tf.int64)
        if not optimizer.built:
            optimizer.build(network.trainable_variables)
        train_step = _make_train_step(network, optimizer, step_config, devices)

    if xla:
        train_step = tf.function(train_step, jit_compile=True, autograph=False)
    step = _make_batch_step(
        train_step, examples, labels, step_config.augmentation, replicas, microbatches
    )

    # Only shards are an argument of each execution; other examples are on the device.
    prefetched = []
    if prefetcher is not None:
        prefetched.append(tf.TensorSpec([None, None, *inputs.shape[1:]], inputs.dtype))
    run_steps = _compile_steps(step, strategy, prefetched)
    return TrainFunction(run_steps, prefetcher, replicas * microbatches)


def _compile_steps(
    step: Callable[..., tf.Tensor],
    strategy: tf.distribute.Strategy,
    prefetched_specs: Sequence[tf.TensorSpec],
) -> Callable[..., tf.Tensor]:
    """Returns the compiled function that runs several steps in one execution.

    Its arguments are those of `TrainFunction.__call__`, then prefetched examples, (steps, width,
    ...), if there are any.

    Args:
        step: one step of one replica.
        strategy: strategy that runs it on all replicas.
        prefetched_specs: shapes and dtypes of prefetched examples.
    """
    signature = [
        tf.TensorSpec([1], tf.uint64),
        tf.TensorSpec([None, 2], tf.uint64),
        tf.TensorSpec([None, None], tf.int64),
        *prefetched_specs,
    ]

    @tf.function(input_signature=signature, autograph=False)
    def run_steps(
        key: tf.Tensor, counters: tf.Tensor, indices: tf.Tensor, *prefetched: tf.Tensor
    ) -> tf.Tensor:
        steps = tf.shape(indices)[0]

        def run_step(
            number: tf.Tensor, results: tf.TensorArray
        ) -> tuple[tf.Tensor, tf.TensorArray]:
            of_step = (each[number] for each in prefetched)
            result = strategy.run(step, args=(key, counters[number], indices[number], *of_step))
            return number + 1, results.write(number, strategy.reduce("SUM", result, axis=None))

        empty = tf.TensorArray(tf.float32, steps, element_shape=(2,))
        _, results = tf.while_loop(
            lambda number, _: number < steps, run_step, (0, empty), parallel_iterations=1
        )
        return results.stack()

    compiled: Callable[..., tf.Tensor] = run_steps  # TensorFlow's decorator has no types.
    return compiled


def _make_batch_step(
    train_step: Callable[..., tf.Tensor],
    examples: Any,
    labels: tf.Variable,
    augment: Augmentation | None,
    replicas: int,
    microbatches: int,
) -> Callable[..., tf.Tensor]:
    """Returns the function that trains one device on its microbatches of a batch.

    Its arguments are the key and the counter of the random generator, the indices of the whole
    batch, and the prefetched examples of the whole batch if `examples` is None. It returns the
    result of `train_step`.
    """

    def step(
        key: tf.Tensor, counter: tf.Tensor, indices: tf.Tensor, *prefetched: tf.Tensor
    ) -> tf.Tensor:
        weights = tf.cast(indices >= 0, tf.float32)
        indices = tf.maximum(indices, tf.bitwise.invert(indices))
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        microbatch_size = tf.shape(indices)[0] // (replicas * microbatches)
        if augment is not None:
            # Drawn for the whole batch, so that it does not depend on the number of replicas.
            uniform = tf.raw_ops.StatelessRandomUniformV2(
                shape=[tf.shape(indices)[0], augment.values_per_example],
                key=key,
                counter=counter,
                alg=_PHILOX,
            )

        def load(rows: slice) -> tf.Tensor:
            selected = indices[rows]
            # With a GPU's gather, TensorFlow would copy all examples to the GPU in each step.
            on_host = isinstance(examples, tf.Tensor)
            with tf.device("CPU:0") if on_host else contextlib.nullcontext():
                x = prefetched[0][rows] if prefetched else tf.gather(examples, selected)
            # Outside of XLA, which does not support image transforms.
            return x if augment is None else augment(x, uniform[rows])

        numbers = [replica * microbatches + number for number in range(microbatches)]
        slices = [
            slice(number * microbatch_size, (number + 1) * microbatch_size) for number in numbers
        ]
        return train_step(
            [load(rows) for rows in slices],
            [tf.gather(labels, indices[rows]) for rows in slices],
            [weights[rows] for rows in slices],
            tf.reduce_sum(weights),
        )

    return step


def _make_train_step(
    network: keras.Model, optimizer: keras.Optimizer, step_config: TrainStepConfig, devices: Devices
) -> Callable[..., tf.Tensor]:
    """Returns the function that updates the weights by the microbatches of one device.

    Its arguments are the inputs, labels and weights of each microbatch, and the sum of weights over
    all devices. It returns the sum of losses and the number of correct predictions of its
    microbatches: float32 (2,).
    """
    update = make_update(optimizer, network.trainable_variables)
    forward = training_pass(network)

    def train_step(
        x: Sequence[tf.Tensor],
        y: Sequence[tf.Tensor],
        weights: Sequence[tf.Tensor],
        count: tf.Tensor,
    ) -> tf.Tensor:
        with tf.GradientTape() as tape:
            with autocast(network, devices.precision):
                outputs = forward(x)  # One (microbatch_size, classes) per microbatch.
            loss_sums, correct = [], []
            for probabilities, labels, weight in zip(outputs, y, weights, strict=True):
                losses = step_config.losses(labels, probabilities)
                loss_sums.append(tf.reduce_sum(losses * weight))
                correct.append(tf.reduce_sum(_correct(probabilities, labels) * weight))
            loss_sum = tf.add_n(loss_sums)
            loss = loss_sum / count
            if network.losses:  # Weight penalties, the same on each replica.
                loss += sum(tf.cast(each, tf.float32) for each in network.losses) / devices.replicas
            loss = optimizer.scale_loss(loss)  # Without it, gradients in float16 round to 0.
        gradients = tape.gradient(loss, network.trainable_variables)
        update(gradients, network.trainable_variables)  # Summed over the replicas.
        return tf.stack([loss_sum, tf.add_n(correct)])

    return train_step


def epoch_rng(seed: int, epoch: int, steps: int) -> tuple[Array, Array]:
    """Returns the random generator of an epoch, a pure function that is the same everywhere.

    Returns:
        The Philox key of the epoch, uint64 (1,), and the counter of each step, uint64 (steps, 2).
    """
    counters = np.zeros([steps, 2], np.uint64)
    counters[:, 1] = np.arange(steps)  # The upper half; the lower one counts within a step.
    return np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64), counters


def _correct(probabilities: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns 1 for each correct prediction, otherwise 0: float32 (B,)."""
    # The largest logit has the same index, so that the softmax needs no computation.
    scores = probabilities.op.inputs[0] if probabilities.op.type == "Softmax" else probabilities
    return tf.cast(tf.equal(tf.argmax(scores, axis=-1), labels), tf.float32)


def _place(inputs: Array, memory_bytes: int | None) -> Any:
    """Returns inputs as a variable on each device, or as a tensor in the host's memory."""
    if inputs.dtype == object or (memory_bytes is not None and inputs.nbytes > memory_bytes // 2):
        with tf.device("CPU:0"):
            return tf.constant(inputs)
    return tf.Variable(inputs, trainable=False)
