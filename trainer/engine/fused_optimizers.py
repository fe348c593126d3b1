"""Weight updates by TensorFlow's fused kernels, for the optimizers that they implement.

Keras updates a variable by a dozen operations, each of which reads and writes the whole tensor. In
a network of large dense layers that is most of the time of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer.runtime.keras_internals import adam_slots, rmsprop_slots

Update = Callable[[Sequence[tf.Tensor], Sequence[keras.Variable]], None]

# Options of Adam and RMSprop that the kernels do not implement.
_UNSUPPORTED = ("amsgrad", "momentum", "centered")


def make_update(optimizer: keras.Optimizer, variables: Sequence[keras.Variable]) -> Update:
    """Returns the update of an optimizer: fused where there is a kernel, otherwise Keras's.

    Args:
        optimizer: built. Adam and RMSprop without further options are fused.
        variables: the variables to update, some or all of those that it was built for.

    Returns:
        A function of gradients and variables that updates the variables.
    """
    if not _is_fusible(optimizer, variables):
        return _keras_update(optimizer)
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        _round_decay_rates(optimizer)
        return _keras_update(optimizer)  # It sums the gradients over the replicas.
    make = _make_adam if type(optimizer) is keras.optimizers.Adam else _make_rmsprop
    update = make(optimizer, variables)

    def apply(gradients: Sequence[tf.Tensor], trained: Sequence[keras.Variable]) -> None:
        if any(gradient is None for gradient in gradients):
            optimizer.apply(gradients, trained)  # Keras warns which variables have no gradient.
            return
        # The gradient of an embedding is a list of rows, in which a row may occur twice. Keras
        # squares each entry before it sums them, which is not Adam's second moment.
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        update(gradients, tf.cast(optimizer.learning_rate, tf.float32))
        optimizer.iterations.assign_add(1)

    return apply


def _is_fusible(optimizer: keras.Optimizer, variables: Sequence[keras.Variable]) -> bool:
    return (
        type(optimizer) in (keras.optimizers.Adam, keras.optimizers.RMSprop)
        and not optimizer.use_ema
        and optimizer.weight_decay is None
        and optimizer.clipnorm is optimizer.clipvalue is optimizer.global_clipnorm is None
        and optimizer.gradient_accumulation_steps is None
        and optimizer.loss_scale_factor is None
        and all(v.constraint is None and v.dtype == "float32" for v in variables)
        and all(v.overwrite_with_gradient is False for v in variables)
        and not any(getattr(optimizer, name, False) for name in _UNSUPPORTED)
    )


def _round_decay_rates(optimizer: keras.Optimizer) -> None:
    """Rounds decay rates to float32, so that several devices give the updates of one.

    The kernel computes 1 - beta_2 from the float32 value; Keras computes it from the float64 value
    that was given, which makes the first steps of Adam shorter by a factor of 6e-6.
    """
    for name in ("beta_1", "beta_2", "rho"):
        if hasattr(optimizer, name):
            setattr(optimizer, name, float(np.float32(getattr(optimizer, name))))


def _keras_update(optimizer: keras.Optimizer) -> Update:
    return lambda gradients, variables: optimizer.apply(gradients, variables)


def _make_adam(
    optimizer: keras.optimizers.Adam, variables: Sequence[keras.Variable]
) -> Callable[[Sequence[tf.Tensor], tf.Tensor], None]:
    beta_1, beta_2 = optimizer.beta_1, optimizer.beta_2
    momentums, velocities = adam_slots(optimizer, variables)

    def update(gradients: Sequence[tf.Tensor], learning_rate: tf.Tensor) -> None:
        step = tf.cast(optimizer.iterations.value + 1, tf.float32)
        slots = zip(variables, momentums, velocities, gradients, strict=True)
        for variable, momentum, velocity, gradient in slots:
            tf.raw_ops.ResourceApplyAdam(
                var=variable.value.handle,
                m=momentum.value.handle,
                v=velocity.value.handle,
                beta1_power=beta_1**step,
                beta2_power=beta_2**step,
                lr=learning_rate,
                beta1=beta_1,
                beta2=beta_2,
                epsilon=optimizer.epsilon,
                grad=gradient,
            )

    return update


def _make_rmsprop(
    optimizer: keras.optimizers.RMSprop, variables: Sequence[keras.Variable]
) -> Callable[[Sequence[tf.Tensor], tf.Tensor], None]:
    velocities = rmsprop_slots(optimizer, variables)
    # The kernel requires a momentum variable, and overwrites it at each step.
    unused = [tf.Variable(tf.zeros_like(variable.value), trainable=False) for variable in variables]

    def update(gradients: Sequence[tf.Tensor], learning_rate: tf.Tensor) -> None:
        slots = zip(variables, velocities, unused, gradients, strict=True)
        for variable, velocity, momentum, gradient in slots:
            tf.raw_ops.ResourceApplyRMSProp(
                var=variable.value.handle,
                ms=velocity.value.handle,
                mom=momentum.handle,
                lr=learning_rate,
                rho=optimizer.rho,
                momentum=0.0,
                epsilon=optimizer.epsilon,
                grad=gradient,
            )

    return update
