"""The training loop: many steps in one call, on the devices of a tf.distribute strategy.

Not Keras's `fit`: under MultiWorkerMirroredStrategy it fails (keras issue 20585), it crosses from
Python to the device at each step, and it cannot be resumed within an epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from trainer.datasets.dataset import Array, Split
from trainer.engine import precision as mixed
from trainer.engine import updates
from trainer.engine.features import Features
from trainer.engine.forward import training_pass
from trainer.engine.state import Progress, Row
from trainer.errors import DivergedError
from trainer.models.augmentation import Augmentation
from trainer.results.metrics import loss_accuracy

# A call of the compiled steps takes about this long: short enough for a progress bar, long enough
# that Python costs nothing.
_CALL_S = 0.2

# Takes the epoch, the number of the first step, indices of examples (steps, batch) and how many of
# each batch count (steps,), trains on them, and gives for each step the sum of losses and the count
# of right answers: float32 (steps, 2).
Steps = Callable[[int, int, Array, Array], tf.Tensor]


class Keeper:
    """What looks after a run between its steps; this one does nothing.

    Attributes:
        most_steps: a call of the compiled steps has at most so many; None for any number.
    """

    most_steps: int | None = None

    def restore(self) -> Progress:
        """Returns where the run stands, after it brought the variables back to there."""
        return Progress()

    def after_steps(self, progress: Progress, steps: int, *, epoch_end: bool = False) -> None:
        """Is told that so many steps were done, or that an epoch ended; may stop the run."""


def fit(
    model: keras.Model,
    train: Split,
    validation: Split | None,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    strategy: tf.distribute.Strategy,
    precision: str = "float32",
    label_smoothing: float = 0.0,
    augmentation: Augmentation | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    shown: keras.callbacks.Callback | None = None,
    keeper: Keeper | None = None,
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
        precision: what steps are computed in: "float32", "bfloat16" or "float16"; the last wants an
            optimizer that scales the loss.
        label_smoothing: part of each target that is spread over all classes.
        augmentation: changes training examples.
        callbacks: part of the run. If one of them listens to batches, a call has one step; else
            many steps run in a call.
        shown: shows what happens, and changes nothing; it is told of calls, not of batches.
        keeper: takes and restores snapshots.
        clock: seconds, rising.

    Returns:
        A row an epoch: epoch (from 1), loss, accuracy, val_loss and val_accuracy if there is a
        validation part, learning_rate, seconds, examples_per_second.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    features = Features(model)
    objective = _Objective(label_smoothing, augmentation, seed)
    run_steps = _compile(features, train, model.optimizer, objective, strategy, precision)
    held_out = None if validation is None else (features.of(validation), validation.labels)
    keeper = keeper or Keeper()
    most_steps = 1 if any(map(_listens_to_batches, callbacks)) else keeper.most_steps
    told = {"model": model, "epochs": epochs, "steps": math.ceil(len(train) / batch_size)}
    driven = keras.callbacks.CallbackList(list(callbacks), **told)
    display = keras.callbacks.CallbackList([shown] if shown else [], **told)
    model.stop_training = False
    driven.on_train_begin()
    progress = keeper.restore()
    while progress.epoch < epochs and not progress.stopped:
        epoch = progress.epoch
        if progress.step == 0:  # Else it was told before the snapshot that we come from.
            driven.on_epoch_begin(epoch)
        display.on_epoch_begin(epoch)
        indices, counts = batches(train.order(seed, epoch), batch_size, strategy)
        calls = _calls(run_steps, indices, counts, progress, clock, most_steps)
        driven.on_train_batch_begin(progress.step)
        for steps in calls:
            figures = _figures(progress, counts)
            driven.on_train_batch_end(progress.step - 1, figures)
            display.on_train_batch_end(progress.step - 1, figures)
            keeper.after_steps(progress, steps)
            if progress.step < len(counts):
                driven.on_train_batch_begin(progress.step)
        row = _figures(progress, counts)
        if held_out is not None:
            measured = loss_accuracy(features.predict(held_out[0]), held_out[1])
            row |= {f"val_{name}": value for name, value in measured.items()}
        row["learning_rate"] = _learning_rate(model)
        row["seconds"] = progress.seconds
        row["examples_per_second"] = len(train) / progress.seconds
        driven.on_epoch_end(epoch, row)
        display.on_epoch_end(epoch, row)
        progress.end_epoch({"epoch": epoch + 1, **row}, stopped=model.stop_training)
        keeper.after_steps(progress, 0, epoch_end=True)
    model.optimizer.finalize_variable_values(model.trainable_variables)  # Averages, if it has any.
    driven.on_train_end()
    return progress.history


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


def _calls(
    run_steps: Steps,
    indices: Array,
    counts: Array,
    progress: Progress,
    clock: Callable[[], float],
    most_steps: int | None,
) -> Iterator[int]:
    """Runs the rest of an epoch, some steps in a call; gives the number of steps after each."""
    size = 1
    while progress.step < len(counts):
        first, last = progress.step, min(progress.step + size, len(counts))
        started = clock()
        results = run_steps(progress.epoch, first, indices[first:last], counts[first:last]).numpy()
        seconds = clock() - started
        # Summed step by step, so that the result does not depend on how many steps a call has.
        for step, (loss_sum, correct) in enumerate(results, first):
            if not math.isfinite(loss_sum):
                raise DivergedError(
                    f"the loss became {loss_sum} in epoch {progress.epoch + 1}, step {step + 1}; "
                    "expected a finite number. Try a lower --learning-rate"
                )
            progress.loss_sum += float(loss_sum)
            progress.correct += float(correct)
        progress.step = last
        progress.seconds += seconds
        yield last - first
        size = max(1, min(2 * size, int((last - first) * _CALL_S / max(seconds, 1e-6))))
        size = min(size, most_steps or size)


def _figures(progress: Progress, counts: Array) -> Row:
    """Returns loss and accuracy over the examples of the epoch so far."""
    seen = int(counts[: progress.step].sum())
    return {"loss": progress.loss_sum / seen, "accuracy": progress.correct / seen}


def _listens_to_batches(callback: keras.callbacks.Callback) -> bool:
    hooks = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
    return any(
        getattr(type(callback), hook) is not getattr(keras.callbacks.Callback, hook)
        for hook in hooks
    )


@dataclass(frozen=True)
class _Objective:
    """What a step does with its examples, besides what the network does.

    Attributes:
        label_smoothing: as in `fit`.
        augmentation: as in `fit`.
        seed: of the augmentation.
    """

    label_smoothing: float
    augmentation: Augmentation | None
    seed: int

    def losses(self, labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
        """Returns the cross-entropy of each example: float32 (B,)."""
        # Keras takes this from the logits behind the softmax, so that it is exact near 0.
        if self.label_smoothing:
            targets = tf.one_hot(labels, probabilities.shape[-1])
            losses = keras.losses.categorical_crossentropy(
                targets, probabilities, label_smoothing=self.label_smoothing
            )
        else:
            losses = keras.losses.sparse_categorical_crossentropy(labels, probabilities)
        return tf.cast(losses, tf.float32)

    def augmented(
        self,
        examples: tf.Tensor,
        epoch: tf.Tensor,
        step: tf.Tensor,
        first: tf.Tensor,
        width: tf.Tensor,
    ) -> tf.Tensor:
        """Changes one replica's share, which starts at `first` of a batch of `width` examples."""
        if self.augmentation is None:
            return examples
        # For the whole batch, so that it does not depend on how many replicas share it.
        shape = [width, self.augmentation.numbers]
        key = tf.random.fold_in(tf.stack([self.seed, epoch]), step)
        uniform = tf.random.stateless_uniform(shape, key)
        return self.augmentation(examples, uniform[first : first + tf.shape(examples)[0]])


