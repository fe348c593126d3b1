"""The training loop: many steps in one call, on the devices of a tf.distribute strategy.

Not Keras's `fit`: under MultiWorkerMirroredStrategy it fails (keras issue 20585), it crosses from
Python to the device at each step, and it cannot be resumed within an epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.datasets.dataset import Array, Split
from trainer.engine.features import Features
from trainer.errors import DivergedError
from trainer.results.metrics import loss_accuracy

# A call of the compiled steps takes about this long: short enough for a progress bar, long enough
# that Python costs nothing.
_CALL_S = 0.2

# One epoch: epoch (from 1), loss, accuracy, val_loss and val_accuracy if there is a validation
# part, learning_rate, seconds, examples_per_second.
Row = dict[str, float]

# Takes indices of examples (steps, batch) and how many of each batch count (steps,), trains on
# them, and gives for each step the sum of losses and the number of right answers: float32
# (steps, 2).
Steps = Callable[[Array, Array], tf.Tensor]


def fit(
    model: keras.Model,
    train: Split,
    validation: Split | None,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    strategy: tf.distribute.Strategy,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> list[Row]:
    """Trains a compiled model, and drives Keras callbacks as `Model.fit` does.

    Args:
        model: from raw examples to probabilities, compiled within the scope of `strategy`.
        train: what it is fitted to.
        validation: what it is measured on after each epoch, if anything.
        epochs: passes over `train`; a callback may stop earlier.
        batch_size: examples a step over all replicas; the last step of an epoch takes the rest.
        seed: of the order of examples.
        strategy: the devices.
        callbacks: get `on_train_batch_*` once for many steps, as with Keras's steps_per_execution.
        clock: seconds, rising.

    Returns:
        A row an epoch.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    features = Features(model)
    run_steps = _compile(features, train, model.optimizer, strategy)
    held_out = None if validation is None else (features.of(validation), validation.labels)
    driven = keras.callbacks.CallbackList(
        list(callbacks), model=model, epochs=epochs, steps=math.ceil(len(train) / batch_size)
    )
    history: list[Row] = []
    model.stop_training = False
    driven.on_train_begin()
    for epoch in range(epochs):
        driven.on_epoch_begin(epoch)
        started = clock()
        order = train.order(seed, epoch)
        row = _run_epoch(run_steps, *batches(order, batch_size, strategy), driven, clock)
        seconds = clock() - started
        if not math.isfinite(row["loss"]):
            raise DivergedError(
                f"the loss became {row['loss']} in epoch {epoch + 1}; expected a finite number. "
                f"Try a lower --learning-rate than {_learning_rate(model):g}."
            )
        if held_out is not None:
            figures = loss_accuracy(features.predict(held_out[0]), held_out[1])
            row |= {f"val_{name}": value for name, value in figures.items()}
        row["learning_rate"] = _learning_rate(model)
        row["seconds"] = seconds
        row["examples_per_second"] = len(train) / seconds
        history.append({"epoch": epoch + 1, **row})
        driven.on_epoch_end(epoch, row)
        if model.stop_training:
            break
    driven.on_train_end()
    return history


def predict(model: keras.Model, split: Split) -> Array:
    """Returns the class probabilities of every example, once and in order: float32 (N, classes)."""
    features = Features(model)
    return features.predict(features.of(split))


def batches(order: Array, batch_size: int, strategy: tf.distribute.Strategy) -> tuple[Array, Array]:
    """Cuts an order of examples into steps.

    Returns:
        indices, int32 (steps, width): width is batch_size rounded up to a multiple of the replicas,
        and what is left over is filled with other examples, which do not count.
        counts, int32 (steps,): how many of each step do count; they come first.
    """
    replicas = strategy.num_replicas_in_sync
    steps, width = math.ceil(len(order) / batch_size), math.ceil(batch_size / replicas) * replicas
    starts = range(0, len(order), batch_size)
    indices = np.stack([np.resize(order[at : at + batch_size], width) for at in starts])
    counts = np.full(steps, batch_size, np.int32)
    counts[-1] = len(order) - (steps - 1) * batch_size
    return indices, counts


def _run_epoch(
    run_steps: Steps, indices: Array, counts: Array, driven: Any, clock: Callable[[], float]
) -> Row:
    """Runs the steps of one epoch; returns loss and accuracy over its examples."""
    step, size = 0, 1
    loss_sum = correct = 0.0
    while step < len(counts):
        end = min(step + size, len(counts))
        driven.on_train_batch_begin(step)
        started = clock()
        # Summed step by step, so that the result does not depend on how many steps a call has.
        for step_loss, step_correct in run_steps(indices[step:end], counts[step:end]).numpy():
            loss_sum += float(step_loss)
            correct += float(step_correct)
        seconds = clock() - started
        seen = int(counts[:end].sum())
        row = {"loss": loss_sum / seen, "accuracy": correct / seen}
        driven.on_train_batch_end(end - 1, row)
        size = max(1, min(2 * size, int((end - step) * _CALL_S / max(seconds, 1e-6))))
        step = end
    return row


def _compile(
    features: Features,
    train: Split,
    optimizer: keras.Optimizer,
    strategy: tf.distribute.Strategy,
) -> Steps:
    """Puts the data on the devices, and compiles the steps over it."""
    network = features.network
    inputs = features.of(train)
    with strategy.scope():
        # A variable is on each device of the strategy; texts have no place but the host.
        place = tf.constant if inputs.dtype == object else _on_devices
        examples, labels = place(inputs), _on_devices(train.labels)
    replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        optimizer.build(network.trainable_variables)

    def step(indices: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        share = tf.shape(indices)[0] // replicas
        first = replica * share
        mine = indices[first : first + share]
        counts_here = tf.cast(tf.range(first, first + share) < count, tf.float32)  # (share,)
        x, y = tf.gather(examples, mine), tf.gather(labels, mine)
        with tf.GradientTape() as tape:
            probabilities = network(x, training=True)  # (share, classes)
            # Keras takes this from the logits behind the softmax, so that it is exact near 0.
            losses = keras.losses.sparse_categorical_crossentropy(y, probabilities)
            loss_sum = tf.reduce_sum(tf.cast(losses, tf.float32) * counts_here)
            loss = loss_sum / tf.cast(count, tf.float32)
            if network.losses:  # Penalties are on the weights, the same on each replica.
                loss += tf.add_n(network.losses) / replicas
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)  # Summed over the replicas.
        right = tf.equal(tf.argmax(probabilities, axis=-1, output_type=tf.int32), y)
        return tf.stack([loss_sum, tf.reduce_sum(tf.cast(right, tf.float32) * counts_here)])

    @tf.function(
        input_signature=[tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)],
        autograph=False,
    )
    def run_steps(indices: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
        steps = tf.shape(counts)[0]

        def one(number: tf.Tensor, results: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            result = strategy.run(step, args=(indices[number], counts[number]))
            return number + 1, results.write(number, strategy.reduce("SUM", result, axis=None))

        empty = tf.TensorArray(tf.float32, steps, element_shape=(2,))
        _, results = tf.while_loop(
            lambda number, _: number < steps, one, (0, empty), parallel_iterations=1
        )
        return results.stack()

    steps: Steps = run_steps
    return steps


def _learning_rate(model: keras.Model) -> float:
    # A schedule gives a tensor, and several devices a variable that is no number to Python.
    return float(tf.convert_to_tensor(model.optimizer.learning_rate))


def _on_devices(values: Array) -> tf.Variable:
    return tf.Variable(values, trainable=False)
