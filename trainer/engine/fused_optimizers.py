"""Weight updates by TensorFlow's fused kernels, where they compute what a Keras optimizer does.

Keras updates by a dozen operations a variable, each of which goes through memory once; for networks
with many weights and little else that is most of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

Update = Callable[[Sequence[tf.Tensor], Sequence[keras.Variable]], None]

# Settings of Adam and RMSprop that their kernels do not know.
_NOT_IN_KERNELS = ("amsgrad", "momentum", "centered")


def make_update(optimizer: keras.Optimizer, variables: Sequence[keras.Variable]) -> Update:
    """Returns the update of an optimizer that is built: fused if it can be, else its own.

    Args:
        optimizer: any; plain Adam and RMSprop are fused.
        variables: those it will update, of those that it was built for.
    """
    fused = {keras.optimizers.Adam: _adam, keras.optimizers.RMSprop: _rmsprop}.get(type(optimizer))
    plain = (
        not optimizer.use_ema
        and optimizer.weight_decay is None
        and optimizer.clipnorm is optimizer.clipvalue is optimizer.global_clipnorm is None
        and optimizer.gradient_accumulation_steps is None
        and optimizer.loss_scale_factor is None
        and all(v.constraint is None and v.dtype == "float32" for v in variables)
        and all(v.overwrite_with_gradient is False for v in variables)
        and not any(getattr(optimizer, name, False) for name in _NOT_IN_KERNELS)
    )
    if fused is None or not plain:
        return _own(optimizer)
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        _round_rates(optimizer)
        return _own(optimizer)  # It sums over the replicas.
    update = fused(optimizer, variables)

    def apply(gradients: Sequence[tf.Tensor], trained: Sequence[keras.Variable]) -> None:
        if any(gradient is None for gradient in gradients):
            optimizer.apply(gradients, trained)  # It says which variable has none.
            return
        # An embedding's is a list of rows, in which one may be repeated. Keras would square each
        # before it sums them, which is not Adam's second moment.
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        rate = tf.cast(optimizer._get_current_learning_rate(), tf.float32)
        update(gradients, rate)
        optimizer.iterations.assign_add(1)

    return apply


def _round_rates(optimizer: keras.Optimizer) -> None:
    """Lets a Keras optimizer compute what the kernel does, which one device has.

    The kernel subtracts beta_2 from 1 as the float32 that it is; Keras, as the double that was
    given, which makes Adam's first steps shorter by 6e-6 of them.
    """
    for name in ("beta_1", "beta_2", "rho"):
        if hasattr(optimizer, name):
            setattr(optimizer, name, float(np.float32(getattr(optimizer, name))))


def _own(optimizer: keras.Optimizer) -> Update:
    return lambda gradients, variables: optimizer.apply(gradients, variables)


def _adam(
    optimizer: keras.optimizers.Adam, variables: Sequence[keras.Variable]
) -> Callable[[Sequence[tf.Tensor], tf.Tensor], None]:
    beta_1, beta_2 = optimizer.beta_1, optimizer.beta_2
    places = [optimizer._get_variable_index(variable) for variable in variables]
    momentums = [optimizer._momentums[place] for place in places]
    velocities = [optimizer._velocities[place] for place in places]

    def update(gradients: Sequence[tf.Tensor], rate: tf.Tensor) -> None:
        step = tf.cast(optimizer.iterations.value + 1, tf.float32)
        slots = zip(variables, momentums, velocities, gradients, strict=True)
        for variable, momentum, velocity, gradient in slots:
            tf.raw_ops.ResourceApplyAdam(
                var=variable.value.handle,
                m=momentum.value.handle,
                v=velocity.value.handle,
                beta1_power=beta_1**step,
                beta2_power=beta_2**step,
                lr=rate,
                beta1=beta_1,
                beta2=beta_2,
                epsilon=optimizer.epsilon,
                grad=gradient,
            )

    return update


def _rmsprop(
    optimizer: keras.optimizers.RMSprop, variables: Sequence[keras.Variable]
) -> Callable[[Sequence[tf.Tensor], tf.Tensor], None]:
    places = [optimizer._get_variable_index(variable) for variable in variables]
    velocities = [optimizer._velocities[place] for place in places]
    # The kernel wants a place for momentum; with none it is overwritten at each step.
    unused = [tf.Variable(tf.zeros_like(variable.value), trainable=False) for variable in variables]

    def update(gradients: Sequence[tf.Tensor], rate: tf.Tensor) -> None:
        slots = zip(variables, velocities, unused, gradients, strict=True)
        for variable, velocity, momentum, gradient in slots:
            tf.raw_ops.ResourceApplyRMSProp(
                var=variable.value.handle,
                ms=velocity.value.handle,
                mom=momentum.handle,
                lr=rate,
                rho=optimizer.rho,
                momentum=0.0,
                epsilon=optimizer.epsilon,
                grad=gradient,
            )

    return update