def _compile(
    features: Features,
    train: Split,
    optimizer: keras.Optimizer,
    objective: _Objective,
    strategy: tf.distribute.Strategy,
    precision: str,
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
        update = updates.of(optimizer, network.trainable_variables)
        forward = training_pass(network)

    def step(
        epoch: tf.Tensor, number: tf.Tensor, indices: tf.Tensor, count: tf.Tensor
    ) -> tf.Tensor:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        share = tf.shape(indices)[0] // replicas
        first = replica * share
        mine = indices[first : first + share]
        counts_here = tf.cast(tf.range(first, first + share) < count, tf.float32)  # (share,)
        x, y = tf.gather(examples, mine), tf.gather(labels, mine)
        x = objective.augmented(x, epoch, number, first, tf.shape(indices)[0])
        with tf.GradientTape() as tape:
            with mixed.lowered(network, precision):
                probabilities = forward(x)  # (share, classes)
            loss_sum = tf.reduce_sum(objective.losses(y, probabilities) * counts_here)
            loss = loss_sum / tf.cast(count, tf.float32)
            if network.losses:  # Penalties are on the weights, the same on each replica.
                loss += sum(tf.cast(each, tf.float32) for each in network.losses) / replicas
            loss = optimizer.scale_loss(loss)  # Gradients in float16 would round to 0.
        gradients = tape.gradient(loss, network.trainable_variables)
        update(gradients, network.trainable_variables)  # Summed over the replicas.
        # The greatest logit is as good, and leaves the softmax itself with nothing to do.
        scores = probabilities.op.inputs[0] if probabilities.op.type == "Softmax" else probabilities
        right = tf.equal(tf.argmax(scores, axis=-1, output_type=tf.int32), y)
        return tf.stack([loss_sum, tf.reduce_sum(tf.cast(right, tf.float32) * counts_here)])

    @tf.function(
        input_signature=[
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None], tf.int32),
        ],
        autograph=False,
    )
    def run_steps(
        epoch: tf.Tensor, first: tf.Tensor, indices: tf.Tensor, counts: tf.Tensor
    ) -> tf.Tensor:
        steps = tf.shape(counts)[0]

        def one(number: tf.Tensor, results: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            args = (epoch, first + number, indices[number], counts[number])
            result = strategy.run(step, args=args)
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
